"""Image manifests: what the documents of the OCI image and Docker's schema 2 formats say, and which of a list is ours.

Sources: OCI image specification (manifest.md, image-index.md, config.md), Docker's "Image Manifest V2, Schema 2". Pure.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
ACCEPTED = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)

MOST_MANIFEST_BYTES = 4 << 20
MOST_CONFIG_BYTES = 8 << 20
MOST_LAYERS = 500
"""As many as overlayfs takes."""

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "riscv64": ("riscv64", ""),
}


class BadImage(ValueError):
    """The documents do not make an image that can run here; the text is for people."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob by its content: digest (`sha256:...`) and size in bytes."""

    digest: str
    size: int
    media_type: str = ""

    def to_document(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: its configuration and its layers, lowest first."""

    config: Descriptor
    layers: Sequence[Descriptor]


@dataclass(frozen=True, slots=True)
class Platform:
    """What programs must be built for."""

    architecture: str
    variant: str = ""
    os: str = "linux"

    @staticmethod
    def here() -> Platform:
        """This machine's."""
        machine = platform.machine()
        architecture, variant = _ARCHITECTURES.get(machine, (machine, ""))
        return Platform(architecture, variant)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


def digest_of(content: bytes) -> str:
    """`sha256:` and the hash."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def parsed(content: bytes, what: str) -> Mapping[str, Any]:
    """The JSON object. Raises `BadImage`."""
    try:
        document = json.loads(content)
    except ValueError as error:
        raise BadImage(f"{what} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadImage(f"{what} is not a JSON object")
    return document


def kind_of(document: Mapping[str, Any], media_type: str = "") -> str:
    """`index` or `manifest`, by the media type of document or transport, else by what it holds. Raises `BadImage`."""
    stated = document.get("mediaType") or media_type.partition(";")[0].strip()
    if stated in (OCI_INDEX, DOCKER_LIST) or ("manifests" in document and "layers" not in document):
        return "index"
    if stated in (OCI_MANIFEST, DOCKER_MANIFEST) or ("config" in document and "layers" in document):
        return "manifest"
    if document.get("schemaVersion") == 1:
        raise BadImage("the image is in Docker's old schema 1 format, which is not supported: push it anew")
    raise BadImage(f"unsupported manifest media type {stated!r}")


def chosen(index: Mapping[str, Any], wanted: Platform) -> Descriptor:
    """The manifest of an index for the platform. Raises `BadImage` naming what there is."""
    entries = [entry for entry in index.get("manifests") or () if isinstance(entry, dict)]
    best: tuple[int, Mapping[str, Any]] | None = None
    for entry in entries:
        here = entry.get("platform") or {}
        if not here and len(entries) == 1:
            return descriptor(entry, "the index")
        if (here.get("os"), here.get("architecture")) != (wanted.os, wanted.architecture):
            continue
        variant = here.get("variant") or ""
        rank = 2 if variant == wanted.variant else 1 if not variant else 0
        if best is None or rank > best[0]:
            best = rank, entry
    if best is None:
        there = sorted({_shown(entry.get("platform") or {}) for entry in entries})
        raise BadImage(f"no match for platform in manifest: {wanted} wanted, there is {', '.join(there) or 'nothing'}")
    return descriptor(best[1], "the index")


def image_manifest(document: Mapping[str, Any]) -> Manifest:
    """Raises `BadImage`."""
    config = descriptor(document.get("config"), "config")
    if config.media_type and config.media_type not in (OCI_CONFIG, DOCKER_CONFIG):
        raise BadImage(f"this is no container image: its configuration is of type {config.media_type}")
    if config.size > MOST_CONFIG_BYTES:
        raise BadImage(f"the image's configuration has {config.size} bytes: at most {MOST_CONFIG_BYTES} are read")
    layers = [descriptor(layer, f"layers[{number}]") for number, layer in enumerate(document.get("layers") or ())]
    if len(layers) > MOST_LAYERS:
        raise BadImage(f"the image has {len(layers)} layers: at most {MOST_LAYERS} can be mounted")
    for layer in layers:
        if layer.media_type.endswith("+encrypted"):
            raise BadImage("the image's layers are encrypted, which is not supported")
    return Manifest(config, layers)


def diff_ids(config: Mapping[str, Any], layers: int) -> list[str]:
    """The digests of the uncompressed layers, lowest first. Raises `BadImage` when they are not as many as the
    layers."""
    found = (config.get("rootfs") or {}).get("diff_ids") or []
    if len(found) != layers or not all(_is_digest(one) for one in found):
        raise BadImage(f"the image's configuration tells of {len(found)} layers, its manifest of {layers}")
    return list(found)


def descriptor(document: Any, where: str) -> Descriptor:
    """Raises `BadImage` for what has no usable digest or size."""
    said = document if isinstance(document, dict) else {}
    digest, size = str(said.get("digest")), said.get("size")
    if not _is_digest(digest) or not isinstance(size, int) or size < 0:
        raise BadImage(f"{where}: no descriptor with a sha256 digest and a size")
    return Descriptor(digest, size, str(said.get("mediaType") or ""))


def _is_digest(text: Any) -> bool:
    if not isinstance(text, str) or not text.startswith("sha256:") or len(text) != 71:
        return False
    return all(letter in "0123456789abcdef" for letter in text[7:])


def _shown(said: Mapping[str, Any]) -> str:
    return "/".join(str(said[key]) for key in ("os", "architecture", "variant") if said.get(key)) or "unknown"
