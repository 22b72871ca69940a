"""The rules about volumes: where the claims of a pod allow it to run.

Source: Kubernetes' plugins `VolumeRestrictions`, `NodeVolumeLimits`, `VolumeBinding` and `VolumeZone`. A claim that is
bound decides by its volume's node affinity. One that waits for its first consumer needs, for each node, a volume that
matches and can be had there, or a class that can provide one there; which one it would be is told by `plan`, and
volumebinder.py makes it so when the pod has got the node.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pyk.api.selectors import LabelSelector, matches
from scheduler.columns import Bools
from scheduler.filters import TermMatcher
from scheduler.rules import Reasons, RowNumbers, WideFilter
from scheduler.signature import NodeRequirement, Signature
from scheduler.snapshot import Snapshot
from scheduler.storage import NO_PROVISIONER, Claim, Volume

NOT_BOUND = "pod has unbound immediate PersistentVolumeClaims"
_OPERATORS = {"=": "In", "in": "In", "!=": "NotIn", "notin": "NotIn", "exists": "Exists", "!": "DoesNotExist"}
_ZONE_LABELS = (
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
)


@dataclass(frozen=True, slots=True)
class PlannedClaim:
    """What is to become of a claim: bound to the volume, or provided for on the pod's node when that is empty."""

    claim: str
    volume: str


def volume_filters(signature: Signature, snapshot: Snapshot) -> Iterator[WideFilter]:
    """The rules about volumes that concern the pod."""
    volumes = signature.volumes
    if volumes.claims or volumes.disks:
        yield VolumeRestrictions(signature, snapshot)
    if volumes.claims or volumes.inline_drivers:
        yield NodeVolumeLimits(signature, snapshot)
    if volumes.claims:
        yield VolumeBinding(signature, snapshot)
        yield VolumeZone(signature, snapshot)


class _AboutVolumes(WideFilter):
    def __init__(self, signature: Signature, snapshot: Snapshot) -> None:
        super().__init__(snapshot)
        self._wanted = signature.volumes
        self._identity = signature.identity

    def stamp(self) -> int:
        return self._snapshot.storage.version + self._snapshot.claims.version

    def is_final(self, rows: RowNumbers) -> Bools:
        return np.ones(len(rows), np.bool_)

    def _claims(self) -> list[Claim]:
        known = self._snapshot.storage.claims
        return [known[each.key] for each in self._wanted.claims if each.key in known]


class VolumeRestrictions(_AboutVolumes):
    """No other pod writes to a disk of the pod on the node, nor uses a claim that is for one pod (ReadWriteOncePod)."""

    name = "VolumeRestrictions"

    def _admitted(self, size: int) -> Bools:
        uses = self._snapshot.claims
        self._in_use = np.zeros(size, np.bool_)
        for disk in self._wanted.disks:
            self._in_use[[row for row in uses.rows_with_conflicts(disk) if row < size]] = True
        taken = any("ReadWriteOncePod" in claim.modes and uses.users(claim.key) for claim in self._claims())
        return ~self._in_use & (not taken)

    def is_final(self, rows: RowNumbers) -> Bools:
        return np.zeros(len(rows), np.bool_)

    def reasons(self, rows: RowNumbers) -> Reasons:
        self._current()
        if len(found := rows[self._in_use[rows]]):
            yield "node(s) had no available disk", found
        if len(found := rows[~self._in_use[rows]]):
            yield "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode", found


class NodeVolumeLimits(_AboutVolumes):
    """The node does not get more volumes of a CSI driver than its CSINode says that it can attach."""

    name = "NodeVolumeLimits"

    def _admitted(self, size: int) -> Bools:
        snapshot = self._snapshot
        wanted = dict(self._by_driver({each.key for each in self._wanted.claims}))
        for number, driver in enumerate(self._wanted.inline_drivers):
            wanted[f"inline-{number}"] = driver
        admitted = np.ones(size, np.bool_)
        for node, limits in snapshot.storage.limits.items():
            row = snapshot.rows.get(node)
            if row is None or row >= size or not any(driver in limits for driver in wanted.values()):
                continue
            claims, inline = snapshot.claims.on_row(row)
            there = dict(self._by_driver(claims))
            for driver, most in limits.items():
                new = sum(each == driver and volume not in there for volume, each in wanted.items())
                used = sum(each == driver for each in there.values()) + inline.get(driver, 0)
                if new and used + new > most:
                    admitted[row] = False
        return admitted

    def is_final(self, rows: RowNumbers) -> Bools:
        return np.zeros(len(rows), np.bool_)

    def reasons(self, rows: RowNumbers) -> Reasons:
        yield "node(s) exceed max volume count", rows

    def _by_driver(self, claims: set[str]) -> Iterator[tuple[str, str]]:
        """The volumes behind the claims, each with its driver; claims of one volume are one."""
        storage = self._snapshot.storage
        for key in claims:
            claim = storage.claims.get(key)
            if claim is None:
                continue
            volume = storage.volumes.get(claim.volume)
            if volume is not None and volume.driver:
                yield f"{volume.driver}/{volume.handle}", volume.driver
            elif volume is None and (made := storage.classes.get(claim.storage_class)) is not None:
                yield f"claim-{key}", made.provisioner


