"""HTTP requests and WebSockets passed on to another server, as a reverse proxy does; used on both legs to a pod.

The way to a pod is client, API server, node, pod, and each of the two in the middle takes the request in and sends it
on. Bodies are streamed in both directions, a slow reader slows its writer down, redirects go back to the client, and
what is only of one connection (hop-by-hop headers, RFC 9110 section 7.6.1) stays behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding")
) | {"upgrade"}
_NOT_SENT_ON = HOP_BY_HOP | {"host", "content-length", "authorization", "expect"}
MESSAGE_BYTES = 16 << 20
_CLOSE_SECONDS = 2.0


def passed_on(headers: Mapping[str, str], dropped: Iterable[str] = _NOT_SENT_ON) -> CIMultiDict[str]:
    """The headers that go on to the next server (or back); the caller's credentials never do."""
    left_out = frozenset(dropped)
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in left_out)


def is_websocket(request: web.BaseRequest) -> bool:
    """Whether the client asks for a WebSocket."""
    return request.headers.get("Upgrade", "").lower() == "websocket"


async def relay_http(
    session: aiohttp.ClientSession,
    request: web.BaseRequest,
    url: URL,
    *,
    check: Callable[[aiohttp.ClientResponse], Awaitable[None]] | None = None,
    location: Callable[[str], str] = lambda text: text,
) -> web.StreamResponse:
    """Send the request to `url` and its answer back. `check` may refuse the answer by raising; `location` rewrites
    where redirects lead. Raises `aiohttp.ClientError`, OSError and TimeoutError before anything has been answered."""
    body = request.content if request.body_exists else None
    headers = passed_on(request.headers)
    if body is not None and "Content-Length" in request.headers:
        headers["Content-Length"] = request.headers["Content-Length"]
    async with session.request(request.method, url, headers=headers, data=body, allow_redirects=False) as upstream:
        if check is not None:
            await check(upstream)
        answer_headers = passed_on(upstream.headers, HOP_BY_HOP)
        if "Location" in answer_headers:
            answer_headers["Location"] = location(answer_headers["Location"])
        response = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=answer_headers)
        await response.prepare(request)
        async for chunk in upstream.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


async def relay_websocket(session: aiohttp.ClientSession, request: web.BaseRequest, url: URL) -> web.StreamResponse:
    """Open a WebSocket to `url`, then accept the client's, and pass messages on until one side ends.

    Raises `aiohttp.ClientError`, OSError and TimeoutError before the client's has been accepted.
    """
    offered = [each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if each.strip()]
    dropped = _NOT_SENT_ON | {
        *("sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol", "sec-websocket-extensions", "origin")
    }
    times = aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS)
    async with session.ws_connect(
        url, protocols=offered, headers=passed_on(request.headers, dropped), max_msg_size=MESSAGE_BYTES, timeout=times
    ) as inner:
        chosen = (inner.protocol,) if inner.protocol else ()
        outer = web.WebSocketResponse(
            protocols=chosen, max_msg_size=MESSAGE_BYTES, compress=False, timeout=_CLOSE_SECONDS
        )
        await outer.prepare(request)
        tasks = [asyncio.create_task(_pass_on(outer, inner)), asyncio.create_task(_pass_on(inner, outer))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            await outer.close(code=_sendable(inner.close_code))
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, aiohttp.ClientError | ConnectionError):
                raise outcome
        return outer


def _sendable(code: int | None) -> int:
    """A close code that may be sent: some only say that none came."""
    return code if code is not None and 1000 <= code < 1004 else 1000


_Socket = aiohttp.ClientWebSocketResponse | web.WebSocketResponse


async def _pass_on(source: _Socket, target: _Socket) -> None:
    async for message in source:
        if message.type is aiohttp.WSMsgType.BINARY:
            await target.send_bytes(message.data)
        elif message.type is aiohttp.WSMsgType.TEXT:
            await target.send_str(message.data)
