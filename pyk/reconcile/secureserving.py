"""Pages of a component for those who may see them: HTTPS, and the API server says who asks and whether they may.

Who asks is known by a client certificate of the cluster's authority, or by a bearer token that the API server
recognises (TokenReview). Whether they may is its answer too (SubjectAccessReview): who may get the pod may see what was
decided about it. Nothing is kept between requests.

Bounds: so many requests at a time, seconds for each, and bytes of a request's head; who comes beyond that is cut off.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from pyk.api.kinds import BY_KIND, SUBJECT_ACCESS_REVIEW
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable

log = logging.getLogger(__name__)

REQUESTS = 32
SECONDS = 10.0
TOKEN_REVIEW = BY_KIND["authentication.k8s.io/v1", "TokenReview"]
ALL_AUTHENTICATED = "system:authenticated"


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: a name and groups."""

    name: str
    groups: tuple[str, ...]


class _Answer(Exception):
    """Ends a request with this status and message."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class PodPages:
    """Serves `PREFIX/NAMESPACE/NAME`, a JSON document about a pod; `page` makes it, or gives None."""

    def __init__(self, client: Client, prefix: str, page: Callable[[str], bytes | None]) -> None:
        self._client = client
        self._prefix = prefix
        self._page = page
        self._busy = 0

    async def serve(self, address: str, port: int, certificate: str, key: str, client_authority: str) -> None:
        """Serve until cancelled. The files are PEM. Raises `OSError` for files or an address that cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(client_authority)
        context.verify_mode = ssl.CERT_OPTIONAL
        server = await asyncio.start_server(self._serve_one, address, port, ssl=context, ssl_handshake_timeout=SECONDS)
        async with server:
            await server.serve_forever()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._busy < REQUESTS:
            self._busy += 1
            try:
                with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
                    async with asyncio.timeout(SECONDS):
                        head = await reader.readuntil(b"\r\n\r\n")
                        writer.write(await self._answer(head, writer.get_extra_info("peercert") or {}))
                        await writer.drain()
            finally:
                self._busy -= 1
        writer.close()

    async def _answer(self, head: bytes, certificate: Mapping[str, Any]) -> bytes:
        try:
            method, path, headers = _parsed(head)
            namespace, _, name = path.removeprefix(f"{self._prefix}/").partition("/")
            if method != "GET" or not path.startswith(f"{self._prefix}/") or not namespace or not name or "/" in name:
                raise _Answer("404 Not Found", f"there is GET {self._prefix}/NAMESPACE/NAME")
            await self._check(await self._who(certificate, headers), namespace, name)
            body = self._page(f"{namespace}/{name}")
            if body is None:
                raise _Answer("404 Not Found", f"nothing is recorded of pod {namespace}/{name}")
            return _response("200 OK", body)
        except _Answer as answer:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": answer.message}
            return _response(answer.status, orjson.dumps({**status, "code": int(answer.status[:3])}))

    async def _who(self, certificate: Mapping[str, Any], headers: Mapping[str, str]) -> Asker:
        pairs = [pair for names in certificate.get("subject", ()) for pair in names]
        name = next((value for attribute, value in pairs if attribute == "commonName"), "")
        if name:
            groups = (value for attribute, value in pairs if attribute == "organizationName")
            return Asker(name, (*groups, ALL_AUTHENTICATED))
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _Answer("401 Unauthorized", "show a client certificate or a bearer token")
        status = (await self._ask(TOKEN_REVIEW, {"token": token.strip()})).get("status") or {}
        if not status.get("authenticated"):
            raise _Answer("401 Unauthorized", "the bearer token is not valid")
        user = status["user"]
        return Asker(user.get("username") or "", tuple(user.get("groups") or ()))

    async def _check(self, asker: Asker, namespace: str, name: str) -> None:
        attributes = {"verb": "get", "version": "v1", "resource": "pods", "namespace": namespace, "name": name}
        spec = {"user": asker.name, "groups": list(asker.groups), "resourceAttributes": attributes}
        answer = await self._ask(SUBJECT_ACCESS_REVIEW, spec)
        if not (answer.get("status") or {}).get("allowed"):
            who = f'User "{asker.name}" cannot get resource "pods" in the namespace "{namespace}"'
            raise _Answer("403 Forbidden", f'pods "{name}" is forbidden: {who}')

    async def _ask(self, kind: Any, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        document = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {}, "spec": spec}
        try:
            return await self._client.create(kind, document)
        except (ApiError, ClientUnavailable) as error:
            log.warning("the API server does not say who may ask: %s", error)
            raise _Answer("503 Service Unavailable", "the API server cannot be asked who you are") from error


def _parsed(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, path and headers (names in lower case) of a request's head."""
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3:
        raise _Answer("400 Bad Request", "this is no HTTP request")
    pairs = (line.partition(":") for line in lines if line)
    return words[0], words[1].partition("?")[0], {name.strip().lower(): value.strip() for name, _, value in pairs}


def _response(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return (head + "Connection: close\r\n\r\n").encode() + body
