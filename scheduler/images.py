"""Which images are on which nodes, and how large: what the score ImageLocality reads.

Sparse: it takes memory for the images that nodes report, not for nodes times images. `version` grows with every change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

from pyk.api.objects import Object
from scheduler.columns import Numbers

REMEMBERED_SCORES = 16
"""Sets of images whose score is kept for other pods with the same; each holds a number for every row."""


class Images:
    """Sizes in bytes, by image name and row."""

    def __init__(self) -> None:
        self.version = 0
        self._sizes: dict[str, dict[int, int]] = {}
        self._scores: OrderedDict[tuple[str, ...], tuple[object, Numbers]] = OrderedDict()

    def set(self, row: int, before: Mapping[str, int], now: Mapping[str, int]) -> None:
        """The row's node has other images than before."""
        if before == now:
            return
        self.version += 1
        for name in before:
            rows = self._sizes[name]
            del rows[row]
            if not rows:
                del self._sizes[name]
        for name, size in now.items():
            self._sizes.setdefault(name, {})[row] = size

    def sizes(self, name: str) -> Mapping[int, int]:
        """The rows that have the image, with its size."""
        return self._sizes.get(name, {})

    def score(self, images: tuple[str, ...], seen: object, compute: Callable[[], Numbers]) -> Numbers:
        """What was computed for these images when things were as `seen`; computed now if that is not kept."""
        found = self._scores.get(images)
        if found is None or found[0] != seen:
            found = self._scores[images] = (seen, compute())
            if len(self._scores) > REMEMBERED_SCORES:
                self._scores.popitem(last=False)
        return found[1]


def images_of(node: Object) -> dict[str, int]:
    """The images that the node reports, under each of their names."""
    listed = (node.get("status") or {}).get("images") or ()
    return {name: int(image.get("sizeBytes") or 0) for image in listed for name in image.get("names") or ()}
