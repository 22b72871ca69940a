"""The images of this machine: an index of names, and content-addressed layers unpacked once for all containers.

    <image-dir>/index.json        name -> configuration, layers, size (replaced atomically under a lock)
    <image-dir>/layers/<digest>/  an unpacked layer, read-only in use, shared by everything that has it
    <image-dir>/reserved/         roots of the reserved images
    <image-dir>/lock              flock(2): whoever changes the index holds it

Several agents and `pyk image` share one directory: the index is read anew when it has changed, layers and the index
appear by rename, so a reader sees the old or the new state and never half of one. Nothing here knows pods;
pulling from registries is an `ImageSource` given from outside.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from agent.images.image import Image, ImageConfig, ImageSource, ImageUnavailable
from agent.images.reference import BadReference, Reference, parse_reference
from agent.images.reserved import BUSYBOX, HOST, reserved_image
from agent.images.unpack import unpack
from pyk.reconcile.clock import Clock

_KEPT_FREE_BYTES = 256 * 1024 * 1024  # of the disk, whatever an archive holds


class ImageStore:
    """The images below `image_dir`. The methods that touch much of the disk block: the agent uses `resolve`."""

    def __init__(self, image_dir: Path, clock: Clock, *, source: ImageSource | None = None) -> None:
        self.image_dir = image_dir
        self._clock = clock
        self._source = source
        self._index: dict[str, Any] = {}
        self._index_version: tuple[int, int] | None = None
        self._reserved: dict[tuple[str, str], Image] = {}

    async def resolve(
        self, text: str, pull_policy: str, credentials: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[Image, bool]:
        """The image that a container asks for, and whether it was pulled for that.

        `pull_policy` is Always, IfNotPresent or Never. An image that is only here (imported or reserved) satisfies
        Always when there is no registry to ask. Raises `ImageUnavailable`.
        """
        try:
            reference = parse_reference(text)
        except BadReference as error:
            raise ImageUnavailable(
                f'Failed to apply default image tag "{text}": {error}', reason="InvalidImageName"
            ) from error
        found = await self._find(reference)
        if pull_policy == "Never":
            if found is None:
                raise ImageUnavailable(
                    f'Container image "{text}" is not present with pull policy of Never', reason="ErrImageNeverPull"
                )
            return found, False
        if found is not None and (pull_policy != "Always" or self._source is None or self._is_local(reference)):
            return found, False
        if self._source is not None and not self._is_local(reference):
            return await self._source.pull(reference.name, credentials), True
        raise ImageUnavailable(self._unknown(text))

    def needs_pull(self, text: str, pull_policy: str) -> bool:
        """Whether `resolve` would have to ask a registry, and so may take long."""
        if self._source is None or pull_policy == "Never":
            return False
        try:
            return pull_policy == "Always" or self.get(text) is None
        except (BadReference, ImageUnavailable):
            return False

    def get(self, text: str) -> Image | None:
        """The image of a reference, if it is here. Raises `BadReference`."""
        reference = parse_reference(text)
        if self._is_local(reference):
            return self._reserved_image(reference)
        images = self._read_index()
        if reference.digest:
            for name, entry in images.items():
                if entry["id"] == reference.digest and name.rpartition(":")[0] == reference.repository:
                    return self._image(name, entry)
            return None
        entry = images.get(reference.name)
        return None if entry is None else self._image(reference.name, entry)

    def list(self) -> list[Image]:
        """All images that are here by name, the reserved ones that the host can give included."""
        found = [self._image(name, entry) for name, entry in sorted(self._read_index().items())]
        for repository in (HOST, BUSYBOX):
            try:
                image = self._reserved_image(parse_reference(repository))
            except ImageUnavailable:
                continue
            if image is not None:
                found.append(image)
        return found

    def import_rootfs(self, name: str, path: Path, config: ImageConfig | None = None) -> Image:
        """Make an image of one layer from a directory or a tar archive of a root file system, under `name`.

        Raises `BadReference`, `BadArchive`, `OSError` when the path cannot be read or the disk is full, and
        ValueError for a reserved name.
        """
        reference = parse_reference(name)
        if self._is_local(reference):
            raise ValueError(f"{reference.repository} is a reserved name: it is made from this machine")
        if reference.digest:
            raise ValueError("an imported image has the digest that its content gives: leave it out of the name")
        self.image_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.image_dir) as spool:
            if path.is_dir():
                _archive_directory(path, spool)
                spool.seek(0)
                digest, size = self._add_layer(spool)
            else:
                with path.open("rb") as file:
                    digest, size = self._add_layer(file)
        document = (config or ImageConfig(command=("/bin/sh",))).to_document()
        image_id = hashlib.sha256(json.dumps([document, [digest]], sort_keys=True).encode()).hexdigest()
        entry = {
            "id": f"sha256:{image_id}",
            "config": document,
            "layers": [digest],
            "size": size,
            "created": self._clock.time(),
        }
        with self._locked():
            index = dict(self._read_index())
            index[reference.name] = entry
            self._write_index(index)
        return self._image(reference.name, entry)

    def remove(self, name: str) -> bool:
        """Forget the name, and remove the layers that no image has and no container on this machine runs on; says
        whether there was such a name. Layers that were still in use go with a later removal."""
        reference = parse_reference(name)
        with self._locked():
            index = dict(self._read_index())
            if index.pop(reference.name, None) is None:
                return False
            self._write_index(index)
            kept = {self._layer(digest) for entry in index.values() for digest in entry["layers"]}
            for layer in (self.image_dir / "layers").glob("sha256-*"):
                if layer not in kept and not _is_in_use(layer):
                    shutil.rmtree(layer)
        return True

    # The parts

    async def _find(self, reference: Reference) -> Image | None:
        if self._is_local(reference):
            known = self._reserved.get((reference.repository, reference.tag))
            if known is not None and known.layers[0].is_dir():
                return known
            return await asyncio.to_thread(self._reserved_image, reference)
        return self.get(reference.name)

    def _is_local(self, reference: Reference) -> bool:
        return reference.repository in (HOST, BUSYBOX)

    def _reserved_image(self, reference: Reference) -> Image | None:
        image = reserved_image(reference.repository, self.image_dir, reference.tag or "latest")
        if image is not None:
            self._reserved[reference.repository, reference.tag] = image
        return image

    def _unknown(self, text: str) -> str:
        names = [image.name for image in self.list()]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        return (
            f'image "{text}" is not on this node and there is no registry to pull it from; images here: '
            f"{shown or 'none'}; import it with: pyk image import {text} PATH (directory or tar of a root file system)"
        )

    def _image(self, name: str, entry: Mapping[str, Any]) -> Image:
        layers = tuple(self._layer(digest) for digest in reversed(entry["layers"]))
        config = ImageConfig.from_document(entry["config"])
        return Image(name, entry["id"], config, layers, size=entry["size"], created_at=entry["created"])

    def _layer(self, digest: str) -> Path:
        return self.image_dir / "layers" / digest.replace(":", "-")

    def _read_index(self) -> dict[str, Any]:
        """The index, parsed anew when the file is another one than last time."""
        try:
            state = os.stat(self.image_dir / "index.json")
        except FileNotFoundError:
            return {}
        version = (state.st_ino, state.st_mtime_ns)
        if version != self._index_version:
            self._index = json.loads((self.image_dir / "index.json").read_bytes())
            self._index_version = version
        return self._index

    def _write_index(self, index: dict[str, Any]) -> None:
        fd, made = tempfile.mkstemp(prefix=".index-", dir=self.image_dir)
        try:
            with os.fdopen(fd, "w") as file:
                json.dump(index, file, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            os.replace(made, self.image_dir / "index.json")
        except BaseException:
            os.unlink(made)
            raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.image_dir.mkdir(parents=True, exist_ok=True)
        with open(self.image_dir / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _add_layer(self, archive: IO[bytes]) -> tuple[str, int]:
        """Unpack the archive unless its content is here: its digest, and the size in bytes of its files."""
        hasher = hashlib.sha256()
        while chunk := archive.read(1 << 20):
            hasher.update(chunk)
        digest = f"sha256:{hasher.hexdigest()}"
        final = self._layer(digest)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.is_dir():
            return digest, _size_of(final)
        archive.seek(0)
        made = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=final.parent))
        try:
            made.chmod(0o755)
            space = os.statvfs(made)
            size = unpack(archive, made, most_bytes=max(0, space.f_bavail * space.f_frsize - _KEPT_FREE_BYTES))
            try:
                os.rename(made, final)
            except OSError:
                if not final.is_dir():  # not merely another process that was quicker
                    raise
                shutil.rmtree(made)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        return digest, size


def _archive_directory(directory: Path, target: IO[bytes]) -> None:
    """A tar of the directory that depends on its content only: entries in order, one file system."""
    device = os.stat(directory).st_dev

    def add(path: Path, name: str) -> None:
        tar.add(path, name, recursive=False)
        if path.is_dir() and not path.is_symlink() and path.stat().st_dev == device:
            for child in sorted(os.listdir(path)):
                add(path / child, f"{name}/{child}")

    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        add(directory, ".")


def _size_of(directory: Path) -> int:
    total = 0
    for parent, _, files in os.walk(directory):
        for name in files:
            total += os.lstat(os.path.join(parent, name)).st_size
    return total


def _is_in_use(layer: Path) -> bool:
    """Whether a container has the layer mounted, as seen by its processes; one whose overlay does not name its layers
    (too many of them for the mount's options) may have any."""
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            lines = table.read_text(errors="replace").splitlines()
        except OSError:  # the process has ended
            continue
        overlays = [line for line in lines if " - overlay " in line]
        if any(str(layer) in line or "/proc/self/fd/" in line for line in overlays):
            return True
    return False
