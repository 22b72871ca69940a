"""When what an endpoints object is written for happened: for measuring how long the way to the nodes takes.

The annotation `endpoints.kubernetes.io/last-change-trigger-time` has the earliest of the changes since the last write:
a pod became ready or stopped being so, or the Service is new. Where that is not known, a node went for instance, there
is none. Source: `util/trigger_time_tracker.go` of `staging/src/k8s.io/endpointslice`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pyk.api.objects import Object, annotations_of, condition_of, name_of
from pyk.reconcile.actions import Action, Create, Update

TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"


@dataclass(frozen=True, slots=True)
class Times:
    """When a Service was made and its pods last changed, as timestamps: their order as text is that in time."""

    service: str
    pods: Mapping[str, str]


def times_of(service: Object, pods: Iterable[Object]) -> Times:
    """The times of now."""
    conditions = {name_of(pod): condition_of(pod, "Ready") for pod in pods}
    changed = {name: str(found.get("lastTransitionTime") or "") for name, found in conditions.items() if found}
    return Times(str(service["metadata"].get("creationTimestamp") or ""), changed)


def trigger_time(before: Times | None, now: Times) -> str:
    """The earliest change since `before`; empty when there was none that has a time."""
    if before is None:
        return now.service
    changed = [time for name, time in now.pods.items() if time > before.pods.get(name, "")]
    return min([*changed, *([now.service] if now.service > before.service else [])], default="")


def stamped(actions: Iterable[Action], time: str) -> list[Action]:
    """The writes with the annotation of that time, or without one."""
    return [type(each)(_stamped(each.obj, time)) if isinstance(each, Create | Update) else each for each in actions]


def _stamped(obj: Object, time: str) -> Object:
    annotations = {name: value for name, value in annotations_of(obj).items() if name != TRIGGER_TIME}
    if time:
        annotations[TRIGGER_TIME] = time
    metadata = {name: value for name, value in obj["metadata"].items() if name != "annotations"}
    return {**obj, "metadata": {**metadata, **({"annotations": annotations} if annotations else {})}}


class Triggers:
    """What was known of each Service at its last write."""

    def __init__(self) -> None:
        self._known: dict[str, Times] = {}

    def stamp(self, key: str, now: Times, actions: Iterable[Action]) -> list[Action]:
        """The writes with what triggered them."""
        return stamped(actions, trigger_time(self._known.get(key), now))

    def settle(self, key: str, now: Times | None) -> None:
        """The writes were made; `now` None is a Service that is gone."""
        if now is None:
            self._known.pop(key, None)
        else:
            self._known[key] = now
