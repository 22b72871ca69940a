"""Hands out processors and remembers it on disk: `cpu_manager_state`, in the kubelet's shape.

    {"policyName": "static", "defaultCpuSet": "0,3", "entries": {"<pod uid>": {"main": "1-2"}}}

With the policy `static` a container that may have processors of its own gets them when its pod is admitted and keeps
them while the pod is there, also over restarts of the container and of the agent. All others share what is left,
`shared`; whoever is told by `changed` gives running containers their new set. With the policy `none` nobody is
confined. A file of another policy, or one that names processors which the machine has not, is refused at the start, as
by the kubelet: it tells how containers run now.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from agent.cpus.assign import NotEnoughCpus, exclusive_cpus, reserve, take
from agent.cpus.topology import Topology, format_cpus, parse_cpus
from agent.pods.resources import is_sidecar
from pyk.api.objects import Object, uid_of

STATE_FILE = "cpu_manager_state"
POLICIES = ("none", "static")

Entries = Mapping[str, Mapping[str, frozenset[int]]]


class BadState(Exception):
    """The state on disk cannot be gone on with; the text says why, and what to do."""


class CpuManager:
    """The processors of one node. `changed` is called when `shared` has become another set."""

    def __init__(self, file: Path, policy: str, topology: Topology, reserved: frozenset[int]) -> None:
        self._file = file
        self._policy = policy
        self._topology = topology
        self._reserved = reserved
        self._entries: dict[str, dict[str, frozenset[int]]] = {}
        self.changed: Callable[[], None] = lambda: None

    @staticmethod
    def idle() -> CpuManager:
        """One that confines nobody and remembers nothing."""
        return CpuManager(Path(os.devnull), "none", {}, frozenset())

    @staticmethod
    def open(
        state_dir: Path, policy: str, topology: Topology, named: Iterable[int], reserved_millicores: int
    ) -> CpuManager:
        """The manager with what its file says. Raises `BadState` or ValueError (nothing reserved), OSError."""
        is_static = policy == "static"
        reserved = reserve(topology, named, reserved_millicores) if is_static else frozenset()
        manager = CpuManager(state_dir / STATE_FILE, policy, topology, reserved)
        manager._load()
        return manager

    @property
    def is_static(self) -> bool:
        return self._policy == "static"

    @property
    def shared(self) -> frozenset[int]:
        """The processors of all who have none of their own."""
        taken = {cpu for containers in self._entries.values() for cpus in containers.values() for cpu in cpus}
        return frozenset(self._topology.keys() - taken)

    def cpus_of(self, uid: str, container: str) -> str:
        """The processors on which a container runs, as text; empty where it is not confined."""
        if not self.is_static:
            return ""
        return format_cpus(self._entries.get(uid, {}).get(container, self.shared))

    def has_own(self, uid: str, container: str) -> bool:
        """Whether a container has processors of its own."""
        return container in self._entries.get(uid, {})

    def allocate(self, pod: Object) -> None:
        """Give the pod's containers what they may have; nothing where they have it. Raises `NotEnoughCpus`, OSError;
        then nothing has changed."""
        if not self.is_static or uid_of(pod) in self._entries:
            return
        given = self._allocation(pod)
        if given:
            self._entries[uid_of(pod)] = given
            self._save_or_undo(uid_of(pod))

    def release(self, uid: str) -> None:
        """Take a pod's processors back. Raises OSError."""
        if self._entries.pop(uid, None) is not None:
            self._save()
            self.changed()

    def keep_only(self, uids: Iterable[str]) -> None:
        """Take back those of pods that are gone. Raises OSError."""
        for uid in self._entries.keys() - set(uids):
            self.release(uid)

    def _allocation(self, pod: Object) -> dict[str, frozenset[int]]:
        """By container. Init containers that end before the others begin lend theirs to them."""
        free = self.shared - self._reserved
        given: dict[str, frozenset[int]] = {}
        lent: frozenset[int] = frozenset()
        spec = pod["spec"]
        for container in [*(spec.get("initContainers") or ()), *spec["containers"]]:
            count = exclusive_cpus(pod, container)
            if not count:
                continue
            cpus = take(self._topology, lent, min(count, len(lent)))
            cpus |= take(self._topology, free - cpus, count - len(cpus)) if count > len(cpus) else frozenset()
            given[container["name"]] = cpus
            free -= cpus
            ends_first = container in (spec.get("initContainers") or ()) and not is_sidecar(container)
            lent = lent | cpus if ends_first else lent - cpus
        return given

    def _save_or_undo(self, uid: str) -> None:
        try:
            self._save()
        except OSError:
            del self._entries[uid]
            raise
        self.changed()

    def _save(self) -> None:
        document = {
            "policyName": self._policy,
            "defaultCpuSet": format_cpus(self.shared) if self.is_static else "",
            "entries": {
                uid: {name: format_cpus(cpus) for name, cpus in containers.items()}
                for uid, containers in self._entries.items()
            },
        }
        new = self._file.with_name(self._file.name + ".new")
        with new.open("w") as file:
            json.dump(document, file, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, self._file)

    def _load(self) -> None:
        advice = f"drain the node, remove {self._file} and start the agent again"
        try:
            document = json.loads(self._file.read_bytes())
            policy, entries = document["policyName"], document["entries"]
            self._entries = {
                uid: {name: parse_cpus(text) for name, text in containers.items()}
                for uid, containers in entries.items()
            }
        except FileNotFoundError:
            if self.is_static:
                self._save()
            return
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadState(f"{self._file} cannot be read ({error!r}): {advice}") from None
        if policy != self._policy:
            raise BadState(f'{self._file} is of the cpu manager policy "{policy}", not of "{self._policy}": {advice}')
        taken = {cpu for containers in self._entries.values() for cpus in containers.values() for cpu in cpus}
        if unknown := taken - self._topology.keys():
            raise BadState(f"{self._file} names cpu {min(unknown)}, which the machine has not: {advice}")


__all__ = ["BadState", "CpuManager", "NotEnoughCpus"]
