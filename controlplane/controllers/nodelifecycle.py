"""The node lifecycle loop: notice nodes that fall silent or say that they are not well, and taint them.

Watches Nodes, the Leases of `kube-node-lease` and Pods. Each renewal of a node's Lease (or a new heartbeat in its
status) is noted by this process's own monotonic clock; what the node's clock says does not matter. A node that is
silent for the grace period becomes Ready=Unknown, gets the taints `node.kubernetes.io/unreachable`, and its pods are no
longer ready. A node that says Ready=False gets `not-ready`, a cordoned one `unschedulable`. Taints go when their cause
goes.

A silence counts only if it is the node's. It is counted from the last moment at which this process had trouble hearing
the API server; it must be confirmed by a live read, twice, a moment apart; and while all nodes are silent at once
(`zones`) nothing is evicted. NoExecute taints, which evict, are given to one node in ten seconds at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.controllers.conditions import Conditions, find, with_condition
from controlplane.controllers.nodetaints import evicting_key, is_evicting, readiness, taints_of, wanted_taints
from controlplane.controllers.pods import is_ready
from controlplane.controllers.zones import (
    REDUCED_EVICTIONS_PER_SECOND,
    evictions_per_second,
    is_total,
    zone_of,
    zones_of,
)
from pyk.api.kinds import LEASE, NODE, POD
from pyk.api.objects import Object, condition_of, name_of, namespace_of, uid_of
from pyk.api.status import ApiError
from pyk.client.client import STRATEGIC_MERGE_PATCH, Client, ClientUnavailable
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Emit, Patch, UpdateStatus, apply
from pyk.reconcile.clock import Clock, timestamp
from pyk.reconcile.controller import Controller, Result

LEASE_NAMESPACE = "kube-node-lease"
STARTUP_GRACE_SECONDS = 60.0
"""Patience with a node that has never said anything."""
CONFIRMATION_SECONDS = 1.0
SLOW_ANSWER_SECONDS = 1.0

_CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


@dataclass(frozen=True, slots=True)
class Observed:
    """A node, whether it is silent beyond doubt, whether it may be evicted, its pods, and the time."""

    node: Object
    is_silent: bool
    may_evict: bool
    pods: Sequence[Object]
    now: float


def decide(observed: Observed) -> list[Action]:
    """The conditions of a silent node first, then the taints that its conditions call for, then its pods' readiness."""
    node = observed.node
    if observed.is_silent and (actions := _fall_silent(observed)):
        return actions
    actions = []
    taints = wanted_taints(node, observed.now, may_evict=observed.may_evict)
    if taints != taints_of(node):
        metadata = {"uid": uid_of(node), "resourceVersion": node["metadata"]["resourceVersion"]}
        actions.append(Patch(NODE, "", name_of(node), {"metadata": metadata, "spec": {"taints": taints or None}}))
    if readiness(node) == "Unknown":
        for pod in observed.pods:
            if is_ready(pod):
                actions += _unready(pod, observed.now)
    return actions


def _fall_silent(observed: Observed) -> list[Action]:
    node = observed.node
    status = node.get("status") or {}
    before: Conditions = list(status.get("conditions") or [])
    after = before
    for kind in _CONDITIONS:
        known = find(before, kind)
        if known is not None and known["status"] == "Unknown":
            continue
        moment = timestamp(observed.now)
        note: dict[str, Any] = {
            "type": kind,
            "status": "Unknown",
            "reason": "NodeStatusUnknown" if known else "NodeStatusNeverUpdated",
            "message": "Kubelet stopped posting node status." if known else "Kubelet never posted node status.",
            "lastTransitionTime": moment,
            "lastHeartbeatTime": (known or {}).get("lastHeartbeatTime") or node["metadata"].get("creationTimestamp"),
        }
        after = with_condition(after, note)
    if after == before:
        return []
    actions: list[Action] = [UpdateStatus({**node, "status": {**status, "conditions": after}})]
    if readiness(node) != "Unknown":
        text = f"Node {name_of(node)} status is now: NodeNotReady"
        actions.append(Emit(node, "Normal", "NodeNotReady", text))
    return actions


def _unready(pod: Object, now: float) -> list[Action]:
    condition = {"type": "Ready", "status": "False", "lastTransitionTime": timestamp(now)}
    patch = {"metadata": {"uid": uid_of(pod)}, "status": {"conditions": [condition]}}
    return [
        Patch(POD, namespace_of(pod), name_of(pod), patch, STRATEGIC_MERGE_PATCH, subresource="status"),
        Emit(pod, "Warning", "NodeNotReady", "Node is not ready"),
    ]


@dataclass(slots=True)
class _Heard:
    """The last sign of life: what it said, and when it arrived, in monotonic seconds."""

    renewed: str
    heartbeat: str
    at: float
    suspected: bool = False


