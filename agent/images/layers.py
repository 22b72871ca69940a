"""The layers of this machine: each unpacked once, read-only in use, shared by all images and containers that have it.

    <image-dir>/layers/sha256-<chain>/   an unpacked layer
    <image-dir>/layers/.unpacking-*      one in the making; it appears under its name by rename(2), whole or not at all

A layer is known by its chain ID (OCI image specification, "Layer ChainID"): the digest of its own content and of what
lies under it. The content alone would not do, as directories that a layer leaves out look as they do below it. For the
lowest layer both are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from agent.images.compression import Hashing, decompressed
from agent.images.unpack import BadArchive, unpack
from agent.runtime.userns import UNNAMED

KEPT_FREE_BYTES = 256 * 1024 * 1024
"""Of the disk, whatever an archive holds."""
_PADDING = 64 << 20
"""The most that may follow the end of an archive, as tar pads its last record."""


@dataclass(frozen=True, slots=True)
class Layer:
    """An unpacked layer. `diff_id` is the digest of its uncompressed archive, `size` the bytes of its files."""

    diff_id: str
    chain_id: str
    size: int


def chain_id(below: str, diff_id: str) -> str:
    """The chain ID of a layer on the chain `below` (empty: the lowest)."""
    return f"sha256:{hashlib.sha256(f'{below} {diff_id}'.encode()).hexdigest()}" if below else diff_id


def chain_of(diff_ids: Iterable[str]) -> list[str]:
    """The chain IDs of an image's layers, lowest first."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(chain_id(chain[-1] if chain else "", diff_id))
    return chain


class LayerStore:
    """The folder of layers. All methods block."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, chain: str) -> Path:
        """Where the layer of the chain ID is, or would be."""
        return self.directory / chain.replace(":", "-")

    def has(self, chain: str) -> bool:
        """Whether the layer is here."""
        return self.path(chain).is_dir()

    def size(self, chain: str) -> int:
        """The bytes of the layer's files."""
        try:
            recorded: int = json.loads(self._size_file(chain).read_bytes())
        except FileNotFoundError:
            return _size_of(self.path(chain))
        return recorded

    def add(self, archive: IO[bytes], below: Sequence[str] = (), diff_id: str = "") -> Layer:
        """Unpack an archive (packed or not, seekable) on the chain `below`, lowest first.

        With a `diff_id` the content must have that digest, and what is here already is not unpacked again. Raises
        `BadArchive`, or OSError when the disk fails or is full; then nothing is left.
        """
        base = below[-1] if below else ""
        if diff_id and self.has(chain := chain_id(base, diff_id)):
            return Layer(diff_id, chain, self.size(chain))
        self.directory.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=self.directory))
        try:
            made.chmod(0o755)
            with decompressed(archive) as stream:
                content = Hashing(stream)
                most = self._room()
                size = unpack(content, made, most_bytes=most, below=[self.path(one) for one in reversed(below)])
                if not content.drain(_PADDING):
                    raise BadArchive("there is more behind the end of the archive")
            if diff_id and content.digest != diff_id:
                raise BadArchive(f"the layer's content is {content.digest}, where the image says {diff_id}")
            layer = Layer(content.digest, chain_id(base, content.digest), size)
            self._size_file(layer.chain_id).write_text(str(size))
            try:
                os.rename(made, self.path(layer.chain_id))
            except OSError:
                if not self.has(layer.chain_id):  # not merely another process that was quicker
                    raise
                shutil.rmtree(made)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        return layer

    def remove_unused(self, kept: Iterable[str]) -> int:
        """Remove the layers that are not in the chains `kept` and that no container on this machine runs on: the bytes
        of their files. Those still in use go with a later removal."""
        keep = {self.path(chain) for chain in kept}
        overlays = mounted_overlays()
        freed = 0
        for layer in self.directory.glob("sha256-*"):
            if layer.suffix == ".size" or layer in keep or is_in_use(layer, overlays):
                continue
            freed += self.size(layer.name.replace("-", ":", 1))
            doomed = layer.with_name(f".removing-{layer.name}")
            os.rename(layer, doomed)
            shutil.rmtree(doomed)
            layer.with_name(f"{layer.name}.size").unlink(missing_ok=True)
        return freed

    def sweep(self) -> None:
        """Remove what processes that were killed left half made or half removed. For when nobody else is at work."""
        for left in (*self.directory.glob(".unpacking-*"), *self.directory.glob(".removing-*")):
            shutil.rmtree(left, ignore_errors=True)

    def _room(self) -> int:
        space = os.statvfs(self.directory)
        return max(0, space.f_bavail * space.f_frsize - KEPT_FREE_BYTES)

    def _size_file(self, chain: str) -> Path:
        path = self.path(chain)
        return path.with_name(f"{path.name}.size")


def _size_of(directory: Path) -> int:
    total = 0
    for parent, _, files in os.walk(directory):
        for name in files:
            total += os.lstat(os.path.join(parent, name)).st_size
    return total


def mounted_overlays() -> str:
    """The lines of all overlays that processes of this machine have mounted, one reading a mount namespace."""
    seen: set[str] = set()
    lines: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            namespace = os.readlink(process / "ns/mnt")
            if namespace not in seen:
                table = (process / "mountinfo").read_text(errors="replace")
                seen.add(namespace)
                lines += [line for line in table.splitlines() if " - overlay " in line]
        except OSError:  # the process has ended
            continue
    return "\n".join(lines)


def is_in_use(layer: Path, overlays: str) -> bool:
    """Whether one of the `mounted_overlays` has the layer; one that does not name its layers (too many of them for a
    mount's options) may have any."""
    return str(layer) in overlays or UNNAMED in overlays
