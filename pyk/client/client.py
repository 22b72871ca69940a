"""Requests to the API server: one method a verb, JSON documents in and out, errors as `ApiError`.

A connection that cannot be made or breaks is `ClientUnavailable`; whether a write that failed so has happened
is unknown, and the caller reads the present state before it decides again. Retrying belongs to the loops, which have
back-off. But a loop's turn is several requests, and with a fault in every second one no turn would ever come to its
end; therefore a request that may be made twice without harm is made once more, at once, when it met a fault that is not
its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from pyk.api.kinds import Kind
from pyk.api.objects import Object, name_of, namespace_of
from pyk.api.status import ApiError
from pyk.client.config import ClientConfig, TokenFile
from pyk.errors import UserError

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

PatchDocument = dict[str, Any] | list[Any]
"""The body of a patch: an object for merge patches, a list of operations for a JSON Patch."""

REQUEST_TIMEOUT_SECONDS = 60.0
CONNECT_TIMEOUT_SECONDS = 10.0
REQUEST_CONNECTIONS = 16
KEEP_SECONDS = 60.0
_SERVER_FAULTS = (500, 502, 504)
LONGEST_EVENT_BYTES = 16 * 1024 * 1024


class ClientUnavailable(UserError):
    """The API server cannot be reached, or went away in the middle; the text is one line for people."""


@dataclass(frozen=True, slots=True)
class ObjectList:
    """A list: its objects (each with `apiVersion` and `kind`) and the revision that it shows."""

    items: list[Object]
    resource_version: str
    continue_token: str = ""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line of a watch: `type` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Object


class Client:
    """The API server as one user sees it. Use as an async context manager, or call `close`.

    `connections` is how many requests may be under way at the same time; more wait for their turn.
    """

    def __init__(
        self, config: ClientConfig, *, user_agent: str = "pyk", connections: int = REQUEST_CONNECTIONS
    ) -> None:
        self.config = config
        self._connections = connections
        self._user_agent = user_agent
        self._token_file = TokenFile(config.token_file) if config.token_file else None
        self._session: aiohttp.ClientSession | None = None
        self._streams: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        for session in (self._session, self._streams):
            if session is not None:
                await session.close()
        self._session = self._streams = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP session of short requests, made when first used (it belongs to the running event loop).

        It has few connections, which are kept: a TLS handshake costs more than waiting for a turn.
        """
        if self._session is None:
            self._session = self._new_session(limit=self._connections)
        return self._session

    @property
    def streams(self) -> aiohttp.ClientSession:
        """The HTTP session of what lasts (watches, logs, exec), with a connection for each."""
        if self._streams is None:
            self._streams = self._new_session(limit=0)
        return self._streams

    def _new_session(self, *, limit: int) -> aiohttp.ClientSession:
        headers = {"User-Agent": self._user_agent, "Accept": "application/json"}
        if self.config.token:
            headers["Authorization"] = f"Bearer {self.config.token}"
        context = self.config.ssl_context()
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=context if context is not None else False, limit=limit, keepalive_timeout=KEEP_SECONDS
            ),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS, sock_connect=CONNECT_TIMEOUT_SECONDS),
            read_bufsize=2**18,
            auto_decompress=True,
        )

    def _authorization(self) -> dict[str, str]:
        """The header with a token that may change while this client lives. Raises `ConfigError`."""
        return {"Authorization": f"Bearer {self._token_file.read()}"} if self._token_file is not None else {}

    # Verbs

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        """One object. Raises `ApiError` 404 when there is none."""
        return await self._object("GET", kind.path(namespace, name))

    async def list(
        self,
        kind: Kind,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_token: str = "",
        resource_version: str = "",
    ) -> ObjectList:
        """The objects of a namespace, or of all of them; at most `limit` when that is not 0."""
        params = _given(
            labelSelector=label_selector,
            fieldSelector=field_selector,
            limit=str(limit or ""),
            resourceVersion=resource_version,
            **{"continue": continue_token},
        )
        body = await self._object("GET", kind.path(namespace), params=params)
        items: list[Object] = body.get("items") or []
        for item in items:
            item["apiVersion"] = kind.api_version
            item["kind"] = kind.kind
        metadata = body["metadata"]
        return ObjectList(items, metadata.get("resourceVersion", ""), metadata.get("continue", ""))

    async def create(
        self, kind: Kind, obj: Object, *, namespace: str = "", name: str = "", subresource: str = ""
    ) -> Object:
        """Create the object (or, with `name` and `subresource`, post to one: a binding). Returns what was stored."""
        path = kind.path(namespace or namespace_of(obj), name, subresource)
        return await self._object("POST", path, body=obj)

    async def update(self, kind: Kind, obj: Object, *, subresource: str = "") -> Object:
        """Replace the object; with a `resourceVersion` in it only if that is the newest (else `ApiError` 409)."""
        return await self._object("PUT", kind.path(namespace_of(obj), name_of(obj), subresource), body=obj)

    async def patch(
        self,
        kind: Kind,
        name: str,
        namespace: str,
        patch: PatchDocument,
        *,
        content_type: str = MERGE_PATCH,
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
    ) -> Object:
        """Change part of the object."""
        params = _given(fieldManager=field_manager, force="true" if force else "")
        path = kind.path(namespace, name, subresource)
        return await self._object("PATCH", path, params=params, body=patch, content_type=content_type)

    async def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str = "",
        *,
        grace_period_seconds: int | None = None,
        propagation_policy: str | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> Object:
        """Ask for deletion; the object as it is now (with a deletionTimestamp) or a `Status`."""
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        if propagation_policy is not None:
            options["propagationPolicy"] = propagation_policy
        if preconditions := _given(uid=uid or "", resourceVersion=resource_version or ""):
            options["preconditions"] = preconditions
        return await self._object("DELETE", kind.path(namespace, name), body=options)

    async def watch(
        self,
        kind: Kind,
        namespace: str = "",
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        timeout_seconds: int | None = None,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Events from a revision on, until the server ends the watch or the generator is closed.

        Raises `ApiError` 410 when the revision is too old to start from, `ClientUnavailable` when the connection
        breaks.
        """
        params = _given(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=resource_version,
            labelSelector=label_selector,
            fieldSelector=field_selector,
            timeoutSeconds="" if timeout_seconds is None else str(timeout_seconds),
        )
        async with aclosing(self._lines(kind.path(namespace), params)) as lines:
            async for line in lines:
                event = orjson.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError.from_status(500, event["object"])
                yield WatchEvent(event["type"], event["object"])

    async def _lines(self, path: str, params: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        """The lines of a streamed answer."""
        async with self.stream("GET", path, params=params) as response:
            async for line in read_lines(response):
                yield line

    # Anything else

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """A request to any path; the body of the answer. Raises `ApiError` for a status of 400 and above.

        It is made again once after a fault of the server or the connection, unless it creates or patches by steps.
        """
        all_headers = {**({"Content-Type": "application/json"} if body is not None else {}), **(headers or {})}
        try:
            return await self._request_once(method, path, params, body, all_headers)
        except (ApiError, ClientUnavailable) as error:
            if not _may_repeat(method, all_headers, error):
                raise
        return await self._request_once(method, path, params, body, all_headers)

    async def _request_once(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Any, headers: Mapping[str, str]
    ) -> bytes:
        try:
            async with self.session.request(
                method,
                self.config.server + path,
                params=params,
                data=None if body is None else orjson.dumps(body),
                headers={**headers, **self._authorization()},
                server_hostname=self.config.server_name or None,
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unavailable(error) from error
        if response.status >= 400:
            raise ApiError.from_body(response.status, content)
        return content

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response to be read piece by piece (a watch, a followed log); without a limit on its time."""
        try:
            async with self.streams.request(
                method,
                self.config.server + path,
                params=params,
                headers=self._authorization(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_SECONDS),
                server_hostname=self.config.server_name or None,
            ) as response:
                if response.status >= 400:
                    raise ApiError.from_body(response.status, await response.read())
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unavailable(error) from error

    @asynccontextmanager
    async def websocket(
        self, path: str, *, params: Sequence[tuple[str, str]], protocols: tuple[str, ...]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A WebSocket (exec, attach, port-forward) with one of the given sub-protocols."""
        from yarl import URL

        try:
            async with self.streams.ws_connect(
                URL(self.config.server + path).with_query(list(params)),
                protocols=protocols,
                headers=self._authorization(),
                max_msg_size=LONGEST_EVENT_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=5.0),
                autoping=True,
            ) as socket:
                yield socket
        except aiohttp.WSServerHandshakeError as error:
            raise ApiError(error.status, "", error.message or f"the server answered {error.status}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unavailable(error) from error

    async def _object(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Object:
        content = await self.request(method, path, params=params, body=body, headers={"Content-Type": content_type})
        document: Object = orjson.loads(content)
        return document

    def _unavailable(self, error: BaseException) -> ClientUnavailable:
        what = "did not answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        return ClientUnavailable(f"the API server at {self.config.server} cannot be reached: {what}")


def _may_repeat(method: str, headers: Mapping[str, str], error: ApiError | ClientUnavailable) -> bool:
    """Whether a failed request says the same when it is made twice, and may meet a server that is well again."""
    if method == "POST" or headers.get("Content-Type") == JSON_PATCH:
        return False
    if isinstance(error, ApiError):
        return error.code in _SERVER_FAULTS
    return not isinstance(error.__cause__, TimeoutError)  # its time is spent


async def read_lines(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """The lines of a streamed response, of any length up to `LONGEST_EVENT_BYTES`."""
    pending = bytearray()
    async for chunk in response.content.iter_any():
        if b"\n" not in chunk:
            pending += chunk
            if len(pending) > LONGEST_EVENT_BYTES:
                raise ClientUnavailable(f"a line of more than {LONGEST_EVENT_BYTES} bytes came from {response.url}")
            continue
        lines = (bytes(pending) + chunk).split(b"\n")
        pending = bytearray(lines.pop())
        for line in lines:
            if line:
                yield line


def _given(**params: str) -> dict[str, str]:
    return {key: value for key, value in params.items() if value != ""}
