"""Claims, volumes and classes, as the rules about volumes read them, and which claims are in use on which rows.

In: PersistentVolumeClaims, PersistentVolumes, StorageClasses, CSINodes, CSIDrivers and CSIStorageCapacities as their
informers tell of them. Volumes that have been promised to a claim whose binding is under way count as taken
(`promise`). `version` grows with every change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pyk.api.objects import Object, annotations_of, is_deleting, key_of, labels_of, name_of, uid_of
from pyk.api.quantity import BadQuantity, whole
from pyk.api.selectors import BadSelector, LabelSelector, from_document
from scheduler.signature import Term, parse_term
from scheduler.volumes import DiskWanted, VolumesWanted

SELECTED_NODE = "volume.kubernetes.io/selected-node"
NO_PROVISIONER = "kubernetes.io/no-provisioner"


@dataclass(frozen=True, slots=True)
class Claim:
    """A PersistentVolumeClaim. `size` is in bytes; `volume` is what it is bound to, or is to be, empty if none."""

    key: str
    uid: str
    phase: str
    volume: str
    is_bound: bool
    storage_class: str
    modes: frozenset[str]
    volume_mode: str
    size: int
    selector: LabelSelector | None
    selected_node: str
    is_deleting: bool


@dataclass(frozen=True, slots=True)
class Volume:
    """A PersistentVolume. `terms` are its node affinity, None for any node; `claim` and `claim_uid` whom it is for."""

    name: str
    size: int
    storage_class: str
    modes: frozenset[str]
    volume_mode: str
    terms: tuple[Term, ...] | None
    claim: str
    claim_uid: str
    is_available: bool
    labels: dict[str, str]
    driver: str
    handle: str
    resource_version: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class StorageClass:
    """A StorageClass; `waits` is WaitForFirstConsumer. `topologies`: alternatives of label keys with their values."""

    provisioner: str
    waits: bool
    topologies: tuple[tuple[tuple[str, tuple[str, ...]], ...], ...]


@dataclass(frozen=True, slots=True)
class StorageCapacity:
    """How large a volume of a class can be made, in bytes, on nodes with certain labels; None for nowhere."""

    storage_class: str
    most: int
    nodes: LabelSelector | None


@dataclass(slots=True)
class Storage:
    """What there is."""

    version: int = 0
    claims: dict[str, Claim] = field(default_factory=dict)
    volumes: dict[str, Volume] = field(default_factory=dict)
    classes: dict[str, StorageClass] = field(default_factory=dict)
    limits: dict[str, dict[str, int]] = field(default_factory=dict)
    """How many volumes of each driver a node takes, by node and driver."""
    tells_capacity: dict[str, bool] = field(default_factory=dict)
    """CSI drivers with whether CSIStorageCapacities tell where they can make volumes."""
    capacities: dict[str, StorageCapacity] = field(default_factory=dict)
    promised: dict[str, str] = field(default_factory=dict)
    """Volumes by name with the claim that is about to be bound to each."""

    def changed(self, old: Object | None, new: Object | None) -> bool:
        """An informer's handler: whether anything that is kept has changed."""
        obj = new or old
        assert obj is not None
        kept: dict[str, Any]
        read: Callable[[Object], Any]
        match obj["kind"]:
            case "PersistentVolumeClaim":
                kept, key, read = self.claims, key_of(obj), _claim
            case "PersistentVolume":
                kept, key, read = self.volumes, name_of(obj), _volume
            case "StorageClass":
                kept, key, read = self.classes, name_of(obj), _class
            case "CSIDriver":
                kept, key, read = self.tells_capacity, name_of(obj), _tells_capacity
            case "CSIStorageCapacity":
                kept, key, read = self.capacities, key_of(obj), _capacity
            case _:
                kept, key, read = self.limits, name_of(obj), _limits
        now: Any = None if new is None else read(new)
        if kept.get(key) == now:
            if now is not None:
                kept[key] = now
            return False
        self.version += 1
        if now is None:
            del kept[key]
        else:
            kept[key] = now
        return True

    def promise(self, volume: str, claim: str) -> None:
        """The volume is taken by the claim, though the API server does not know it yet."""
        self.promised[volume] = claim
        self.version += 1

    def release(self, claim: str) -> None:
        """What was promised to the claim is bound by now, or will not be."""
        for volume in [name for name, other in self.promised.items() if other == claim]:
            del self.promised[volume]
            self.version += 1


