"""Load images from files: `docker save` archives, and OCI image layouts as folders or archives (skopeo, umoci,
buildah).

Sources: OCI image specification, image-layout.md; Docker's image archive format (manifest.json). Every content is
checked by its digest, an image is in the index only when all of it is here.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from agent.images import manifest as formats
from agent.images.compression import DamagedStream, Hashing, decompressed
from agent.images.image import Image
from agent.images.layers import Layer
from agent.images.manifest import BadImage, Descriptor, Platform
from agent.images.reference import BadReference, parse_reference
from agent.images.store import ImageStore

_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class _Files(Protocol):
    """The files of a layout or archive by their names."""

    def has(self, name: str) -> bool: ...

    def open(self, name: str) -> IO[bytes]: ...


def load(store: ImageStore, path: Path, name: str = "") -> list[Image]:
    """Load all images of a file or folder; with `name` there must be one, and it gets that name. Blocks.

    Raises `BadImage` or `BadArchive` for what is no image, `BadReference`, ValueError for a reserved name, OSError.
    """
    with _files(path, store.image_dir) as files:
        if files.has("index.json"):
            found = _oci_images(files)
        elif files.has("manifest.json"):
            found = _docker_images(files)
        else:
            raise BadImage(f"{path}: neither index.json nor manifest.json: for a plain root file system, use import")
        images = list(found)
        if name and len(images) != 1:
            raise BadImage(f"{path} has {len(images)} images, which cannot all be named {name}")
        return [_load(store, files, image, name or image.name, path) for image in images]


class _Found:
    """An image of an archive: the name that it has there, its configuration, and the files of its layers."""

    def __init__(self, name: str, config: bytes, layers: list[str], aliases: tuple[str, ...] = ()) -> None:
        self.name, self.config, self.layers, self.aliases = name, config, layers, aliases


def _load(store: ImageStore, files: _Files, found: _Found, name: str, path: Path) -> Image:
    if not name:
        raise BadImage(f"{path}: the image has no name in it: give one")
    names = [name, *(found.aliases if name == found.name else ())]
    try:
        references = [store.checked_name(one) for one in names]
    except BadReference as error:
        raise BadImage(f"{path}: the image's name in it: {error}") from error
    diff_ids = formats.diff_ids(formats.parsed(found.config, "the image's configuration"), len(found.layers))
    layers: list[Layer] = []
    with store.adding():
        for file, diff_id in zip(found.layers, diff_ids, strict=True):
            with files.open(file) as archive:
                layers.append(store.layers.add(archive, [layer.chain_id for layer in layers], diff_id))
        images = [store.add(reference, found.config, layers) for reference in references]
    return images[0]


def _oci_images(files: _Files) -> Iterator[_Found]:
    index = formats.parsed(_read(files, "index.json"), "index.json")
    for entry in index.get("manifests") or ():
        said = entry if isinstance(entry, dict) else {}
        annotations = said.get("annotations") or {}
        names = [str(annotations[key]) for key in _NAMES if annotations.get(key)]
        about = formats.descriptor(said, "index.json")
        document = formats.parsed(_blob(files, about), f"the manifest {about.digest}")
        if formats.kind_of(document, about.media_type) == "index":
            document = formats.parsed(_blob(files, formats.chosen(document, Platform.here())), "the manifest")
        image = formats.image_manifest(document)
        layers = [_blob_name(layer.digest) for layer in image.layers]
        full = [name for name in names if _is_full(name)]
        yield _Found(full[0] if full else "", _blob(files, image.config), layers)


def _docker_images(files: _Files) -> Iterator[_Found]:
    content = b'{"images":' + _read(files, "manifest.json") + b"}"
    for entry in formats.parsed(content, "manifest.json")["images"] or ():
        if not isinstance(entry, dict) or not entry.get("Config"):
            raise BadImage("manifest.json: an image without a configuration")
        names = [str(name) for name in entry.get("RepoTags") or ()]
        config = _read(files, str(entry["Config"]))
        layers = [str(name) for name in entry.get("Layers") or ()]
        yield _Found(names[0] if names else "", config, layers, tuple(names[1:]))


def _is_full(name: str) -> bool:
    """Whether an annotation is a whole name, and not merely a tag."""
    try:
        parse_reference(name)
    except BadReference:
        return False
    return "/" in name or ":" in name


def _blob(files: _Files, about: Descriptor) -> bytes:
    content = _read(files, _blob_name(about.digest))
    if formats.digest_of(content) != about.digest:
        raise BadImage(f"the content of {about.digest} is {formats.digest_of(content)}")
    return content


def _blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _read(files: _Files, name: str) -> bytes:
    with files.open(name) as file:
        content = file.read(formats.MOST_CONFIG_BYTES + 1)
    if len(content) > formats.MOST_CONFIG_BYTES:
        raise BadImage(f"{name}: longer than {formats.MOST_CONFIG_BYTES} bytes")
    return content


@contextmanager
def _files(path: Path, scratch: Path) -> Iterator[_Files]:
    if path.is_dir():
        yield _Folder(path)
        return
    scratch.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as file, tempfile.TemporaryFile(dir=scratch) as plain:
        try:
            with decompressed(file) as stream:
                shutil.copyfileobj(Hashing(stream), plain, 1 << 20)
            plain.seek(0)
            with tarfile.open(fileobj=plain, mode="r:") as tar:
                yield _Archive(tar)
        except (tarfile.TarError, DamagedStream) as error:
            raise BadImage(f"{path}: not a readable tar archive: {error}") from error


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def has(self, name: str) -> bool:
        return (self._root / name).is_file()

    def open(self, name: str) -> IO[bytes]:
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root.resolve()):
            raise BadImage(f"{name!r} is not in {self._root}")
        try:
            return path.open("rb")
        except (FileNotFoundError, IsADirectoryError):
            raise BadImage(f"{self._root} has no file {name}") from None


class _Archive:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._members: Mapping[str, Any] = {member.name.removeprefix("./"): member for member in tar.getmembers()}

    def has(self, name: str) -> bool:
        return name in self._members

    def open(self, name: str) -> IO[bytes]:
        member = self._members.get(name)
        try:
            file = None if member is None else self._tar.extractfile(member)
        except KeyError:  # a link to nothing
            file = None
        if file is None:
            raise BadImage(f"the archive has no file {name}")
        return file
