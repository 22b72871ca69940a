"""A registry as a client sees it: manifests and blobs of one repository at one endpoint, fetched and sent.

Source: the OCI distribution specification 1.1; for tokens, the distribution project's "Token Authentication
Specification" and "OAuth2". A broken transfer goes on from where it broke (RFC 9110, Range); what arrives is believed
only when its digest is right. Errors carry the registry's own words.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from agent.images import manifest as formats
from agent.images.manifest import Descriptor
from agent.images.registries import Credential, Endpoint
from pyk.reconcile.clock import Clock

_CONNECT_SECONDS = 15
_SILENCE_SECONDS = 30
"""How long a transfer may stand still before it counts as broken."""
_ATTEMPTS = 5
_FIRST_PAUSE_SECONDS = 0.5
_CHUNK = 1 << 18
_MOST_ERROR_BYTES = 64 << 10
_CHALLENGE = re.compile(r'([a-zA-Z_]+)=(?:"([^"]*)"|([^\s,]+))')


class RegistryError(Exception):
    """The registry said no, or said nothing. `status` is the HTTP status, 0 when there was no answer."""

    def __init__(self, message: str, *, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def is_refusal(self) -> bool:
        """Whether other credentials might do."""
        return self.status in (401, 403)


class _Broken(Exception):
    """A transfer that may be tried again."""


Progress = Callable[[int], None]
"""Told how many bytes of a blob are here, or sent."""


class Repository:
    """One repository at one endpoint, with one credential (None: nobody in particular)."""

    def __init__(
        self, session: aiohttp.ClientSession, endpoint: Endpoint, credential: Credential | None, clock: Clock
    ) -> None:
        self._session = session
        self._endpoint = endpoint
        self._credential = credential
        self._clock = clock
        self._authorization: dict[str, str] = {}
        self._ssl: Any = None

    async def manifest(self, reference: str) -> tuple[bytes, str]:
        """The manifest of a tag or digest as it is stored, and its media type. Raises `RegistryError`, `BadImage`."""
        headers = {"Accept": ", ".join(formats.ACCEPTED)}
        async with self._request("GET", f"manifests/{reference}", headers=headers) as response:
            content = await _limited(response, formats.MOST_MANIFEST_BYTES)
            if reference.startswith("sha256:") and formats.digest_of(content) != reference:
                raise formats.BadImage(f"the registry's answer for {reference} is {formats.digest_of(content)}")
            return content, response.headers.get("Content-Type", "")

    async def blob(self, blob: Descriptor) -> bytes:
        """A small blob as a whole. Raises `RegistryError`, `BadImage`."""
        async with self._request("GET", f"blobs/{blob.digest}") as response:
            content = await _limited(response, formats.MOST_CONFIG_BYTES)
        if formats.digest_of(content) != blob.digest:
            raise formats.BadImage(f"the registry's answer for {blob.digest} is {formats.digest_of(content)}")
        return content

    async def download(self, blob: Descriptor, target: Path, progress: Progress = lambda here: None) -> None:
        """Fetch a blob into the file, going on behind what is in it. Raises `RegistryError`, `BadImage` when the
        content is another one (the file is then gone), OSError when it cannot be written."""
        pause = _FIRST_PAUSE_SECONDS
        attempt = 0
        while True:
            before = _size_of(target)
            try:
                await self._fetch(blob, target, progress)
                break
            except _Broken as broken:
                here = _size_of(target)
                attempt = 1 if here > before else attempt + 1  # it gets on, if slowly
                if attempt >= _ATTEMPTS:
                    raise RegistryError(f"fetching {blob.digest} broke off {attempt} times: {broken}") from broken
                await self._clock.sleep(pause)
                pause = min(8.0, pause * 2)
        found = await asyncio.to_thread(_digest_of_file, target)
        if found != blob.digest:
            await asyncio.to_thread(target.unlink)
            raise formats.BadImage(f"the registry's content for {blob.digest} is {found}")

    async def _fetch(self, blob: Descriptor, target: Path, progress: Progress) -> None:
        here = _size_of(target)
        if here > blob.size:
            here = 0
        if here == blob.size:
            progress(here)
            return
        headers = {"Range": f"bytes={here}-"} if here else {}
        headers["Accept-Encoding"] = "identity"  # the digest is of what is stored
        try:
            async with self._request("GET", f"blobs/{blob.digest}", headers=headers) as response:
                resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(
                    f"bytes {here}-"
                )
                here = here if resumed else 0
                with target.open("r+b" if resumed else "wb") as file:
                    file.seek(here)
                    async for chunk in response.content.iter_chunked(_CHUNK):
                        here += len(chunk)
                        if here > blob.size:
                            raise formats.BadImage(
                                f"the registry sends more than the {blob.size} bytes of {blob.digest}"
                            )
                        await asyncio.to_thread(file.write, chunk)
                        progress(here)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _Broken(_words(error)) from error
        except RegistryError as error:
            if error.status in (0, 429) or error.status >= 500:
                raise _Broken(str(error)) from error
            raise
        if here < blob.size:
            raise _Broken(f"{here} of {blob.size} bytes came")

    # Sending

    async def has_blob(self, digest: str) -> bool:
        """Whether the repository has the blob. Raises `RegistryError`."""
        try:
            async with self._request("HEAD", f"blobs/{digest}", writes=True):
                return True
        except RegistryError as error:
            if error.status == 404:
                return False
            raise

    async def upload(self, blob: Descriptor, source: Path, progress: Progress = lambda sent: None) -> None:
        """Send a file as a blob in one PUT. Raises `RegistryError`, OSError."""
        async with self._request("POST", "blobs/uploads/", writes=True) as response:
            location = response.headers.get("Location")
            place = response.url.join(URL(location, encoded=True)) if location else None
        if place is None:
            raise RegistryError(f"{self._endpoint.base.host}: the registry does not say where to send a blob")

        async def content() -> AsyncIterator[bytes]:
            sent = 0
            with source.open("rb") as file:
                while chunk := await asyncio.to_thread(file.read, _CHUNK):
                    sent += len(chunk)
                    yield chunk
                    progress(sent)

        url = place.update_query({"digest": blob.digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        async with self._request("PUT", url, headers=headers, data=content, writes=True):
            pass

    async def put_manifest(self, reference: str, content: bytes, media_type: str) -> None:
        """Store a manifest under a tag or digest. Raises `RegistryError`."""
        headers = {"Content-Type": media_type}
        async with self._request("PUT", f"manifests/{reference}", headers=headers, data=lambda: content, writes=True):
            pass

    # Requests

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str | URL,
        *,
        headers: Mapping[str, str] | None = None,
        data: Callable[[], Any] | None = None,
        writes: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request that succeeds, after an answer to the registry's challenge if there is one."""
        url = path if isinstance(path, URL) else self._url(path)
        actions = "pull,push" if writes else "pull"
        for challenged in (False, True):
            async with self._send(method, url, {**(headers or {}), **self._authorized(url, actions)}, data) as response:
                if response.status < 400:
                    yield response
                    return
                challenge = response.headers.getall("WWW-Authenticate", [])
                if response.status != 401 or challenged or not challenge:
                    raise await _refused(method, response)
            self._authorization[actions] = await self._answer(challenge, actions)

    @asynccontextmanager
    async def _send(
        self, method: str, url: URL, headers: Mapping[str, str], data: Callable[[], Any] | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._ssl is None:
            self._ssl = await asyncio.to_thread(self._endpoint.tls.context) if url.scheme == "https" else True
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
        try:
            response = await self._session.request(
                method, url, headers=CIMultiDict(headers), data=data() if data else None, ssl=self._ssl, timeout=timeout
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RegistryError(f'failed to do request: {method} "{url}": {_words(error)}') from error
        try:
            yield response
        finally:
            response.release()

    def _url(self, path: str) -> URL:
        url = URL(f"{self._endpoint.base}{self._endpoint.repository}/{path}", encoded=True)
        return url.update_query({"ns": self._endpoint.host}) if self._endpoint.host else url

    def _authorized(self, url: URL, actions: str) -> dict[str, str]:
        """Only for the registry itself: an upload's address may be elsewhere."""
        known = self._authorization.get(actions)
        return {"Authorization": known} if known and url.origin() == self._endpoint.base.origin() else {}

    async def _answer(self, challenges: Sequence[str], actions: str) -> str:
        """The Authorization header that a challenge asks for. Raises `RegistryError`."""
        for challenge in challenges:
            scheme, _, rest = challenge.partition(" ")
            said = {name.lower(): quoted or plain for name, quoted, plain in _CHALLENGE.findall(rest)}
            if scheme.lower() == "bearer" and said.get("realm"):
                return f"Bearer {await self._token(said, actions)}"
            if scheme.lower() == "basic" and self._credential is not None and self._credential.username:
                return _basic(self._credential)
        raise RegistryError(
            "pull access denied, repository does not exist or may require authorization: authorization failed: "
            "no basic auth credentials",
            status=401,
        )

    async def _token(self, challenge: Mapping[str, str], actions: str) -> str:
        realm = URL(challenge["realm"])
        if realm.scheme not in ("http", "https") or (realm.scheme == "http" and self._endpoint.base.scheme == "https"):
            raise RegistryError(
                f"the registry sends us for a token to {realm}: not over TLS as it is itself", status=401
            )
        scope = f"repository:{self._endpoint.repository}:{actions}"
        service = challenge.get("service", "")
        headers, form, query = {}, None, {"scope": scope, "service": service}
        if self._credential is not None and self._credential.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": self._credential.identity_token,
                "client_id": "pyk",
                **query,
            }
        elif self._credential is not None and self._credential.username:
            headers["Authorization"] = _basic(self._credential)
        method, url = ("GET", realm.update_query(query)) if form is None else ("POST", realm)
        async with self._send(method, url, headers, (lambda: form) if form else None) as response:
            if response.status >= 400:
                error = await _refused(method, response)
                raise RegistryError(f"failed to fetch oauth token: {error}", status=401)
            document = formats.parsed(
                await _limited(response, formats.MOST_MANIFEST_BYTES), "the token server's answer"
            )
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str):
            raise RegistryError(f"{realm.host}: the token server's answer has no token", status=401)
        return token


