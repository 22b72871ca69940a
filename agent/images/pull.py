"""Pull images from registries into the store.

reference -> endpoints (registries.py) x credentials (keyring.py) -> manifest for this machine -> configuration, and the
layers that are not here, a few at a time -> each unpacked as soon as those below it are -> the index.

A download's file is named by its digest and survives its process: the next attempt, or the next agent, goes on where it
broke off. Pulls of one image wait for one another, also those of several agents that share the folder, and then find
its layers there. A cancelled or failed pull leaves nothing but such a file.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from agent.images import manifest as formats
from agent.images.distribution import RegistryError, Repository
from agent.images.image import Image, ImageUnavailable
from agent.images.keyring import credentials_for, fingerprint
from agent.images.layers import Layer, chain_of
from agent.images.layers import chain_id as chain_id_of
from agent.images.manifest import BadImage, Descriptor, Manifest, Platform
from agent.images.reference import Reference, parse_reference
from agent.images.registries import BadRegistriesFile, Credential, Endpoint, RegistriesFile
from agent.images.store import ANYBODY, ImageStore
from agent.images.unpack import BadArchive
from pyk.reconcile.clock import Clock

PARALLEL_DOWNLOADS = 3
PARALLEL_PULLS = 5
_LOOK_AGAIN_SECONDS = 0.1
_MOST_NESTED = 3
USER_AGENT = "pyk"


@dataclass(frozen=True, slots=True)
class Step:
    """How far one blob is: `what` is `waiting`, `downloading`, `unpacking`, `done` or `exists`; sizes are in bytes."""

    digest: str
    what: str
    here: int = 0
    total: int = 0


Watcher = Callable[[Step], None]


class Puller:
    """The `ImageSource` of registries."""

    def __init__(
        self, store: ImageStore, registries: RegistriesFile, clock: Clock, *, watcher: Watcher | None = None
    ) -> None:
        self._store = store
        self._registries = registries
        self._clock = clock
        self._watcher = watcher or (lambda step: None)
        self._downloads = store.image_dir / "downloads"
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._pulls = asyncio.Semaphore(PARALLEL_PULLS)
        self._slots = asyncio.Semaphore(PARALLEL_DOWNLOADS)

    async def pull(
        self, reference: str, credentials: Sequence[Mapping[str, Any]] = (), given: Credential | None = None
    ) -> Image:
        """Fetch the image of a full reference, as the pod's secrets `credentials` allow or as the one `given`.

        Raises `ImageUnavailable` with what each endpoint said.
        """
        parsed = parse_reference(reference)
        secrets = credentials_for(parsed.repository, credentials) + ([given] if given else [])
        turn = self._turns[reference]
        try:
            async with self._pulls, turn, aiohttp.ClientSession(headers={"User-Agent": USER_AGENT}) as session:
                return await self._pull(session, parsed, secrets)
        except (RegistryError, BadImage, BadArchive, BadRegistriesFile) as error:
            raise ImageUnavailable(f'failed to pull and unpack image "{reference}": {error}') from error
        finally:
            if not turn.locked() and reference in self._turns:
                del self._turns[reference]

    async def _pull(self, session: aiohttp.ClientSession, reference: Reference, secrets: Sequence[Credential]) -> Image:
        """From the first endpoint and credential that has it."""
        said: list[str] = []
        last: Exception | None = None
        endpoints = self._registries.read().endpoints(reference.host, reference.path)
        for endpoint in endpoints:
            for credential, open_to in _identities(endpoint, secrets):
                repository = Repository(session, endpoint, credential, self._clock)
                try:
                    content, digest = await self._manifest(repository, reference)
                except (RegistryError, BadImage) as error:
                    last = error
                    said.append(str(error))
                    if isinstance(error, RegistryError) and error.is_refusal:
                        continue
                    break
                return await self._fetch(repository, reference, content, digest, open_to)
        text = "; ".join(dict.fromkeys(said))
        missing = isinstance(last, RegistryError) and last.status == 404
        raise RegistryError(
            f'failed to resolve reference "{reference.name}": {text}{": not found" if missing else ""}'
        ) from last

    async def _manifest(self, repository: Repository, reference: Reference) -> tuple[Manifest, str]:
        """The manifest for this machine, and the digest of what the reference names."""
        content, media_type = await repository.manifest(reference.digest or reference.tag)
        digest = formats.digest_of(content)
        for _ in range(_MOST_NESTED):
            document = formats.parsed(content, "the manifest")
            if formats.kind_of(document, media_type) == "manifest":
                return formats.image_manifest(document), digest
            content, media_type = await repository.manifest(formats.chosen(document, Platform.here()).digest)
        raise BadImage(f"indexes of indexes, more than {_MOST_NESTED} deep")

    async def _fetch(
        self, repository: Repository, reference: Reference, manifest: Manifest, digest: str, open_to: str
    ) -> Image:
        config = await repository.blob(manifest.config)
        diff_ids = formats.diff_ids(formats.parsed(config, "the image's configuration"), len(manifest.layers))
        chain = chain_of(diff_ids)
        for blob in manifest.layers:
            self._watcher(Step(blob.digest, "waiting", 0, blob.size))
        with self._store.adding():
            tasks: list[asyncio.Task[Layer]] = []
            failure: Exception | None = None
            try:
                async with asyncio.TaskGroup() as group:
                    for number, blob in enumerate(manifest.layers):
                        work = self._layer(
                            repository, blob, diff_ids[number], chain[:number], tasks[-1] if tasks else None
                        )
                        tasks.append(group.create_task(work))
            except* (RegistryError, BadImage, BadArchive, OSError) as failures:
                failure = _first(failures)  # raised outside: in here it would be put into a group again
            if failure is not None:
                raise failure
            layers = [task.result() for task in tasks]
            return await asyncio.to_thread(
                self._store.add, reference, config, layers, blobs=manifest.layers, digest=digest, open_to=open_to
            )

    async def _layer(
        self,
        repository: Repository,
        blob: Descriptor,
        diff_id: str,
        below: Sequence[str],
        previous: asyncio.Task[Layer] | None,
    ) -> Layer:
        """Fetch a layer beside the others, and unpack it when those below it are there."""
        layers = self._store.layers
        chain_id = chain_id_of(below[-1] if below else "", diff_id)
        if layers.has(chain_id):
            self._watcher(Step(blob.digest, "exists", blob.size, blob.size))
            return Layer(diff_id, chain_id, await asyncio.to_thread(layers.size, chain_id))
        async with self._held(blob):
            await self._downloaded(repository, blob)
        # Nothing is held while waiting: another image may have the same layers in another order.
        if previous is not None:
            await previous
        async with self._held(blob):
            if not layers.has(chain_id):
                file = await self._downloaded(repository, blob)
                self._watcher(Step(blob.digest, "unpacking", blob.size, blob.size))
                await asyncio.to_thread(self._unpack, file, below, diff_id)
        self._watcher(Step(blob.digest, "done", blob.size, blob.size))
        return Layer(diff_id, chain_id, await asyncio.to_thread(layers.size, chain_id))

    def _unpack(self, file: Path, below: Sequence[str], diff_id: str) -> None:
        with file.open("rb") as archive:
            self._store.layers.add(archive, below, diff_id)
        file.unlink()

    async def _downloaded(self, repository: Repository, blob: Descriptor) -> Path:
        """The file of the blob, whole and with the right content."""
        whole = self._downloads / blob.digest.replace(":", "-")
        if not whole.exists():
            part = whole.with_name(f"{whole.name}.part")
            async with self._slots:
                await repository.download(
                    blob, part, lambda here: self._watcher(Step(blob.digest, "downloading", here, blob.size))
                )
            part.rename(whole)
        return whole

    @asynccontextmanager
    async def _held(self, blob: Descriptor) -> AsyncIterator[None]:
        """Be the only one, of all processes, that works on the blob's file."""
        self._downloads.mkdir(parents=True, exist_ok=True)
        with (self._downloads / f"{blob.digest.replace(':', '-')}.lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await self._clock.sleep(_LOOK_AGAIN_SECONDS)
            yield


def _identities(endpoint: Endpoint, secrets: Sequence[Credential]) -> list[tuple[Credential | None, str]]:
    """Whom to be at an endpoint, in order, and whom what is pulled so is open to: the pod's secrets, the node's own
    credential, nobody in particular."""
    found: list[tuple[Credential | None, str]] = [(secret, fingerprint(secret)) for secret in secrets]
    found.append((endpoint.credential, ANYBODY))
    return found


def _first(failures: BaseExceptionGroup[Exception]) -> Exception:
    inner = failures.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
