"""Groups of pods that are scheduled together, all or none.

A pod belongs to a group by `spec.schedulingGroup.podGroupName`; the PodGroup of that name (scheduling.k8s.io) says with
`spec.schedulingPolicy.gang.minCount` how many must find a node at the same time. Where that API is not in use, the
labels of the scheduler plugins' light form say the same: `pod-group.scheduling.sigs.k8s.io/name` and
`pod-group.scheduling.sigs.k8s.io/min-available`.

Plain data: who is in which group, waiting or on a node. A group is looked at when as many pods are there as it needs;
then its waiting pods are decided about in one go, and if fewer than needed find a node, none gets one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pyk.api.objects import Object, key_of, labels_of, namespace_of

NAME_LABEL = "pod-group.scheduling.sigs.k8s.io/name"
COUNT_LABEL = "pod-group.scheduling.sigs.k8s.io/min-available"
TOO_FEW = "waiting for minCount pods from a gang to appear in scheduling queue"


@dataclass(slots=True)
class _Group:
    waiting: dict[str, int] = field(default_factory=dict)
    """The waiting pods, with the least number that each states by label."""
    placed: set[str] = field(default_factory=set)


def group_of(pod: Object) -> str:
    """The key of the pod's group, empty when it has none. Groups by label and by PodGroup never mix."""
    named = ((pod.get("spec") or {}).get("schedulingGroup") or {}).get("podGroupName")
    if named:
        return f"{namespace_of(pod)}/{named}"
    labelled = labels_of(pod).get(NAME_LABEL)
    return f"{namespace_of(pod)}/#{labelled}" if labelled else ""


class Gangs:
    """All groups, by key."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._least: dict[str, int] = {}
        self._basic: set[str] = set()
        self._member_of: dict[str, str] = {}

    def pod_group_changed(self, old: Object | None, new: Object | None) -> str:
        """A PodGroup is there, has changed or is gone: its key."""
        obj = new or old
        assert obj is not None
        key = key_of(obj)
        self._basic.discard(key)
        if new is None:
            self._least.pop(key, None)
        else:
            gang = ((new.get("spec") or {}).get("schedulingPolicy") or {}).get("gang")
            self._least[key] = int((gang or {}).get("minCount") or 1)
            if gang is None:
                self._basic.add(key)
        return key

    def is_basic(self, group: str) -> bool:
        """Whether the pods of the group are scheduled each by itself."""
        return group in self._basic

    def waits(self, key: str, group: str, pod: Object) -> None:
        """The pod (by key) waits for a node."""
        self.forget(key)
        stated = labels_of(pod).get(COUNT_LABEL) or ""
        self._groups.setdefault(group, _Group()).waiting[key] = int(stated) if stated.isdigit() else 1
        self._member_of[key] = group

    def is_placed(self, key: str, group: str) -> None:
        """The pod has a node."""
        self.forget(key)
        self._groups.setdefault(group, _Group()).placed.add(key)
        self._member_of[key] = group

    def forget(self, key: str) -> None:
        """The pod is gone, or has no group."""
        group = self._member_of.pop(key, None)
        if group is None:
            return
        members = self._groups[group]
        members.waiting.pop(key, None)
        members.placed.discard(key)
        if not members.waiting and not members.placed:
            del self._groups[group]

    def waiting(self, group: str) -> list[str]:
        """The group's pods without a node."""
        members = self._groups.get(group)
        return [] if members is None else list(members.waiting)

    def obstacle(self, group: str) -> str:
        """Why the group cannot be looked at yet; empty when it can."""
        name = group.rpartition("/")[2]
        if not name.startswith("#") and group not in self._least:
            return f'waiting for pod\'s pod group "{name}" to appear in scheduling queue'
        members = self._groups.get(group, _Group())
        return TOO_FEW if len(members.waiting) + len(members.placed) < self._needed(group) else ""

    def still_needed(self, group: str) -> int:
        """How many pods more must find a node for the group to have enough; 0 when it has."""
        members = self._groups.get(group, _Group())
        return max(0, self._needed(group) - len(members.placed))

    def _needed(self, group: str) -> int:
        stated = self._groups.get(group, _Group()).waiting.values()
        return self._least.get(group, max(stated, default=1))