def _basic(credential: Credential) -> str:
    """RFC 7617."""
    return "Basic " + base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()


async def _refused(method: str, response: aiohttp.ClientResponse) -> RegistryError:
    """The registry's errors in its own words."""
    content = await response.content.read(_MOST_ERROR_BYTES)
    code, words = "", ""
    try:
        document = formats.parsed(content, "the answer")
        first = (document.get("errors") or [{}])[0]
        code, words = str(first.get("code") or ""), str(first.get("message") or document.get("details") or "")
    except (formats.BadImage, AttributeError, IndexError, TypeError, KeyError):
        words = ""
    shown = ": ".join(filter(None, (code, words)))
    text = f"{method} {response.url.with_query(None)}: {response.status} {response.reason}"
    return RegistryError(f"{text}: {shown}" if shown else text, status=response.status, code=code)


async def _limited(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """The whole answer. Raises `BadImage` when it is longer, `RegistryError` when it breaks off."""
    content = bytearray()
    try:
        async for chunk in response.content.iter_chunked(_CHUNK):
            content += chunk
            if len(content) > most_bytes:
                raise formats.BadImage(f"the answer of {response.url.host} is longer than {most_bytes} bytes")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise RegistryError(f"{response.url.host}: the answer broke off: {_words(error)}") from error
    return bytes(content)


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "i/o timeout"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {error.host}: no such host"
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        reason = os.strerror(error.os_error.errno).lower() if error.os_error.errno else str(error.os_error)
        return f"dial tcp {error.host}:{error.port}: connect: {reason}"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"tls: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientSSLError):
        is_plain = getattr(error.os_error, "reason", "") == "WRONG_VERSION_NUMBER"
        return "http: server gave HTTP response to HTTPS client" if is_plain else f"tls: {error.os_error}"
    return str(error) or type(error).__name__


def _size_of(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
