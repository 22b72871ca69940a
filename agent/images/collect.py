"""Image garbage collection: when the disk is nearly full, remove images that no container uses, the longest unused
first.

As in Kubernetes (kubelet's imageGCHighThresholdPercent, imageGCLowThresholdPercent, imageMinimumGCAge): above the high
mark images go until the disk is below the low one; one that was used or pulled within the last two minutes stays.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.images.image import Image
from agent.images.layers import is_in_use, mounted_overlays
from agent.images.store import ImageStore
from pyk.reconcile.clock import Clock

PERIOD_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Percentages of the disk that are used, and seconds."""

    high: int = 85
    low: int = 80
    least_age: float = 120.0


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system's size and free space, in bytes."""

    capacity: int
    available: int

    @property
    def used_percent(self) -> int:
        return 0 if not self.capacity else 100 - self.available * 100 // self.capacity


def disk_of(path: Path) -> Disk:
    """The file system that the path is on. Raises OSError."""
    said = os.statvfs(path)
    return Disk(said.f_blocks * said.f_frsize, said.f_bavail * said.f_frsize)


def to_free(disk: Disk, thresholds: Thresholds) -> int:
    """How many bytes must become free; 0 below the high mark."""
    if disk.used_percent < thresholds.high:
        return 0
    return max(0, disk.capacity * (100 - thresholds.low) // 100 - disk.available)


def candidates(
    images: Iterable[Image], used: Mapping[str, float], in_use: Callable[[Image], bool], now: float, least_age: float
) -> list[Image]:
    """The images that may go, the longest unused first. `used` has the time of the last use by image ID."""

    def last(image: Image) -> float:
        return max(image.created_at, used.get(image.id, 0.0))

    free = [image for image in images if image.layers and not in_use(image) and now - last(image) >= least_age]
    return sorted(free, key=last)


class ImageCollector:
    """Looks every five minutes, and whenever it is told that the disk is short."""

    def __init__(
        self, store: ImageStore, clock: Clock, failed: Callable[[str], None], thresholds: Thresholds = Thresholds()
    ) -> None:
        self._store = store
        self._clock = clock
        self._failed = failed
        self._thresholds = thresholds
        self._used: dict[str, float] = {}

    def was_used(self, image_id: str) -> None:
        """A container of the image starts or runs now."""
        self._used[image_id] = self._clock.time()

    async def free_unused(self) -> int:
        """Remove every image that no container uses; the bytes that became free. Raises OSError."""
        return await asyncio.to_thread(self.collect, 1 << 62)

    async def run(self) -> None:
        """Collect until cancelled."""
        while True:
            await self._clock.sleep(PERIOD_SECONDS)
            try:
                wanted = to_free(disk_of(self._store.image_dir), self._thresholds)
                freed = await asyncio.to_thread(self.collect, wanted) if wanted else 0
            except OSError as error:
                self._failed(f"image garbage collection failed: {error}")
                continue
            if freed < wanted:
                self._failed(
                    f"Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, "
                    f"but only found {freed} bytes eligible to free."
                )

    def collect(self, wanted: int) -> int:
        """Remove unused images until `wanted` bytes are free, or all of them; the bytes that became free. Blocks.

        Raises OSError when a layer cannot be removed.
        """
        overlays = mounted_overlays()
        images = self._store.removable()

        def in_use(image: Image) -> bool:
            return any(is_in_use(layer, overlays) for layer in image.layers)

        freed = 0
        for image in candidates(images, self._used, in_use, self._clock.time(), self._thresholds.least_age):
            if freed >= wanted:
                break
            freed += self._store.forget([image.name])[1]
        return freed