class VolumeZone(_AboutVolumes):
    """A bound volume with zone or region labels is in the node's zone and region."""

    name = "VolumeZone"

    def _admitted(self, size: int) -> Bools:
        snapshot = self._snapshot
        admitted = np.ones(size, np.bool_)
        for claim in self._claims():
            volume = snapshot.storage.volumes.get(claim.volume)
            for key in _ZONE_LABELS if volume is not None and claim.is_bound else ():
                if volume is not None and (text := volume.labels.get(key)) is not None:
                    admitted &= snapshot.labels(key).one_of(tuple(text.split("__")), slice(0, size))
        return admitted

    def reasons(self, rows: RowNumbers) -> Reasons:
        yield "node(s) had no available volume zone", rows


class VolumeBinding(_AboutVolumes):
    """Every claim is bound to a volume that can be had on the node, or can be."""

    name = "VolumeBinding"

    def at_once(self) -> str:
        """Why the pod can run nowhere as things are, whatever the node; empty in general."""
        storage = self._snapshot.storage
        unbound = False
        for wanted in self._wanted.claims:
            name = wanted.key.partition("/")[2]
            claim = storage.claims.get(wanted.key)
            if claim is None and wanted.is_ephemeral:
                return f'waiting for ephemeral volume controller to create the persistentvolumeclaim "{name}"'
            if claim is None:
                return f'persistentvolumeclaim "{name}" not found'
            if claim.phase == "Lost":
                return f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{claim.volume}"'
            if claim.is_deleting:
                return f'persistentvolumeclaim "{name}" is being deleted'
            unbound = unbound or not (claim.is_bound or self._waits(claim))
        return NOT_BOUND if unbound else ""

    def _admitted(self, size: int) -> Bools:
        self._gone = np.zeros(size, np.bool_)
        self._elsewhere = np.zeros(size, np.bool_)
        self._without = np.zeros(size, np.bool_)
        self._too_small = np.zeros(size, np.bool_)
        if self.at_once():
            return np.zeros(size, np.bool_)
        for claim in self._claims():
            if claim.is_bound:
                volume = self._snapshot.storage.volumes.get(claim.volume)
                if volume is None:
                    self._gone[:] = True
                elif volume.terms is not None:
                    self._elsewhere |= ~self._can_be_had(volume, size)
        for ok, has_space, _ in self._for_waiting(size):
            self._without |= ~ok
            self._too_small |= ~has_space
        refused: Bools = self._gone | self._elsewhere | self._without | self._too_small
        return ~refused

    def reasons(self, rows: RowNumbers) -> Reasons:
        if text := self.at_once():
            yield text, rows
            return
        self._current()
        for mask, text in (
            (self._gone, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
            (self._elsewhere, "node(s) didn't match PersistentVolume's node affinity"),
            (self._without, "node(s) didn't find available persistent volumes to bind"),
            (self._too_small, "node(s) did not have enough free storage"),
        ):
            if len(found := rows[mask[rows]]):
                yield text, found

    def plan(self, node: str) -> list[PlannedClaim]:
        """What is to become of the pod's claims that wait for it, now that it goes to this node."""
        row = self._snapshot.rows[node]
        waiting = sorted((each for each in self._claims() if not each.is_bound), key=lambda each: each.size)
        chosen = [choice[row] for _, _, choice in self._for_waiting(self._snapshot.size)]
        names = list(self._snapshot.storage.volumes)
        return [
            PlannedClaim(claim.key, names[index] if index >= 0 else "")
            for claim, index in zip(waiting, chosen, strict=True)
        ]

    def _waits(self, claim: Claim) -> bool:
        found = self._snapshot.storage.classes.get(claim.storage_class)
        return found is not None and found.waits

    def _can_be_had(self, volume: Volume, size: int) -> Bools:
        if volume.terms is None:
            return np.ones(size, np.bool_)
        met = np.zeros(size, np.bool_)
        for term in volume.terms:
            met |= TermMatcher(term, self._snapshot).matches(slice(0, size))
        return met

    def _for_waiting(self, size: int) -> Iterator[tuple[Bools, Bools, RowNumbers]]:
        """For each claim that waits, the smallest first: where it can be met, where there is space for that, and by
        which volume (-1: a new one)."""
        storage = self._snapshot.storage
        indexed = {name: index for index, name in enumerate(storage.volumes)}
        taken: dict[str, Bools] = {}
        for claim in sorted((each for each in self._claims() if not each.is_bound), key=lambda each: each.size):
            chosen = np.zeros(size, np.bool_)
            choice = np.full(size, -1, np.intp)
            for volume in self._matching(claim):
                can = self._can_be_had(volume, size) & ~chosen & ~taken.get(volume.name, np.zeros(size, np.bool_))
                choice[can] = indexed[volume.name]
                chosen |= can
                taken[volume.name] = taken.get(volume.name, np.zeros(size, np.bool_)) | can
            can_be_provided = self._can_be_provided(claim, size)
            yield chosen | can_be_provided, chosen | ~can_be_provided | self._has_space(claim, size), choice

    def _matching(self, claim: Claim) -> list[Volume]:
        """The free volumes that would do for the claim: one made for it first, then the smallest first."""
        storage = self._snapshot.storage
        found = [
            volume
            for volume in storage.volumes.values()
            if volume.is_available
            and volume.claim in ("", claim.key)
            and volume.claim_uid in ("", claim.uid)
            and storage.promised.get(volume.name, claim.key) == claim.key
            and volume.size >= claim.size
            and volume.storage_class == claim.storage_class
            and volume.volume_mode == claim.volume_mode
            and claim.modes <= volume.modes
            and claim.selector is not None
            and matches(claim.selector, volume.labels)
            and claim.volume in ("", volume.name)
        ]
        return sorted(found, key=lambda volume: (not volume.claim, volume.size))

    def _can_be_provided(self, claim: Claim, size: int) -> Bools:
        snapshot = self._snapshot
        made = snapshot.storage.classes.get(claim.storage_class)
        if made is None or made.provisioner in ("", NO_PROVISIONER) or claim.volume:
            return np.zeros(size, np.bool_)
        rows = slice(0, size)
        can = np.ones(size, np.bool_)
        if claim.selected_node:
            can &= snapshot.node_names.one_of((claim.selected_node,), rows)
        if made.topologies:
            allowed = np.zeros(size, np.bool_)
            for topology in made.topologies:
                term = tuple(NodeRequirement(key, "In", values) for key, values in topology)
                allowed |= TermMatcher(term, snapshot).matches(rows) if term else True
            can &= allowed
        return can

    def _has_space(self, claim: Claim, size: int) -> Bools:
        """Where a volume for the claim could be made, as far as its driver tells it by CSIStorageCapacities."""
        storage = self._snapshot.storage
        if not storage.tells_capacity.get(storage.classes[claim.storage_class].provisioner):
            return np.ones(size, np.bool_)
        enough = np.zeros(size, np.bool_)
        for capacity in storage.capacities.values():
            if capacity.storage_class == claim.storage_class and capacity.most >= claim.size:
                enough |= self._selected(capacity.nodes, size)
        return enough

    def _selected(self, selector: LabelSelector | None, size: int) -> Bools:
        if not selector:
            return np.full(size, selector is not None, np.bool_)
        term = tuple(NodeRequirement(each.key, _OPERATORS[each.operator], tuple(each.values)) for each in selector)
        return TermMatcher(term, self._snapshot).matches(slice(0, size))


def plan_volumes(signature: Signature, snapshot: Snapshot, node: str) -> list[PlannedClaim]:
    """What is to become of the claims that wait for a pod which goes to this node."""
    if not signature.volumes.claims:
        return []
    return VolumeBinding(signature, snapshot).plan(node)
