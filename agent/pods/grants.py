"""What the node grants: whether it takes a pod at all, and which resources a pod that it has taken may use.

The node's room is a running total of what its pods request; where that says no it is counted anew from what really
runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.cpus.assign import NotEnoughCpus
from agent.eviction.ranking import refusal
from agent.pods.admission import Rejection, Room, admit, admit_ports
from agent.pods.admission_security import KernelFacts, admit_security
from agent.pods.downward import shows_itself
from agent.pods.evicted import EVICTED
from agent.pods.parts import Parts
from agent.pods.record import PodRecord
from agent.pods.resize import (
    DEFERRED,
    INFEASIBLE,
    Pending,
    allocated_by_status,
    is_same,
    is_under_way,
    judge,
    resources_of,
    with_resources,
)
from agent.pods.resources import pod_limits
from agent.pods.restart import all_containers
from agent.pods.status import is_terminal
from agent.runtime import apparmor
from pyk.api.objects import Object, is_deleting


class Grants:
    """The grants of one node; `records` are all of its pods."""

    def __init__(self, records: Mapping[str, PodRecord], parts: Parts) -> None:
        self._records = records
        self._parts = parts
        self._room = Room()

    def look_at(self, record: PodRecord) -> None:
        """Admit a new pod or reject it, and grant one that was admitted what it asks for now if there is room."""
        if not record.is_admitted:
            self._admit(record)
        if record.rejection is None:
            self._size(record)
            self._room.add(record.uid, record.requests())

    def forget(self, uid: str) -> None:
        """The pod takes no room any more."""
        self._room.remove(uid)

    def deferred(self) -> Iterator[str]:
        """The pods whose resize waits for room."""
        for record in self._records.values():
            if record.pending_resize is not None and record.pending_resize.reason == DEFERRED:
                yield record.uid

    def _admit(self, record: PodRecord) -> None:
        """Decide once whether the node takes the pod. What it has taken before, it keeps."""
        pod, node = record.pod, self._parts.node()
        record.is_admitted = True
        was_accepted = bool((pod.get("status") or {}).get("startTime"))
        if was_accepted or is_deleting(pod) or is_terminal(pod) or node is None:
            return
        record.rejection = self._refusal(record, node)
        if record.rejection is not None:
            self._parts.event(record, "Warning", record.rejection.reason, record.rejection.why)

    def _refusal(self, record: PodRecord, node: Object) -> Rejection | None:
        """Why the node does not take a new pod; None when it does, and then it has the processors that it may have."""
        pod = record.pod
        if (refused := refusal(pod, self._parts.pressures())) is not None:
            return Rejection(EVICTED, refused)
        if (rejection := admit_security(pod, self._kernel_facts())) is not None:
            return rejection
        # The room of those that have ended is counted as well: where that says no, look closely.
        rejection = admit(pod, node, self._room)
        if rejection is not None and (rejection := admit(pod, node, self._room_beside(record))) is not None:
            return rejection
        if (rejection := admit_ports(pod, (other.pod for other in self._beside(record)))) is not None:
            return rejection
        try:
            self._parts.cpus.allocate(pod)
        except (NotEnoughCpus, OSError) as error:
            text = f"Allocate failed due to {error}, which is unexpected"
            return Rejection("UnexpectedAdmissionError", text)
        return None

    def _kernel_facts(self) -> KernelFacts:
        settings = self._parts.settings
        has_apparmor = bool(settings.default_apparmor)
        profiles = apparmor.loaded_profiles() if has_apparmor else frozenset()
        return KernelFacts(settings.allowed_unsafe_sysctls, has_apparmor, profiles)

    def _size(self, record: PodRecord) -> None:
        """Grant the pod the resources that it asks for now, if there is room; until then it has what it had."""
        generation = int(record.pod["metadata"].get("generation") or 0)
        wanted = record.pod
        if record.resize_begun and not is_under_way(wanted, record.observe().containers, record.actual):
            record.resize_begun = False
            self._parts.event(record, "Normal", "ResizeCompleted", f"Pod resize completed: generation {generation}")
        if record.allocated is None:  # a status in the API means that it was taken before
            had = (wanted.get("status") or {}).get("startTime")
            record.allocate(allocated_by_status(wanted) if had else resources_of(wanted))
            granted = with_resources(wanted, record.allocated or {})
            record.actual_pod, record.cgroup_limits = granted["spec"].get("resources") or {}, pod_limits(granted)
        elif generation == record.sized_generation and record.pending_resize is None:
            return
        assert record.allocated is not None
        asked = resources_of(wanted)
        pending = None
        if not is_same(asked, record.allocated):
            pending = self._fixed_by_cpus(record) or judge(wanted, self._parts.node(), self._room_beside(record))
            if pending is None:
                record.allocate(asked)
                self._room.remove(record.uid)
                record.resize_begun = True
                record.volumes_stale = record.volumes is not None and shows_itself(wanted)
                self._parts.event(record, "Normal", "ResizeStarted", f"Pod resize started: generation {generation}")
        if pending is not None and pending != record.pending_resize:
            kind = "ResizeInfeasible" if pending.reason == INFEASIBLE else "ResizeDeferred"
            self._parts.event(record, "Warning", kind, f"Pod resize {pending.reason}: {pending.message}")
        record.pending_resize, record.sized_generation = pending, generation
        if pending is not None:
            record.pod = with_resources(wanted, record.allocated)

    def _fixed_by_cpus(self, record: PodRecord) -> Pending | None:
        """Processors of its own are given to a pod once, for its life."""
        names = [container["name"] for container in all_containers(record.pod)]
        if not any(self._parts.cpus.has_own(record.uid, name) for name in names):
            return None
        return Pending(INFEASIBLE, "Resize is infeasible for Guaranteed Pods alongside CPU Manager static policy")

    def _room_beside(self, record: PodRecord) -> Room:
        return Room({other.uid: other.requests() for other in self._beside(record)})

    def _beside(self, record: PodRecord) -> Iterator[PodRecord]:
        """The other pods that this node has taken and that may still run something."""
        for one in self._records.values():
            if one is not record and one.is_admitted and one.rejection is None and one.takes_room:
                yield one
