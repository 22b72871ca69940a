"""Eviction thresholds: what is written as `memory.available<100Mi`, and whether it is met. Pure functions.

A signal is what is left of something. A quantity is an amount (bytes, inodes, processes) or a share of all there is.
Source of words and rules: the kubelet's pkg/kubelet/eviction (`ParseThresholdConfig`, `thresholdsMet`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pyk.api.quantity import BadQuantity, whole

MEMORY = "memory.available"
ALLOCATABLE_MEMORY = "allocatableMemory.available"
NODE_DISK = "nodefs.available"
NODE_INODES = "nodefs.inodesFree"
IMAGE_DISK = "imagefs.available"
IMAGE_INODES = "imagefs.inodesFree"
PIDS = "pid.available"
SIGNALS = (MEMORY, NODE_DISK, NODE_INODES, IMAGE_DISK, IMAGE_INODES, PIDS)

CONDITIONS = {
    MEMORY: "MemoryPressure",
    ALLOCATABLE_MEMORY: "MemoryPressure",
    NODE_DISK: "DiskPressure",
    NODE_INODES: "DiskPressure",
    IMAGE_DISK: "DiskPressure",
    IMAGE_INODES: "DiskPressure",
    PIDS: "PIDPressure",
}
RESOURCES = {
    MEMORY: "memory",
    ALLOCATABLE_MEMORY: "memory",
    NODE_DISK: "ephemeral-storage",
    NODE_INODES: "inodes",
    IMAGE_DISK: "ephemeral-storage",
    IMAGE_INODES: "inodes",
    PIDS: "pids",
}


@dataclass(frozen=True, slots=True)
class Quantity:
    """An amount, or with `percent` a share of the whole. `text` is how it was written."""

    text: str
    amount: int = 0
    percent: float | None = None

    def of(self, capacity: int) -> int:
        return self.amount if self.percent is None else int(capacity * self.percent / 100)


@dataclass(frozen=True, slots=True)
class Threshold:
    """`signal` less than `quantity` for `grace` seconds (0: hard) is too little; then at least `min_reclaim` more than
    `quantity` must be there again for it to be over."""

    signal: str
    quantity: Quantity
    grace: float = 0.0
    min_reclaim: Quantity | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What is there of a signal at a moment: `available` of `capacity`."""

    available: int
    capacity: int


Observations = Mapping[str, Observation]


def thresholds(
    hard: Mapping[str, str],
    soft: Mapping[str, str],
    grace: Mapping[str, float],
    min_reclaim: Mapping[str, str],
) -> tuple[Threshold, ...]:
    """The thresholds that are configured; a hard one of 0% or 100% is none. Raises ValueError."""
    for given in (grace, min_reclaim):
        for signal in given:
            _check_signal(signal)
    reclaim = {signal: quantity_of(signal, text) for signal, text in min_reclaim.items()}
    found = []
    for signal, text in hard.items():
        quantity = quantity_of(signal, text)
        if quantity.percent not in (0.0, 100.0):
            found.append(Threshold(signal, quantity, 0.0, reclaim.get(signal)))
    for signal, text in soft.items():
        quantity = quantity_of(signal, text)
        if signal not in grace:
            raise ValueError(f"grace period must be specified for the soft eviction threshold {signal}")
        found.append(Threshold(signal, quantity, grace[signal], reclaim.get(signal)))
    return tuple(found)


def for_pods(given: Iterable[Threshold]) -> tuple[Threshold, ...]:
    """The same with what the pods' own group may use watched like the node: where the group is limited, they run out
    of memory before the node does."""
    given = tuple(given)
    of_pods = [replace(each, signal=ALLOCATABLE_MEMORY) for each in given if each.signal == MEMORY and not each.grace]
    return (*given, *of_pods)


def quantity_of(signal: str, text: str) -> Quantity:
    """`100Mi` or `10%`. Raises ValueError."""
    _check_signal(signal)
    if text.endswith("%"):
        try:
            percent = float(text[:-1])
        except ValueError:
            raise ValueError(f"eviction threshold {signal}: {text!r} is no percentage") from None
        if not 0 <= percent <= 100:
            raise ValueError(f"eviction percentage threshold {signal} must be >= 0% and <= 100%: {text}")
        return Quantity(text, percent=percent)
    try:
        amount = whole(text)
    except BadQuantity as error:
        raise ValueError(f"eviction threshold {signal}: {error}") from None
    if amount < 0:
        raise ValueError(f"eviction threshold {signal} must be positive: {text}")
    return Quantity(text, amount)


def is_met(threshold: Threshold, observations: Observations, *, with_reclaim: bool = False) -> bool:
    """Whether there is less than the threshold, or, `with_reclaim`, not yet as much more as is wanted."""
    seen = observations.get(threshold.signal)
    if seen is None:
        return False
    wanted = threshold.quantity.of(seen.capacity)
    if with_reclaim and threshold.min_reclaim is not None:
        wanted += threshold.min_reclaim.of(seen.capacity)
    return seen.available < wanted


def hard_amount(given: Iterable[Threshold], signal: str, capacity: int) -> int:
    """What the hard threshold of a signal keeps free: not for pods to ask for."""
    return max((each.quantity.of(capacity) for each in given if each.signal == signal and not each.grace), default=0)


def _check_signal(signal: str) -> None:
    if signal not in SIGNALS:
        raise ValueError(f"unknown eviction signal {signal!r}, known are {', '.join(SIGNALS)}")
