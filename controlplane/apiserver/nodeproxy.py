"""Requests that a node answers: logs, exec, attach, forwarded ports and its own API, relayed over mutual TLS.

The API server shows the node's agent its own client certificate (`apiserver-kubelet-client`) and checks the agent's
against the cluster's authority. Bytes and WebSocket frames are passed on as they come, in both directions, and a slow
reader slows its writer down. The node is asked first: what it refuses with becomes a `Status`, and so does a node
that cannot be reached (500, with the words of kube-apiserver).
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
from aiohttp import web
from yarl import URL

from controlplane.apiserver import portforward
from controlplane.apiserver.channels import CHANNEL_PROTOCOLS, Codec, codec_of
from controlplane.apiserver.connections import Connections, send_head
from controlplane.apiserver.podproxy import UNREACHABLE, Target, redirect_of
from controlplane.apiserver.podtargets import container_for, log_parameters, node_address, waiting_message
from pyk.api.objects import Object
from pyk.api.status import ApiError, bad_request
from pyk.relay import is_websocket, relay_http, relay_websocket
from pyk.tls import client_context

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
_CLOSE_SECONDS = 2.0
"""How long the other side of a WebSocket has to answer a close."""
FRAME_BYTES = 16 << 20
"""The largest WebSocket message that is relayed."""
_ERROR_BYTES = 50_000
_BINARY, _BASE64 = "binary.k8s.io", "base64.binary.k8s.io"
_LONGEST_SECONDS = 4 * 3600.0
"""After which a stream is ended, as kubelets end idle ones."""
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length")
)
_NOT_FORWARDED = _HOP_BY_HOP | {"authorization", "cookie", "accept-encoding"}
_REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed"}


class NodeProxy:
    """Relays to nodes. `get_node` gives a Node by name as it is now; `connections` tells of clients that went away."""

    def __init__(self, pki_dir: Path | str, get_node: Callable[[str], Object | None], connections: Connections) -> None:
        self._pki_dir = Path(pki_dir)
        self._get_node = get_node
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close idle connections to nodes."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def pod_log(self, request: web.Request, pod: Object) -> web.StreamResponse:
        """GET pods/NAME/log. Raises `ApiError`."""
        container = container_for(pod, request.query.get("container", ""))
        parameters = log_parameters(pod, request.query)
        node = (pod["spec"].get("nodeName")) or ""
        if not node:
            return web.Response(text="")  # as Kubernetes answers for a pod that has no node yet
        metadata = pod["metadata"]
        url = self._url(node, f"/containerLogs/{metadata['namespace']}/{metadata['name']}/{container}", parameters)
        try:
            return await self._relay(request, "GET", url, default_type="text/plain", may_be_framed=True)
        except ApiError as error:
            waiting = waiting_message(pod, container)
            if error.code in (400, 404) and waiting and ("previous", "true") not in parameters:
                raise bad_request(waiting) from error
            raise

    async def node_proxy(self, request: web.Request, node: Object, path: str) -> web.StreamResponse:
        """Any request below nodes/NAME/proxy, relayed to the node API at `path`. Raises `ApiError`."""
        url = self._url(node["metadata"]["name"], f"/{path}", list(request.query.items()), node=node)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_FORWARDED}
        body = request.content if request.body_exists else None
        return await self._relay(request, request.method, url, headers=headers, body=body, passes_errors=True)

    async def stats_summary(self, node: Object) -> dict[str, Any]:
        """What a node and its pods use, as its agent measures it. Raises `ApiError`."""
        url = self._url(node["metadata"]["name"], "/stats/summary", [("only_cpu_and_memory", "true")], node=node)
        headers = {"Accept-Encoding": "identity"}
        upstream = await _reached("GET", url, self._client().request("GET", url, headers=headers))
        async with upstream:
            if upstream.status >= 400:
                raise await _refusal(upstream)
            summary: dict[str, Any] = orjson.loads(await _reached("GET", url, upstream.read()))
            return summary

    async def pod_proxy(self, request: web.Request, pod: Object, target: Target) -> web.StreamResponse:
        """Any request below pods/NAME/proxy, sent on to the pod by its node. Raises `ApiError`."""
        raw_path, metadata = request.rel_url.raw_path, pod["metadata"]
        # /api/v1/namespaces/NAMESPACE/pods/NAME/proxy, and what follows
        parts = raw_path.split("/", 8)
        query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
        if len(parts) < 9 and request.method in ("GET", "HEAD"):
            return web.Response(status=301, headers={"Location": f"{raw_path}/{query}"})
        if not (pod["spec"].get("nodeName")):
            raise bad_request(f"pod {metadata['name']} does not have a host assigned")
        place = f"{metadata['namespace']}/{metadata['name']}/{target.scheme}/{target.port_of(pod)}"
        path = f"/podProxy/{place}/{parts[8] if len(parts) > 8 else ''}{query}"
        url = URL(self._url(pod["spec"]["nodeName"], path, []), encoded=True)
        try:
            if is_websocket(request):
                return await relay_websocket(self._client(), request, url)
            prefix = "/".join(parts[:8])
            return await relay_http(
                self._client(),
                request,
                url,
                check=_refuse_unreachable,
                location=lambda text: redirect_of(text, prefix),
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client of a proxied request went away") from error
            raise ApiError(
                503, "ServiceUnavailable", f"error trying to reach service: {_why(error, url.authority)}"
            ) from error

    async def pod_exec(self, request: web.Request, pod: Object, attach: bool = False) -> web.StreamResponse:
        """GET or POST pods/NAME/exec, or attach: a WebSocket on both sides. Raises `ApiError` before the upgrade."""
        query = request.query
        container = container_for(pod, query.get("container", ""))
        node = (pod["spec"].get("nodeName")) or ""
        if not node:
            raise bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")
        parameters = [(target, "1") for name, target in _STREAMS if query.get(name, "").lower() in ("1", "true")]
        if not attach:
            commands = query.getall("command", [])
            if not commands:
                raise bad_request("you must specify at least one command for the container")
            parameters += [("command", command) for command in commands]
        if request.headers.get("Upgrade", "").lower() != "websocket":
            # kubectl asks for SPDY when its WebSocket was refused, and shows the answer to this request only.
            if not _is_running(pod, container):
                raise bad_request(f'container "{container}" in pod "{pod["metadata"]["name"]}" is not running')
            raise bad_request("unable to upgrade: this server streams over WebSockets only (v5.channel.k8s.io)")
        codec = _negotiated(request)
        metadata = pod["metadata"]
        action = "attach" if attach else "exec"
        url = self._url(node, f"/{action}/{metadata['namespace']}/{metadata['name']}/{container}", parameters)
        return await self._relay_websocket(request, url, codec)

    async def port_forward(self, request: web.Request, pod: Object) -> web.StreamResponse:
        """GET or POST pods/NAME/portforward. Raises `ApiError` before the upgrade."""
        metadata, node = pod["metadata"], (pod["spec"].get("nodeName")) or ""
        if not node:
            raise bad_request(f"pod {metadata['name']} does not have a host assigned")
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise bad_request(f"unable to upgrade: ports are forwarded over WebSockets only ({portforward.TUNNEL})")

        async def open_port(port: int) -> aiohttp.ClientWebSocketResponse:
            path = f"/portForward/{metadata['namespace']}/{metadata['name']}"
            url = self._url(node, path, [("port", str(port))])
            times = aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS)
            opening = self._client().ws_connect(url, max_msg_size=FRAME_BYTES, timeout=times)
            opened: aiohttp.ClientWebSocketResponse = await _reached("GET", url, opening)
            return opened

        forwarding = portforward.forwarding_for(_offered(request), request.query.getall("ports", []), open_port)
        client_side = web.WebSocketResponse(
            protocols=(forwarding.protocol,) if forwarding.protocol else (),
            max_msg_size=FRAME_BYTES,
            compress=False,
            timeout=_CLOSE_SECONDS,
        )
        await send_head(client_side, request)
        end = _End()
        async with self._connections.ends_with(request, end, _LONGEST_SECONDS):
            await _until_first(forwarding.run(client_side), end.told())
        await client_side.close()
        return client_side

    def _url(self, name: str, path: str, parameters: list[tuple[str, str]], *, node: Object | None = None) -> str:
        node = node if node is not None else self._get_node(name)
        if node is None:
            raise ApiError(500, "", f'nodes "{name}" not found')
        query = f"?{urlencode(parameters)}" if parameters else ""
        return f"https://{node_address(node)}{path}{query}"

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = client_context((self._pki_dir / "ca.crt").read_bytes())
            prefix = self._pki_dir / "apiserver-kubelet-client"
            context.show(prefix.with_suffix(".crt"), prefix.with_suffix(".key"))
            tracing = aiohttp.TraceConfig()
            tracing.on_request_end.append(_read_refused_upgrade)
            self._session = aiohttp.ClientSession(
                trace_configs=[tracing],
                connector=aiohttp.TCPConnector(ssl=context, limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                auto_decompress=False,
            )
        return self._session

    async def _relay(
        self,
        request: web.Request,
        method: str,
        url: str,
        *,
        default_type: str = "application/octet-stream",
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        passes_errors: bool = False,
        may_be_framed: bool = False,
    ) -> web.StreamResponse:
        """Send a request to a node and stream its answer back as it comes, over a WebSocket if the client asks so."""
        all_headers = {**(headers or {}), "Accept-Encoding": "identity"}
        sent = self._client().request(method, url, headers=all_headers, data=body, allow_redirects=False)
        upstream = await _reached(method, url, sent)
        try:
            if upstream.status >= 400 and not passes_errors:
                raise await _refusal(upstream)
            if may_be_framed and is_websocket(request):
                return await self._relay_in_frames(request, upstream)
            response = web.StreamResponse(status=upstream.status)
            response.headers["Content-Type"] = upstream.headers.get("Content-Type", default_type)
            if "Content-Encoding" in upstream.headers:
                response.headers["Content-Encoding"] = upstream.headers["Content-Encoding"]
            await send_head(response, request)
            end = _End()
            async with self._connections.ends_with(request, end, _LONGEST_SECONDS):
                await _until_first(_copy(upstream, response), end.told())
            return response
        finally:
            upstream.close()

    async def _relay_in_frames(self, request: web.Request, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        """Send what comes as messages of a WebSocket."""
        client_side = web.WebSocketResponse(protocols=(_BINARY, _BASE64), compress=False, timeout=_CLOSE_SECONDS)
        await send_head(client_side, request)
        end = _End()
        async with self._connections.ends_with(request, end, _LONGEST_SECONDS):
            await _until_first(_copy_in_frames(upstream, client_side), end.told())
        await client_side.close()
        return client_side

    async def _relay_websocket(self, request: web.Request, url: str, codec: Codec) -> web.StreamResponse:
        """Open a WebSocket to the node, then accept the client's, and pass frames on until one side ends."""
        opening = self._client().ws_connect(
            url,
            protocols=(codec.node_protocol,),
            max_msg_size=FRAME_BYTES,
            timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
        )
        node_side = await _reached("GET", url, opening)
        try:
            protocols = (codec.client_protocol,) if codec.client_protocol else ()
            client_side = web.WebSocketResponse(
                protocols=protocols, max_msg_size=FRAME_BYTES, compress=False, timeout=_CLOSE_SECONDS
            )
            await send_head(client_side, request)
            end = _End()
            async with self._connections.ends_with(request, end, _LONGEST_SECONDS):
                await _pump_both(client_side, node_side, codec, end)
            await client_side.close()
        finally:
            await node_side.close()
        return client_side


