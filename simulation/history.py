"""What has been: the objects in the store, and of their past what the rules need to be just.

A loop decides on what its cache shows, which is late; a rule that held it to the present moment would ask for more than
any control plane promises. So the rules ask what may have been seen: specs and readiness within the last `staleness`
seconds, which the faults of the run bound (`Staleness`). In fair weather that is a few seconds.
"""

from __future__ import annotations

import contextvars
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.apiserver.encoding import decode
from controlplane.store.contract import Event
from pyk.api.kinds import TABLE, Kind
from pyk.api.objects import (
    Object,
    condition_of,
    controller_of,
    is_condition_true,
    is_deleting,
    key_of,
    namespace_of,
    uid_of,
)
from simulation.weather import CLOCK_JUMPS, COMPONENT_DIES, CONTROLLERS, CUT, SERVER_DIES, Fault

FAIR_SECONDS = 4.0
"""How far behind a loop may be when nothing is wrong: its own time, retries after conflicts, held-back statuses."""
RECOVERY_SECONDS = 15.0
"""How long after a fault's end something of it may still linger: a back-off, a list."""

cause: contextvars.ContextVar[tuple[str, str, str]] = contextvars.ContextVar("cause", default=("apiserver", "", ""))
"""Who asked for what is being written now: the client, the method and the path."""

_KINDS = {kind.storage_prefix: kind for kind in TABLE if kind.is_stored}


