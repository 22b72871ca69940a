"""A client without an event loop, for the command line: it starts in a blink because it imports little.

The same paths, errors and kubeconfig as `pyk.client.client`; one connection, kept open between requests.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from pyk.api.kinds import Kind
from pyk.api.objects import Object
from pyk.api.status import ApiError
from pyk.client.config import ClientConfig, ConfigError
from pyk.errors import UserError

TIMEOUT_SECONDS = 30.0


class ServerUnreachable(UserError):
    """No connection to the API server; the text is one line for people."""


class BlockingClient:
    """The API server as one user sees it."""

    def __init__(self, config: ClientConfig, *, user_agent: str = "pyk") -> None:
        self.config = config
        self._headers = {"User-Agent": user_agent, "Accept": "application/json"}
        if config.token:
            self._headers["Authorization"] = f"Bearer {config.token}"
        self._context = config.ssl_context()
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Close the connection. Idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        """One object. Raises `ApiError` 404 when there is none."""
        found: Object = self.json("GET", kind.path(namespace, name))
        return found

    def list(self, kind: Kind, namespace: str = "", *, label_selector: str = "", field_selector: str = "") -> Object:
        """The list document of a namespace, or of all."""
        params = {"labelSelector": label_selector, "fieldSelector": field_selector}
        found: Object = self.json("GET", kind.path(namespace), params=params)
        return found

    def json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Any:
        """A request whose answer is a JSON document. Raises `ApiError` for a status of 400 and above."""
        response = self._send(method, path, params, body, content_type, accept)
        content = self._read(response)
        return json.loads(content) if content else None

    def stream(
        self, path: str, *, params: Mapping[str, str] | None = None, accept: str = "application/json"
    ) -> Iterator[bytes]:
        """The pieces of a response as they come (a watch, a log), for as long as it lasts."""
        response = self._send("GET", path, params, None, "application/json", accept)
        if self._connection is not None and self._connection.sock is not None:
            self._connection.sock.settimeout(None)
        try:
            while piece := response.read1(65536):
                yield piece
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            self.close()

    def lines(
        self, path: str, *, params: Mapping[str, str] | None = None, accept: str = "application/json"
    ) -> Iterator[bytes]:
        """The lines of a streamed response, without their ends."""
        pending = b""
        for piece in self.stream(path, params=params, accept=accept):
            *whole, pending = (pending + piece).split(b"\n")
            yield from whole
        if pending:
            yield pending

    def _send(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Any, content_type: str, accept: str
    ) -> http.client.HTTPResponse:
        query = urlencode({key: value for key, value in (params or {}).items() if value != ""})
        target = urlsplit(self.config.server).path + path + (f"?{query}" if query else "")
        payload = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, "Accept": accept}
        if payload is not None:
            headers["Content-Type"] = content_type
        may_retry = self._connection is not None and method in ("GET", "HEAD")
        try:
            try:
                response = self._exchange(method, target, payload, headers)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                if not may_retry:
                    raise
                self.close()  # a connection that was kept too long: once more on a new one
                response = self._exchange(method, target, payload, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error) from error
        if response.status >= 400:
            raise ApiError.from_body(response.status, self._read(response))
        return response

    def _exchange(
        self, method: str, target: str, payload: bytes | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request(method, target, payload, dict(headers))
        return self._connection.getresponse()

    def _connect(self) -> http.client.HTTPConnection:
        url = urlsplit(self.config.server)
        if url.hostname is None:
            raise ConfigError(f"the kubeconfig's server is no URL: {self.config.server!r}")
        connection = http.client.HTTPConnection(url.hostname, url.port or 443, timeout=TIMEOUT_SECONDS)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            name = self.config.server_name or url.hostname
            connection.sock = self._context.wrap_socket(connection.sock, server_hostname=name)
        return connection

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return ServerUnreachable(
            f"cannot reach the cluster at {self.config.server}: {reason}. Is it running? Start one with 'pyk up'"
        )