_STREAMS = (("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty"))
"""The API's names of a stream's parameters, and the node API's."""


class _End:
    """Told when a relay must end: the client is gone, the server stops, or it has lasted too long."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def stop(self) -> None:
        self._event.set()

    async def told(self) -> None:
        await self._event.wait()


async def _until_first(*running: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends; then end the others. Raises what one failed with, except for a broken connection."""
    tasks = [asyncio.create_task(each) for each in running]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, aiohttp.ClientError | ConnectionError):
            log.debug("a relayed stream broke off: %s", outcome)
        elif isinstance(outcome, Exception):
            raise outcome


async def _copy_in_frames(upstream: aiohttp.ClientResponse, client_side: web.WebSocketResponse) -> None:
    """An empty message first, as Kubernetes sends it to say that it goes on now."""
    if client_side.ws_protocol == _BASE64:
        await client_side.send_str("")
        async for chunk in upstream.content.iter_any():
            await client_side.send_str(base64.b64encode(chunk).decode())
        return
    await client_side.send_bytes(b"")
    async for chunk in upstream.content.iter_any():
        await client_side.send_bytes(chunk)


async def _copy(upstream: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
    async for chunk in upstream.content.iter_any():
        await response.write(chunk)
    await response.write_eof()


async def _pump_both(
    client_side: web.WebSocketResponse, node_side: aiohttp.ClientWebSocketResponse, codec: Codec, end: _End
) -> None:
    """Pass frames both ways until one side ends."""

    async def from_client() -> None:
        async for message in client_side:
            if message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
                try:
                    frame = codec.decode(message.data)
                except ValueError as error:
                    await client_side.close(code=aiohttp.WSCloseCode.INVALID_TEXT, message=str(error).encode())
                    return
                await node_side.send_bytes(frame)

    async def from_node() -> None:
        async for message in node_side:
            if message.type is aiohttp.WSMsgType.BINARY:
                frame = codec.encode(message.data)
                await (client_side.send_str(frame) if isinstance(frame, str) else client_side.send_bytes(frame))
        code = node_side.close_code or aiohttp.WSCloseCode.OK
        # 1006 means that there was no close frame and may not be sent in one.
        await client_side.close(
            code=code if code != aiohttp.WSCloseCode.ABNORMAL_CLOSURE else aiohttp.WSCloseCode.GOING_AWAY
        )

    await _until_first(from_client(), from_node(), end.told())


def _offered(request: web.Request) -> list[str]:
    """The client's sub-protocols, the one that it likes best first."""
    return [each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if each.strip()]


def _is_running(pod: Object, container: str) -> bool:
    """Whether a container runs, as far as the pod's status tells."""
    status = pod.get("status") or {}
    groups = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
    known = [each for group in groups for each in status.get(group) or () if each["name"] == container]
    return any("running" in (each.get("state") or {}) for each in known)


def _negotiated(request: web.Request) -> Codec:
    """The first of the client's sub-protocols that is served; without any, plain channels. Raises 400."""
    offered = _offered(request)
    for protocol in offered or [""]:
        codec = codec_of(protocol)
        if codec is not None:
            return codec
    supported = ", ".join(CHANNEL_PROTOCOLS)
    raise bad_request(f"requested protocol(s) are not supported: {offered}; supports [{supported}]")


async def _reached(method: str, url: str, sending: Awaitable[Any]) -> Any:
    """What comes of sending a request; a 500 `ApiError` in Go's words when the node cannot be reached."""
    try:
        return await sending
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        host = url.removeprefix("https://").partition("/")[0]
        message = f'{method.capitalize()} "{url}": {_why(error, host)}'
        raise ApiError(500, "", message) from error


def _why(error: Exception, host: str) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"tls: failed to verify certificate: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"tls: {error.os_error}"
    if isinstance(error, TimeoutError):
        return f"dial tcp {host}: i/o timeout"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        # asyncio words its own message for a failed connect; the system's name of the error is what people know.
        reason = os.strerror(number).lower() if number else str(error.os_error)
        return f"dial tcp {host}: connect: {reason}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "EOF"
    return str(error)


async def _refusal(upstream: aiohttp.ClientResponse) -> ApiError:
    """The node's own words as a `Status`."""
    text = (await upstream.content.read(_ERROR_BYTES)).decode(errors="replace").strip()
    return ApiError(upstream.status, _REASONS.get(upstream.status, ""), text or f"the node answered {upstream.status}")


async def _refuse_unreachable(upstream: aiohttp.ClientResponse) -> None:
    """Raise when the answer is the node's, not the pod's."""
    if UNREACHABLE in upstream.headers:
        text = (await upstream.content.read(_ERROR_BYTES)).decode(errors="replace")
        raise ApiError(503, "ServiceUnavailable", text)


async def _read_refused_upgrade(
    session: aiohttp.ClientSession, context: SimpleNamespace, answer: aiohttp.TraceRequestEndParams
) -> None:
    """Raise a node's refusal of a WebSocket in its own words, which aiohttp's error would not have."""
    if "Upgrade" in answer.headers and answer.response.status >= 400:
        try:
            raise await _refusal(answer.response)
        finally:
            answer.response.close()
