"""Which images are on which nodes, and how large: what the score ImageLocality reads.

Sparse: it takes memory for the images that nodes report, not for nodes times images. `version` grows with every change.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyk.api.objects import Object


class Images:
    """Sizes in bytes, by image name and row."""

    def __init__(self) -> None:
        self.version = 0
        self._sizes: dict[str, dict[int, int]] = {}

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


def images_of(node: Object) -> dict[str, int]:
    """The images that the node reports, under each of their names."""
    listed = (node.get("status") or {}).get("images") or ()
    return {name: int(image.get("sizeBytes") or 0) for image in listed for name in image.get("names") or ()}
