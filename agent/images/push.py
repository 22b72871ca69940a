"""Send an image of this machine to a registry.

A layer that the registry has already, as it came from one, is not sent again. The others are packed anew from their
unpacked form; where that gives other bytes than the archive they came from (tar has many ways to say the same), the
image's configuration is sent with the digests of what is sent, so what arrives is always whole and consistent.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import aiohttp

from agent.images import manifest as formats
from agent.images.compression import Hashing
from agent.images.distribution import RegistryError, Repository
from agent.images.image import ImageUnavailable
from agent.images.manifest import Descriptor, digest_of
from agent.images.pack import archive_directory
from agent.images.pull import USER_AGENT, Step, Watcher
from agent.images.reference import parse_reference
from agent.images.registries import BadRegistriesFile, Credential, RegistriesFile
from agent.images.store import ImageStore
from pyk.reconcile.clock import Clock


async def push(
    store: ImageStore,
    name: str,
    target: str,
    registries: RegistriesFile,
    clock: Clock,
    *,
    credential: Credential | None = None,
    watcher: Watcher = lambda step: None,
) -> str:
    """Send the image `name` as `target`: the digest of its manifest there.

    Raises `ImageUnavailable` with the registry's words, KeyError when there is no such image here, `BadReference`.
    """
    reference = parse_reference(target)
    if reference.digest:
        raise ImageUnavailable("the digest of what is pushed is not known before: leave it out of the name")
    config, chains, blobs = store.details(name)
    document = json.loads(config)
    try:
        endpoint = registries.read().own_endpoint(reference.host, reference.path)
        async with aiohttp.ClientSession(headers={"User-Agent": USER_AGENT}) as session:
            repository = Repository(session, endpoint, credential or endpoint.credential, clock)
            with tempfile.TemporaryDirectory(prefix=".pushing-", dir=store.image_dir) as folder:
                sent: list[Descriptor] = []
                for number, chain in enumerate(chains):
                    known = blobs[number] if number < len(blobs) else None
                    if known is not None and await repository.has_blob(known.digest):
                        watcher(Step(known.digest, "exists", known.size, known.size))
                        sent.append(known)
                        continue
                    packed = Path(folder) / "layer"
                    blob, diff_id = await asyncio.to_thread(_pack, store.layers.path(chain), packed)
                    document["rootfs"]["diff_ids"][number] = diff_id
                    await _send(repository, blob, packed, watcher)
                    sent.append(blob)
                if document != json.loads(config):
                    config = json.dumps(document, sort_keys=True).encode()
                file = Path(folder) / "config"
                file.write_bytes(config)
                about = Descriptor(digest_of(config), len(config), formats.OCI_CONFIG)
                await _send(repository, about, file, watcher)
            content = _manifest(about, sent)
            await repository.put_manifest(reference.tag, content, formats.OCI_MANIFEST)
    except (RegistryError, BadRegistriesFile) as error:
        raise ImageUnavailable(f'failed to push image "{reference.name}": {error}') from error
    return digest_of(content)


async def _send(repository: Repository, blob: Descriptor, file: Path, watcher: Watcher) -> None:
    if await repository.has_blob(blob.digest):
        watcher(Step(blob.digest, "exists", blob.size, blob.size))
        return
    await repository.upload(blob, file, lambda sent: watcher(Step(blob.digest, "uploading", sent, blob.size)))
    watcher(Step(blob.digest, "done", blob.size, blob.size))


def _manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": formats.OCI_MANIFEST,
        "config": config.to_document(),
        "layers": [
            {**layer.to_document(), "mediaType": layer.media_type.replace(*_AS_OCI) or formats.OCI_LAYER}
            for layer in layers
        ],
    }
    return json.dumps(document, sort_keys=True).encode()


_AS_OCI = ("application/vnd.docker.image.rootfs.diff.tar.gzip", formats.OCI_LAYER)


def _pack(directory: Path, target: Path) -> tuple[Descriptor, str]:
    """A gzipped archive of the layer: its descriptor, and the digest of what is in it."""
    with target.open("wb") as file:
        packed = _Gzip(file)
        archive_directory(directory, packed)
        packed.finish()
    with target.open("rb") as file:
        content = Hashing(file)
        content.drain(1 << 62)
    return Descriptor(content.digest, content.length, formats.OCI_LAYER), packed.diff_id


class _Gzip:
    """Packs what is written to it, without a time in the header, and keeps the digest of the plain content."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._hash = hashlib.sha256()
        self._packer = zlib.compressobj(6, zlib.DEFLATED, 31)

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._target.write(self._packer.compress(data))
        return len(data)

    def finish(self) -> None:
        self._target.write(self._packer.flush())

    @property
    def diff_id(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"