class Staleness:
    """How old what a loop sees may be, from the faults alone."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._faults = [fault for fault in faults if fault.target in ("", CONTROLLERS) or fault.kind == SERVER_DIES]
        self._starts = sorted(fault.at for fault in self._faults)

    def at(self, now: float) -> float:
        """Seconds."""
        count = bisect_right(self._starts, now)
        if not count:
            return FAIR_SECONDS
        total = FAIR_SECONDS
        for fault in self._faults:
            if fault.at <= now <= fault.ends + RECOVERY_SECONDS:
                total += RECOVERY_SECONDS
                if fault.kind in ("errors", "expired watches", "lost answers", CUT, SERVER_DIES, COMPONENT_DIES):
                    total += fault.seconds
                elif fault.kind in ("late events", "slow requests"):
                    total += 4 * fault.amount
                elif fault.kind == CLOCK_JUMPS:
                    total += abs(fault.amount)
        return total


@dataclass(slots=True)
class Readiness:
    """Since when a pod is ready, and when it last was; None while it never was."""

    since: float | None = None
    until: float | None = None

    def may_seem_available(self, now: float, staleness: float, min_ready: float) -> bool:
        """Whether it was available at some moment that a loop may still see as the present."""
        if self.since is not None:
            return self.since + min_ready <= now + staleness
        return self.until is not None and self.until >= now - staleness


@dataclass(frozen=True, slots=True)
class Step:
    """One write: when (seconds of the run), who asked for it how, and what it did to which object."""

    at: float
    who: str
    method: str
    path: str
    kind: Kind
    key: str
    old: Object | None
    new: Object | None
    revision: int

    @property
    def obj(self) -> Object:
        found = self.new or self.old
        assert found is not None
        return found

    @property
    def begins_deletion(self) -> bool:
        """Whether the object was to stay before, and is not after it."""
        if self.old is None or is_deleting(self.old):
            return False
        return self.new is None or is_deleting(self.new)

    def __str__(self) -> str:
        what = "creates" if self.old is None else "removes" if self.new is None else "changes"
        subresource = self.path.rpartition("/")[2]
        by = f" ({subresource})" if subresource in ("status", "binding", "eviction", "scale", "finalize") else ""
        return f"{what} {self.kind.singular} {self.key}{by} {_summary(self.kind, self.new)}".rstrip()


def _summary(kind: Kind, obj: Object | None) -> str:
    """What of an object one wants to read in a log."""
    if obj is None:
        return ""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    found: list[str] = []
    if kind.kind == "Pod":
        found.append(f"node={spec.get('nodeName') or '-'} {status.get('phase') or '-'}")
        found.append("ready" if is_condition_true(obj, "Ready") else "unready")
    elif "replicas" in spec:
        found.append(f"replicas={spec['replicas']} ready={status.get('readyReplicas') or 0}")
    elif kind.kind == "Job":
        found.append(" ".join(f"{word}={status.get(word) or 0}" for word in ("active", "succeeded", "failed")))
    elif kind.kind == "PodDisruptionBudget":
        found.append(f"healthy={status.get('currentHealthy')} allowed={status.get('disruptionsAllowed')}")
    elif kind.kind == "Node":
        found.append(f"ready={(condition_of(obj, 'Ready') or {}).get('status')}")
        found.append(" ".join(f"{taint['key']}:{taint['effect']}" for taint in spec.get("taints") or ()))
    return " ".join([*found, "deleting" if is_deleting(obj) else ""]).strip()


@dataclass(slots=True)
class Past:
    """The specs that an object has had, the newest last, with the times from which on."""

    specs: deque[tuple[float, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=64))

    def within(self, now: float, staleness: float) -> Iterator[dict[str, Any]]:
        """The specs that held at some moment of the last `staleness` seconds."""
        for at, spec in reversed(self.specs):
            yield spec
            if at <= now - staleness:
                return


class History:
    """The present objects by kind and key, and the past of those that rules ask about."""

    def __init__(self) -> None:
        self.objects: dict[Kind, dict[str, Object]] = {kind: {} for kind in _KINDS.values()}
        self.readiness: dict[str, Readiness] = {}
        self.pasts: dict[str, Past] = defaultdict(Past)
        self.left: dict[str, deque[tuple[float, Object, str]]] = defaultdict(lambda: deque(maxlen=200))
        """By controller: its pods whose deletion has begun: when, which, and by what (`eviction`, `loop`, `other`)."""
        self.ended: dict[str, dict[str, str]] = defaultdict(dict)
        """By controller: the phase in which each of its pods ended, by uid."""
        self.by_controller: dict[str, dict[str, Object]] = defaultdict(dict)
        self.revision = 0
        self.now = 0.0

    def take(self, event: Event, now: float) -> Step | None:
        """Take a write in; None when it is of no kind of the API."""
        core = event.key.find("/", len("/registry/")) + 1
        grouped = event.key.find("/", core) + 1
        kind = _KINDS.get(event.key[:core]) or _KINDS.get(event.key[:grouped])
        self.now = now
        if kind is None:
            return None
        key = event.key[len(kind.storage_prefix) :]
        objects = self.objects[kind]
        old = objects.get(key)
        new: Object | None = None
        if event.value is not None:
            new = objects[key] = decode(event.value)
            new["kind"], new["apiVersion"] = kind.kind, kind.api_version
        else:
            objects.pop(key, None)
        who, method, path = cause.get()
        step = Step(now, who, method, path, kind, key, old, new, event.revision)
        self._remember(step)
        return step

    def _remember(self, step: Step) -> None:
        obj, uid = step.obj, uid_of(step.obj)
        controller = (controller_of(obj) or {}).get("uid")
        if step.old is not None and (before := (controller_of(step.old) or {}).get("uid")) and before != controller:
            self.by_controller[before].pop(uid, None)
        if controller:
            if step.new is None:
                self.by_controller[controller].pop(uid, None)
            else:
                self.by_controller[controller][uid] = step.new
        if step.kind.kind == "Pod":
            self._remember_pod(step, uid, controller or "")
        elif step.new is not None and "spec" in step.new:
            spec = step.new["spec"]
            specs = self.pasts[uid].specs
            if not specs or specs[-1][1] != spec:
                specs.append((step.at, spec))

    def _remember_pod(self, step: Step, uid: str, controller: str) -> None:
        readiness = self.readiness.setdefault(uid, Readiness())
        is_ready = step.new is not None and is_condition_true(step.new, "Ready")
        if is_ready and readiness.since is None:
            readiness.since = step.at
        elif not is_ready and readiness.since is not None:
            readiness.since, readiness.until = None, step.at
        phase = (step.obj.get("status") or {}).get("phase")
        if phase in ("Succeeded", "Failed"):
            self.ended[controller].setdefault(uid, phase)
        if step.begins_deletion:
            is_eviction = step.path.endswith("/eviction")
            is_loop = step.who == CONTROLLERS and not is_condition_true(step.obj, "DisruptionTarget")
            self.left[controller].append(
                (step.at, step.obj, "eviction" if is_eviction else "loop" if is_loop else "other")
            )
            self.left[namespace_of(step.obj)].append(self.left[controller][-1])

    # Questions

    def all(self, kind: Kind, namespace: str = "") -> Sequence[Object]:
        """The objects of a kind, of one namespace or of all."""
        found = self.objects[kind].values()
        return [obj for obj in found if not namespace or namespace_of(obj) == namespace]

    def get(self, kind: Kind, key: str) -> Object | None:
        return self.objects[kind].get(key)

    def controlled(self, uid: str, kind: Kind) -> list[Object]:
        """The objects of a kind that the owner controls."""
        return [obj for obj in self.by_controller.get(uid, {}).values() if obj["kind"] == kind.kind]

    def owner(self, obj: Object, kind: Kind) -> Object | None:
        """The object's controller, if it is of that kind and there still."""
        reference = controller_of(obj)
        if reference is None or reference["kind"] != kind.kind:
            return None
        name = reference["name"]
        found = self.objects[kind].get(f"{namespace_of(obj)}/{name}" if kind.namespaced else name)
        return found if found is not None and uid_of(found) == reference["uid"] else None

    def specs(self, obj: Object, staleness: float) -> list[dict[str, Any]]:
        """The specs of an object that a loop may take for the present one."""
        return list(self.pasts[uid_of(obj)].within(self.now, staleness)) or [obj["spec"]]

    def may_seem_available(self, pod: Object, staleness: float, min_ready: float = 0.0) -> bool:
        readiness = self.readiness.get(uid_of(pod))
        return readiness is not None and readiness.may_seem_available(self.now, staleness, min_ready)

    def lately_left(self, owner: str, staleness: float, how: str) -> list[Object]:
        """The pods of an owner, or of a namespace, whose deletion began within `staleness` seconds in that way."""
        return [pod for at, pod, by in self.left.get(owner, ()) if by == how and at >= self.now - staleness]


def is_active(pod: Object) -> bool:
    """Whether the pod counts for its owner: it has not ended and is not about to."""
    return not is_deleting(pod) and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def name_for(obj: Object) -> str:
    """How rules name an object."""
    return f"{obj['kind']} {key_of(obj)}"
