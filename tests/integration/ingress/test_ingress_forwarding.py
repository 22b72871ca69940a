"""The proxy between real clients and real backends: bodies, WebSockets, retries, and what breaks off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from ingress.certificates import Certificates
from ingress.endpoints import Endpoint, Upstream
from ingress.forward import KEPT_BODY_BYTES, Forwarder
from ingress.routes import Backend, Route
from ingress.server import Options, listening
from ingress.status import Place
from pyk.reconcile.clock import RealClock
from tests.ports import free_port

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
BIG = 3 << 20


@dataclass
class Stage:
    """A proxy, and whom it asks."""

    port: int
    tls_port: int
    session: aiohttp.ClientSession
    forwarder: Forwarder
    endpoints: list[Endpoint] = field(default_factory=list)
    route: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    clock = RealClock(seed=1)
    made = Stage(free_port(), free_port(), None, None)  # type: ignore[arg-type]
    forwarder = Forwarder(
        lambda host, path: Route("d/one", Backend("d", "web", "80"), **made.route) if host != "nowhere" else None,
        lambda backend: Upstream(tuple(made.endpoints), problem="" if made.endpoints else "nobody is there"),
        clock,
    )
    options = Options(
        Place("d", "p", "", ""), "127.0.0.1", made.port, made.tls_port, drain_seconds=0.1, finish_seconds=5
    )
    try:
        async with (
            listening(forwarder, Certificates(clock).listener, options, clock),
            aiohttp.ClientSession() as session,
        ):
            made.session, made.forwarder = session, forwarder
            yield made
    finally:
        await forwarder.close()


@asynccontextmanager
async def backend(handler: Handler) -> AsyncIterator[Endpoint]:
    runner = web.ServerRunner(web.Server(handler, access_log=None), shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield Endpoint("127.0.0.1", runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
    told = {"method": request.method, "path": request.raw_path, "headers": list(request.headers.items())}
    return web.json_response(told | {"bytes": len(body)}, headers={"X-Own": "1", "Set-Cookie": "a=b"})


async def test_a_request_arrives_as_it_was_sent(stage: Stage) -> None:
    async with backend(echo) as endpoint:
        stage.endpoints = [endpoint]
        url = f"{stage.url}/a%2Fb/c?x=%20y&z"
        from yarl import URL

        async with stage.session.post(URL(url, encoded=True), data=b"x" * 10, headers={"Host": "h.example"}) as answer:
            told = await answer.json()
            assert (told["method"], told["path"], told["bytes"]) == ("POST", "/a%2Fb/c?x=%20y&z", 10)
            headers = dict(told["headers"])
            assert headers["Host"] == "h.example"
            assert headers["X-Forwarded-For"] == "127.0.0.1"
            assert headers["X-Forwarded-Proto"] == "http"
            assert answer.headers["X-Own"] == "1"
        async with stage.session.head(stage.url) as answer:
            assert answer.status == 200
            assert int(answer.headers["Content-Length"]) > 0
        async with stage.session.get(f"https://127.0.0.1:{stage.tls_port}/", ssl=False) as answer:
            assert dict((await answer.json())["headers"])["X-Forwarded-Proto"] == "https"


@pytest.mark.parametrize("length", [KEPT_BODY_BYTES, KEPT_BODY_BYTES + 1, BIG, None])
async def test_bodies_of_every_size_pass_in_both_directions(stage: Stage, length: int | None) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(BIG >> 10):
            yield b"x" * 1024

    async def mirror(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        if request.content_length is not None:
            response.content_length = request.content_length
        await response.prepare(request)
        async for chunk in request.content.iter_any():
            await response.write(chunk)
        return response

    async with backend(mirror) as endpoint:
        stage.endpoints = [endpoint]
        data: Any = parts() if length is None else b"x" * length
        async with stage.session.put(stage.url, data=data, headers={"Expect": "100-continue"}) as answer:
            assert len(await answer.read()) == (BIG if length is None else length)
            assert answer.headers.get("Content-Length") == (None if length is None else str(length))


async def test_headers_that_the_backend_did_not_send_are_not_made_up(stage: Stage) -> None:
    async def answer_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 Fine\r\nX: 1\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async with await asyncio.start_server(answer_plainly, "127.0.0.1", 0) as server:
        stage.endpoints = [Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])]
        async with stage.session.get(stage.url) as answer:
            assert (answer.reason, await answer.text(), answer.headers["X"]) == ("Fine", "ok", "1")
            assert set(answer.headers) == {"X", "Content-Length", "Date"}


async def test_an_answer_is_passed_on_as_it_comes(stage: Stage) -> None:
    goes_on = asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        await goes_on.wait()
        await response.write(b"data: two\n\n")
        return response

    async with backend(slow) as endpoint:
        stage.endpoints = [endpoint]
        async with stage.session.get(stage.url) as answer:
            assert await answer.content.readany() == b"data: one\n\n"
            goes_on.set()
            assert await answer.content.read() == b"data: two\n\n"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_endpoint_that_refuses_is_replaced_whatever_the_method(stage: Stage, method: str) -> None:
    async with backend(echo) as endpoint:
        stage.endpoints = [Endpoint("127.0.0.1", free_port()), Endpoint("127.0.0.1", free_port()), endpoint]
        for _ in range(10):
            async with stage.session.request(method, stage.url, data=b"x") as answer:
                assert answer.status == 200


async def test_an_endpoint_that_breaks_off_is_replaced_if_the_method_may_be_repeated(stage: Stage) -> None:
    asked: list[str] = []

    async def breaks_off(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.method)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with backend(breaks_off) as bad, backend(echo) as good:
        stage.endpoints = [bad, good]
        for _ in range(10):
            async with stage.session.put(stage.url, data=b"x") as answer:
                assert (answer.status, (await answer.json())["bytes"]) == (200, 1)
        assert "PUT" in asked
        stage.endpoints = [bad]
        asked.clear()
        async with stage.session.post(stage.url, data=b"x") as answer:
            assert answer.status == 502
        assert asked == ["POST"], "it may have had its effect"


async def test_what_breaks_off_in_the_middle_does_so_for_the_client(stage: Stage) -> None:
    async def half(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 100
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    async with backend(half) as endpoint:
        stage.endpoints = [endpoint]
        async with stage.session.get(stage.url) as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()


async def test_answers_of_its_own_say_why(stage: Stage) -> None:
    async def code(host: str = "h") -> tuple[int, str]:
        async with stage.session.get(f"{stage.url}/x?y", headers={"Host": host}, allow_redirects=False) as answer:
            return answer.status, answer.headers.get("Location") or await answer.text()

    assert await code("nowhere") == (404, "404: no rule of an Ingress matches this host and path\n")
    assert await code() == (503, "503: nobody is there\n")
    stage.endpoints = [Endpoint("127.0.0.1", free_port())]
    assert (await code())[0] == 502

    async def silent(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    async with backend(silent) as endpoint:
        stage.endpoints = [endpoint]
        stage.route = {"read_seconds": 0.2}
        assert (await code())[0] == 504
    stage.route = {"redirects_to_tls": True}
    assert await code("h:8080") == (308, "https://h/x?y")


async def test_websockets_pass_both_ways_and_close(stage: Stage) -> None:
    async def upper(request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path == "/refused":
            return web.Response(status=403, text="not you")
        served = web.WebSocketResponse(protocols=("chat",))
        await served.prepare(request)
        async for message in served:
            if message.data == "end":
                await served.close(code=4001)
            else:
                await served.send_str(message.data.upper())
        return served

    async with backend(upper) as endpoint:
        stage.endpoints = [Endpoint("127.0.0.1", free_port()), endpoint]
        for url in (stage.url, f"https://127.0.0.1:{stage.tls_port}"):
            async with stage.session.ws_connect(url, protocols=("chat",), compress=15, ssl=False) as client:
                assert client.protocol == "chat"
                for text in ("hello", "x" * BIG):
                    await client.send_str(text)
                    assert await client.receive_str() == text.upper()
                await client.send_str("end")
                assert (await client.receive()).type is aiohttp.WSMsgType.CLOSE
                assert client.close_code == 4001
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await stage.session.ws_connect(f"{stage.url}/refused")
        assert refused.value.status == 403


async def test_a_client_that_goes_away_ends_its_request_at_the_backend(stage: Stage) -> None:
    ended = asyncio.Event()

    async def waits(request: web.BaseRequest) -> web.StreamResponse:
        while request.transport is not None:
            await asyncio.sleep(0.01)
        ended.set()
        return web.Response()

    async with backend(waits) as endpoint:
        stage.endpoints = [endpoint]
        with pytest.raises(TimeoutError):
            await stage.session.get(stage.url, timeout=aiohttp.ClientTimeout(total=0.2))
        async with asyncio.timeout(5):
            await ended.wait()


async def test_connections_to_endpoints_are_kept_and_clients_are_sent_away_at_the_end(stage: Stage) -> None:
    peers: set[Any] = set()

    async def who(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(text="x")

    async with backend(who) as endpoint:
        stage.endpoints = [endpoint]
        for _ in range(5):
            async with stage.session.get(stage.url) as answer:
                assert answer.headers.get("Connection") is None
        assert len(peers) == 1
        stage.forwarder.is_draining = True
        async with stage.session.get(stage.url) as answer:
            assert (answer.status, answer.headers["Connection"]) == (200, "close")
