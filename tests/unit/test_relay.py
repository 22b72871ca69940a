"""Requests and WebSockets passed on to another server: bodies, headers, redirects, sub-protocols, ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from yarl import URL

from pyk.relay import relay_http, relay_websocket

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def inner(request: web.BaseRequest) -> web.StreamResponse:
    """The server behind."""
    if request.path == "/socket":
        socket = web.WebSocketResponse(protocols=("second", "third"))
        await socket.prepare(request)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                if message.data == "bye":
                    await socket.close(code=1001)
                    break
                await socket.send_str(message.data.upper())
            elif message.type is aiohttp.WSMsgType.BINARY:
                await socket.send_bytes(message.data[::-1])
        return socket
    if request.path == "/away":
        return web.Response(status=302, headers={"Location": "/here"})
    headers = {"X-Method": request.method, "X-Query": request.rel_url.raw_query_string}
    headers["X-Secret"] = request.headers.get("Authorization", "none")
    response = web.Response(body=await request.read(), status=207, headers=headers)
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


@asynccontextmanager
async def relayed() -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A client, and the address of a relay to `inner`."""
    async with serving(inner) as behind, aiohttp.ClientSession(auto_decompress=False) as upstream:

        async def outer(request: web.BaseRequest) -> web.StreamResponse:
            url = URL(f"http://{behind}{request.raw_path}", encoded=True)
            if request.headers.get("Upgrade"):
                return await relay_websocket(upstream, request, url)
            return await relay_http(upstream, request, url, location=lambda text: f"/prefix{text}")

        async with serving(outer) as front, aiohttp.ClientSession() as client:
            yield client, f"http://{front}"


async def test_a_request_and_its_answer_are_passed_on_whole() -> None:
    async with relayed() as (client, url):
        headers = {"Authorization": "Bearer secret", "Connection": "close"}
        async with client.put(f"{url}/a%2Fb?x=1&y=+z", data=b"z" * 300_000, headers=headers) as answer:
            assert (answer.status, await answer.read()) == (207, b"z" * 300_000)
            assert answer.headers["X-Method"] == "PUT"
            assert answer.headers["X-Secret"] == "none"
            assert answer.headers["X-Query"] == "x=1&y=+z"
            assert len(answer.headers.getall("Set-Cookie")) == 2
        async with client.head(url) as answer:
            assert (answer.status, await answer.read()) == (207, b"")


async def test_a_redirect_goes_back_to_the_client() -> None:
    async with relayed() as (client, url), client.get(f"{url}/away", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, "/prefix/here")


async def test_a_websocket_is_passed_on_with_its_protocol_and_its_end() -> None:
    protocols = ("first", "second")
    async with relayed() as (client, url), client.ws_connect(f"{url}/socket", protocols=protocols) as socket:
        assert socket.protocol == "second"
        await socket.send_str("text")
        assert await socket.receive_str(timeout=10) == "TEXT"
        await socket.send_bytes(b"\x00\x01\x02")
        assert await socket.receive_bytes(timeout=10) == b"\x02\x01\x00"
        await socket.send_str("bye")
        assert (await socket.receive(timeout=10)).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1001
