"""The images of this machine: an index of names over the layers that all containers share.

    <image-dir>/index.json        name -> configuration, layers, size (replaced atomically under a lock)
    <image-dir>/configs/<digest>  image configurations as they came, byte for byte
    <image-dir>/layers/           unpacked layers (layers.py)
    <image-dir>/downloads/        blobs on their way (pull.py)
    <image-dir>/reserved/         roots of the reserved images
    <image-dir>/lock              flock(2): whoever changes the index holds it
    <image-dir>/adding            flock(2): shared by all who add layers for an image that is not in the index yet, so
                                  that nobody removes them as unused

Several agents and `pyk image` share one directory: the index is read anew when it has changed, layers and the index
appear by rename, so a reader sees the old or the new state and never half of one. Nothing here knows pods;
pulling from registries is an `ImageSource` given from outside.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.images.image import Image, ImageConfig, ImageSource, ImageUnavailable
from agent.images.keyring import credentials_for, fingerprint
from agent.images.layers import Layer, LayerStore
from agent.images.manifest import Descriptor, digest_of
from agent.images.manifest import Platform as Machine
from agent.images.pack import archive_directory
from agent.images.reference import BadReference, Reference, parse_reference
from agent.images.reserved import RESERVED, reserved_image
from pyk.reconcile.clock import Clock

ANYBODY = ""
"""Who may use an image that was pulled without credentials, or made here."""


class ImageStore:
    """The images below `image_dir`. The methods that touch much of the disk block: the agent uses `resolve`."""

    def __init__(self, image_dir: Path, clock: Clock, *, source: ImageSource | None = None) -> None:
        self.image_dir = image_dir
        self.layers = LayerStore(image_dir / "layers")
        self.source = source
        self._clock = clock
        self._index: dict[str, Any] = {}
        self._index_version: tuple[int, int] | None = None
        self._reserved: dict[tuple[str, str], Image] = {}

    async def resolve(
        self, text: str, pull_policy: str, credentials: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[Image, bool]:
        """The image that a container asks for, and whether it was pulled for that.

        `pull_policy` is Always, IfNotPresent or Never; `credentials` are the pod's imagePullSecrets. An image that was
        made here satisfies Always: no registry has it. One that was pulled with somebody's credentials is there for
        pods with the same only. Raises `ImageUnavailable`.
        """
        try:
            reference = parse_reference(text)
        except BadReference as error:
            raise ImageUnavailable(
                f'Failed to apply default image tag "{text}": {error}', reason="InvalidImageName"
            ) from error
        found = await self._find(reference)
        allowed = found is not None and self._may_use(reference, credentials)
        if pull_policy == "Never":
            if found is None or not allowed:
                raise ImageUnavailable(
                    f'Container image "{text}" is not present with pull policy of Never', reason="ErrImageNeverPull"
                )
            return found, False
        if found is not None and allowed and (pull_policy != "Always" or self._is_made_here(reference)):
            return found, False
        if self.source is not None and not self._is_reserved(reference):
            return await self.source.pull(reference.name, credentials), True
        raise ImageUnavailable(self._unknown(text))

    def needs_pull(self, text: str, pull_policy: str) -> bool:
        """Whether `resolve` may have to ask a registry, and so may take long."""
        if self.source is None or pull_policy == "Never":
            return False
        try:
            reference = parse_reference(text)
            if self._is_reserved(reference):
                return False
            entry = self._entry(reference)
        except (BadReference, ImageUnavailable):
            return False
        return (
            entry is None
            or (pull_policy == "Always" and entry[1]["origin"] != "here")
            or ANYBODY not in entry[1]["open_to"]
        )

    def get(self, text: str) -> Image | None:
        """The image of a reference, if it is here. Raises `BadReference`."""
        reference = parse_reference(text)
        if self._is_reserved(reference):
            return self._reserved_image(reference)
        found = self._entry(reference)
        return None if found is None else self._image(*found)

    def all(self) -> Sequence[Image]:
        """All images that are here by name, the reserved ones that the host can give included."""
        found = [*self.removable()]
        for repository in RESERVED:
            try:
                image = self._reserved_image(parse_reference(repository))
            except ImageUnavailable:
                continue
            if image is not None:
                found.append(image)
        return found

    def removable(self) -> list[Image]:
        """All images that are here by name, without the reserved ones."""
        return [self._image(name, entry) for name, entry in sorted(self._read_index().items())]

    def import_rootfs(self, name: str, path: Path, config: ImageConfig | None = None) -> Image:
        """Make an image of one layer from a directory or a tar archive of a root file system, under `name`.

        Raises `BadReference`, `BadArchive`, `OSError` when the path cannot be read or the disk is full, and
        ValueError for a reserved name.
        """
        reference = self.checked_name(name)
        self.image_dir.mkdir(parents=True, exist_ok=True)
        with self.adding(), tempfile.TemporaryFile(dir=self.image_dir) as spool:
            if path.is_dir():
                archive_directory(path, spool)
                layer = self.layers.add(spool)
            else:
                with path.open("rb") as file:
                    layer = self.layers.add(file)
            machine = Machine.here()
            document = {
                "architecture": machine.architecture,
                "os": machine.os,
                "config": (config or ImageConfig(command=("/bin/sh",))).to_document(),
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
            }
            return self.add(reference, json.dumps(document, sort_keys=True).encode(), [layer])

    def add(
        self,
        reference: Reference,
        config: bytes,
        layers: Sequence[Layer],
        *,
        blobs: Sequence[Descriptor] = (),
        digest: str = "",
        open_to: str = ANYBODY,
    ) -> Image:
        """Put an image whose layers are here into the index; by who has `adding` since before they were.

        `blobs` are its packed layers and `digest` its manifest's, as the registry has them that it came from; without a
        digest it counts as made here. `open_to` is the fingerprint of the credential that it was pulled with.
        """
        image_id = digest_of(config)
        with self._locked():
            _replace(self._config_file(image_id), config)
            index = dict(self._read_index())
            before = index.get(reference.name) or {}
            known = before.get("open_to") or [] if before.get("id") == image_id else []
            index[reference.name] = {
                "id": image_id,
                "config": json.loads(config).get("config") or {},
                "layers": [layer.chain_id for layer in layers],
                "size": sum(layer.size for layer in layers),
                "created": self._clock.time(),
                "origin": "registry" if digest else "here",
                "digest": digest,
                "blobs": [blob.to_document() for blob in blobs],
                "open_to": sorted({*known, open_to}),
            }
            self._write_index(index)
        return self._image(reference.name, index[reference.name])

    def remove(self, name: str) -> bool:
        """Forget the name, and remove the layers that no image has and no container on this machine runs on; says
        whether there was such a name. Layers that were still in use go with a later removal."""
        return bool(self.forget([parse_reference(name).name])[0])

    def forget(self, names: Iterable[str]) -> tuple[list[str], int]:
        """Remove full names from the index, and the layers that nobody needs then: the names that were there, and the
        bytes that became free."""
        with self._locked():
            index = dict(self._read_index())
            gone = [name for name in names if index.pop(name, None) is not None]
            if gone:
                self._write_index(index)
            kept_configs = {self._config_file(entry["id"]).name for entry in index.values()}
            for file in (self.image_dir / "configs").glob("sha256-*"):
                if file.name not in kept_configs:
                    file.unlink(missing_ok=True)
            freed = self._remove_unused(index)
        return gone, freed

    def _remove_unused(self, index: Mapping[str, Any]) -> int:
        """The bytes that became free; nothing happens while somebody adds layers."""
        with open(self.image_dir / "adding", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
            self.layers.sweep()
            return self.layers.remove_unused(chain for entry in index.values() for chain in entry["layers"])

    @contextmanager
    def adding(self) -> Iterator[None]:
        """While it lasts nobody removes layers that no image has yet. Blocks while unused ones are being removed."""
        self.image_dir.mkdir(parents=True, exist_ok=True)
        with open(self.image_dir / "adding", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    def details(self, name: str) -> tuple[bytes, list[str], list[Descriptor]]:
        """What is needed to send an image on: its configuration as it is, its chain IDs lowest first, and its blobs as
        the registry has them that it came from (none when it was made here). Raises KeyError for an unknown name."""
        entry = self._read_index()[parse_reference(name).name]
        blobs = [Descriptor(blob["digest"], blob["size"], blob["mediaType"]) for blob in entry["blobs"]]
        return self._config_file(entry["id"]).read_bytes(), list(entry["layers"]), blobs

    def checked_name(self, name: str) -> Reference:
        """A name that an image may be given here. Raises `BadReference`, or ValueError for one that is not free to
        be."""
        reference = parse_reference(name)
        if self._is_reserved(reference):
            raise ValueError(f"{reference.repository} is a reserved name: it is made from this machine")
        if reference.digest:
            raise ValueError("an image made here has the digest that its content gives: leave it out of the name")
        return reference

    # The parts

    async def _find(self, reference: Reference) -> Image | None:
        if self._is_reserved(reference):
            known = self._reserved.get((reference.repository, reference.tag))
            if known is not None and known.layers[0].is_dir():
                return known
            return await asyncio.to_thread(self._reserved_image, reference)
        found = self._entry(reference)
        return None if found is None else self._image(*found)

    def _entry(self, reference: Reference) -> tuple[str, dict[str, Any]] | None:
        """Name and entry of a reference's image; with a digest, of any name of the repository that has it."""
        index = self._read_index()
        if not reference.digest or reference.name in index:
            entry = index.get(reference.name)
            return None if entry is None else (reference.name, entry)
        for name, entry in index.items():
            if (
                reference.digest in (entry["id"], entry["digest"])
                and self._image(name, entry).repository == reference.repository
            ):
                return name, entry
        return None

    def _may_use(self, reference: Reference, credentials: Sequence[Mapping[str, Any]]) -> bool:
        found = None if self._is_reserved(reference) else self._entry(reference)
        if found is None or ANYBODY in found[1]["open_to"]:
            return True
        return any(
            fingerprint(one) in found[1]["open_to"] for one in credentials_for(reference.repository, credentials)
        )

    def _is_made_here(self, reference: Reference) -> bool:
        found = None if self._is_reserved(reference) else self._entry(reference)
        return self.source is None or found is None or found[1]["origin"] == "here"

    def _is_reserved(self, reference: Reference) -> bool:
        return reference.repository in RESERVED

    def _reserved_image(self, reference: Reference) -> Image | None:
        image = reserved_image(reference.repository, self.image_dir, reference.tag or "latest")
        if image is not None:
            self._reserved[reference.repository, reference.tag] = image
        return image

    def _unknown(self, text: str) -> str:
        names = [image.name for image in self.all()]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        return (
            f'image "{text}" is not on this node and there is no registry to pull it from; images here: '
            f"{shown or 'none'}; import it with: pyk image import {text} PATH (directory or tar of a root file system)"
        )

    def _image(self, name: str, entry: Mapping[str, Any]) -> Image:
        return Image(
            name,
            entry["id"],
            ImageConfig.from_document(entry["config"]),
            tuple(self.layers.path(chain) for chain in reversed(entry["layers"])),
            size=entry["size"],
            created_at=entry["created"],
            digest=entry["digest"],
        )

    def _config_file(self, digest: str) -> Path:
        return self.image_dir / "configs" / digest.replace(":", "-")

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
        _replace(self.image_dir / "index.json", json.dumps(index, sort_keys=True).encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        (self.image_dir / "configs").mkdir(parents=True, exist_ok=True)
        with open(self.image_dir / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _replace(target: Path, content: bytes) -> None:
    """Write the file so that it is the old or the new one at any time, also after a power cut."""
    fd, made = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(made, target)
    except BaseException:
        os.unlink(made)
        raise