class ClaimUses:
    """How many placed pods use each claim on each row, and each disk, and inline volumes by driver.

    `version` grows with changes.
    """

    def __init__(self) -> None:
        self.version = 0
        self._claims: dict[str, dict[int, int]] = {}
        self._on_row: dict[int, dict[str, int]] = {}
        self._inline: dict[int, dict[str, int]] = {}
        self._disks: dict[DiskWanted, dict[int, int]] = {}

    def account(self, row: int, volumes: VolumesWanted, amount: int) -> None:
        """One pod more (or, with -1, less) is on the row."""
        self.version += 1
        for claim in volumes.claims:
            _add(self._claims, claim.key, row, amount)
            _add(self._on_row, row, claim.key, amount)
        for driver in volumes.inline_drivers:
            _add(self._inline, row, driver, amount)
        for disk in volumes.disks:
            _add(self._disks, disk, row, amount)

    def rows_with_conflicts(self, disk: DiskWanted) -> set[int]:
        """The rows where the disk is in use in a way that keeps others from it."""
        rows = set(self._disks.get(DiskWanted(disk.name, False), ()))
        return rows if disk.reads_only else rows.union(self._disks.get(DiskWanted(disk.name, True), ()))

    def users(self, claim: str) -> int:
        """How many placed pods use the claim, anywhere."""
        return sum(self._claims.get(claim, {}).values())

    def on_row(self, row: int) -> tuple[set[str], dict[str, int]]:
        """The claims in use on the row, and its inline volumes by driver."""
        return set(self._on_row.get(row, ())), self._inline.get(row, {})


def _add(table: dict[Any, dict[Any, int]], outer: Any, inner: Any, amount: int) -> None:
    numbers = table.setdefault(outer, {})
    numbers[inner] = numbers.get(inner, 0) + amount
    if not numbers[inner]:
        del numbers[inner]
        if not numbers:
            del table[outer]


def _size(quantities: Any) -> int:
    try:
        return whole(str((quantities or {}).get("storage") or "0"))
    except BadQuantity:
        return 0


def _claim(obj: Object) -> Claim:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    selector: LabelSelector | None = ()
    if spec.get("selector"):
        try:
            selector = from_document(spec["selector"])
        except BadSelector:
            selector = None
    volume = spec.get("volumeName") or ""
    return Claim(
        key_of(obj),
        uid_of(obj),
        status.get("phase") or "",
        volume,
        (bool(volume) and "pv.kubernetes.io/bind-completed" in annotations_of(obj)) or status.get("phase") == "Bound",
        spec.get("storageClassName") or "",
        frozenset(spec.get("accessModes") or ()),
        spec.get("volumeMode") or "Filesystem",
        _size((spec.get("resources") or {}).get("requests")),
        selector,
        annotations_of(obj).get(SELECTED_NODE) or "",
        is_deleting(obj),
    )


def _volume(obj: Object) -> Volume:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    required = (spec.get("nodeAffinity") or {}).get("required")
    reference = spec.get("claimRef") or {}
    csi = spec.get("csi") or {}
    return Volume(
        name_of(obj),
        _size(spec.get("capacity")),
        spec.get("storageClassName") or "",
        frozenset(spec.get("accessModes") or ()),
        spec.get("volumeMode") or "Filesystem",
        None if required is None else tuple(parse_term(term) for term in required.get("nodeSelectorTerms") or ()),
        f"{reference.get('namespace')}/{reference.get('name')}" if reference else "",
        reference.get("uid") or "",
        not is_deleting(obj) and status.get("phase") in ("Available", "Pending", "", None),
        dict(labels_of(obj)),
        csi.get("driver") or "",
        csi.get("volumeHandle") or "",
        obj["metadata"].get("resourceVersion") or "",
    )


def _class(obj: Object) -> StorageClass:
    topologies = tuple(
        tuple((each["key"], tuple(each["values"])) for each in term.get("matchLabelExpressions") or ())
        for term in obj.get("allowedTopologies") or ()
    )
    return StorageClass(
        obj.get("provisioner") or "", obj.get("volumeBindingMode") == "WaitForFirstConsumer", topologies
    )


def _limits(obj: Object) -> dict[str, int]:
    drivers = (obj.get("spec") or {}).get("drivers") or ()
    counts = ((each["name"], (each.get("allocatable") or {}).get("count")) for each in drivers)
    return {name: int(count) for name, count in counts if count is not None}


def _tells_capacity(obj: Object) -> bool:
    return bool((obj.get("spec") or {}).get("storageCapacity"))


def _capacity(obj: Object) -> StorageCapacity:
    most = obj.get("maximumVolumeSize") or obj.get("capacity")
    nodes: LabelSelector | None = None
    if obj.get("nodeTopology") is not None:
        try:
            nodes = from_document(obj["nodeTopology"])
        except BadSelector:
            nodes = None
    return StorageCapacity(obj.get("storageClassName") or "", _size({"storage": most}) if most else -1, nodes)
