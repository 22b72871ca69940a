"""The eviction loop's hands on the pods of the node: what runs, what is to end, what is left of dead containers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.pods.evicted import EVICTED, Eviction
from agent.pods.launch import log_directory
from agent.pods.observed import CONTAINER_NAME
from agent.pods.parts import Parts
from agent.pods.record import PodRecord
from agent.pods.resources import pod_cgroup
from agent.pods.status import is_terminal
from agent.pods.stopping import Stopper
from agent.runtime.contract import ContainerState, Phase
from pyk.api.objects import Object


@dataclass(frozen=True, slots=True)
class ActivePod:
    """A pod with a sandbox: its control group, its files and logs, and by name the ids of its latest containers and the
    states of those that run. `pid` is its pause process; `volumes` are where its volumes are."""

    uid: str
    pod: Object
    cgroup: str
    directory: Path
    logs: Path
    containers: Mapping[str, str]
    pid: int = 0
    running: Mapping[str, ContainerState] = field(default_factory=dict)
    volumes: Mapping[str, Path] = field(default_factory=dict)


class Evictor:
    """Works on `records`, all pods of the node. `enqueue(uid)` has one decided upon again."""

    def __init__(self, records: Mapping[str, PodRecord], parts: Parts, enqueue: Callable[[str], None]) -> None:
        self._records = records
        self._parts = parts
        self._enqueue = enqueue
        self._stopper = Stopper(parts)

    def active(self) -> list[ActivePod]:
        """The pods that use something and are not ending for good already."""
        return [self._active(record) for record in self._records.values() if _is_active(record)]

    def evict(self, uid: str, eviction: Eviction) -> None:
        """End a pod. Nothing happens when it is gone or being ended already."""
        record = self._records.get(uid)
        if record is None or not _is_active(record):
            return
        record.eviction = eviction
        self._parts.event(record, "Warning", EVICTED, eviction.message)
        self._enqueue(uid)

    def has_ended(self, uid: str) -> bool:
        """Whether nothing of the pod runs any more."""
        record = self._records.get(uid)
        return record is None or all(state.phase is Phase.EXITED for state in record.states.values())

    async def collect_dead(self) -> int:
        """Remove the containers that were started anew since, with their logs; how many. Raises `RuntimeFailure`."""
        count = 0
        for record in list(self._records.values()):
            names = {state.labels.get(CONTAINER_NAME, "") for state in record.states.values()}
            for name in names:
                for state in record.attempts(name)[:-1]:
                    if state.phase is Phase.EXITED:
                        await self._stopper.remove_container(record, state.id)
                        count += 1
        return count

    def _active(self, record: PodRecord) -> ActivePod:
        settings, pod = self._parts.settings, record.pod
        latest = record.latest()
        return ActivePod(
            uid=record.uid,
            pod=pod,
            cgroup=pod_cgroup(settings.cgroup_root, pod),
            directory=self._parts.volumes.pod_directory(record.uid),
            logs=log_directory(settings, pod),
            containers={name: state.id for name, state in latest.items()},
            pid=record.sandbox.pid if record.sandbox is not None else 0,
            running={name: state for name, state in latest.items() if state.phase is Phase.RUNNING},
            volumes=dict(record.volumes or {}),
        )


def _is_active(record: PodRecord) -> bool:
    if record.gone or record.eviction is not None or record.rejection is not None or is_terminal(record.pod):
        return False
    return record.sandbox is not None