class NodeLifecycleLoop:
    """Listens for signs of life, doubts what it does not hear, and carries the decisions out."""

    def __init__(
        self,
        client: Client,
        recorder: EventRecorder,
        clock: Clock,
        nodes: Informer,
        leases: Informer,
        pods: Informer,
        *,
        grace_seconds: float,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._nodes = nodes
        self._leases = leases
        self._pods = pods
        self._grace = grace_seconds
        self._heard: dict[str, _Heard] = {}
        self._not_ready: set[str] = set()
        self._trouble = clock.monotonic()
        self._next_eviction: dict[str, float] = {}
        self._was_total = False
        self.controller = Controller("nodelifecycle", self.reconcile, clock=clock, max_delay=5.0)
        self.controller.watches(nodes)
        nodes.add_handler(self._on_node)
        leases.add_handler(self._on_lease)

    def _on_node(self, old: Object | None, new: Object | None) -> None:
        if old is not None:
            self._not_ready.discard(name_of(old))
        if new is not None and evicting_key(new) is not None:
            self._not_ready.add(name_of(new))
        if new is None or old is None or readiness(old) != readiness(new):
            # The number of lost nodes changes: those that are lost may now be evicted, or no longer.
            for name in self._not_ready:
                self.controller.enqueue(name)
        if new is None:
            if old is not None:
                self._heard.pop(name_of(old), None)
            return
        if old is None:
            text = f"Node {name_of(new)} event: Registered Node {name_of(new)} in Controller"
            self._recorder.event(new, "Normal", "RegisteredNode", text)
        self._hear(name_of(new), heartbeat=(condition_of(new, "Ready") or {}).get("lastHeartbeatTime"))

    def _on_lease(self, old: Object | None, new: Object | None) -> None:
        if new is not None and namespace_of(new) == LEASE_NAMESPACE:
            self._hear(name_of(new), renewed=(new.get("spec") or {}).get("renewTime"))

    def _hear(self, name: str, *, renewed: str | None = None, heartbeat: str | None = None) -> None:
        """Note a sign of life, if it is a new one."""
        heard = self._heard.setdefault(name, _Heard("", "", self._clock.monotonic()))
        if (renewed or heard.renewed, heartbeat or heard.heartbeat) != (heard.renewed, heard.heartbeat):
            heard.renewed = renewed or heard.renewed
            heard.heartbeat = heartbeat or heard.heartbeat
            heard.at = self._clock.monotonic()
            heard.suspected = False

    async def reconcile(self, key: str) -> Result | None:
        """Judge one node."""
        node = self._nodes.get(key)
        if node is None:
            return None
        left = self._seconds_left(node)
        if left > 0 and (heard := self._heard.get(key)) is not None:
            heard.suspected = False
        is_silent = left <= 0 and (readiness(node) == "Unknown" or await self._is_confirmed(key))
        if left <= 0 and not is_silent:
            return Result(CONFIRMATION_SECONDS)
        begins = self._eviction_begins(node) if evicting_key(node) is not None else None
        may_evict = begins is not None and begins <= self._clock.monotonic()
        observed = Observed(node, is_silent, may_evict, self._pods.by_index("node", key), self._clock.time())
        await apply(self._client, self._recorder, decide(observed))
        if may_evict and not is_evicting(node):
            rate = max(self._rates().get(zone_of(node), 0.0), REDUCED_EVICTIONS_PER_SECOND)
            self._next_eviction[zone_of(node)] = self._clock.monotonic() + 1 / rate
        waits = [left] if left > 0 else []
        if begins is not None and not may_evict:
            waits.append(begins - self._clock.monotonic())
        return Result(min(waits, default=None))

    def _seconds_left(self, node: Object) -> float:
        """Until the node's silence counts as its own; not positive when it does."""
        grace = self._grace if readiness(node) is not None else max(self._grace, STARTUP_GRACE_SECONDS)
        return grace - self._silence(node)

    def _silence(self, node: Object) -> float:
        trouble = max(self._trouble, self._nodes.last_trouble, self._leases.last_trouble)
        heard = self._heard.get(name_of(node))
        return self._clock.monotonic() - max(trouble, heard.at if heard is not None else trouble)

    async def _is_confirmed(self, name: str) -> bool:
        """Ask the server itself; True at the second time that it answers at once and has nothing new from the node."""
        asked = self._clock.monotonic()
        try:
            lease = await self._live_lease(name)
            live = await self._client.get(NODE, name)
        except (ClientUnavailable, ApiError):
            self._trouble = self._clock.monotonic()
            raise
        if self._clock.monotonic() - asked > SLOW_ANSWER_SECONDS:
            self._trouble = self._clock.monotonic()
            return False
        heard = self._heard.setdefault(name, _Heard("", "", asked))
        before = heard.at
        self._hear(
            name,
            renewed=((lease or {}).get("spec") or {}).get("renewTime"),
            heartbeat=(condition_of(live, "Ready") or {}).get("lastHeartbeatTime"),
        )
        if heard.at != before:
            return False
        was_suspected, heard.suspected = heard.suspected, True
        return was_suspected

    async def _live_lease(self, name: str) -> Object | None:
        try:
            return await self._client.get(LEASE, name, LEASE_NAMESPACE)
        except ApiError as error:
            if error.code != 404:
                raise
            return None

    def _rates(self) -> dict[str, float]:
        """How many nodes of each zone may begin to be evicted each second, given how many are lost."""
        lost = [(node, self._is_lost(node)) for node in self._nodes.values()]
        zones = zones_of(lost)
        total = is_total(zones)
        if self._was_total and not total:
            # The nodes that are still silent get the time that the first one to return had.
            self._next_eviction = dict.fromkeys(zones, self._clock.monotonic() + self._grace)
        self._was_total = total
        return {name: evictions_per_second(zone, total=total) for name, zone in zones.items()}

    def _is_lost(self, node: Object) -> bool:
        """Whether the node is not ready, or silent for so long that it may well be."""
        if readiness(node) == "True":
            return self._silence(node) > self._grace / 2
        return readiness(node) is not None

    def _eviction_begins(self, node: Object) -> float | None:
        """When the node may bear a NoExecute taint, in monotonic seconds; None: not before other nodes change."""
        rate = self._rates()[zone_of(node)]
        now = self._clock.monotonic()
        if self._was_total or (rate == 0 and not is_evicting(node)):
            # Nodes that only seem lost are well again, or known to be lost, a grace period from now.
            unsure = any(readiness(each) == "True" and self._is_lost(each) for each in self._nodes.values())
            return now + self._grace if unsure else None
        return now if is_evicting(node) else self._next_eviction.get(zone_of(node), now)
