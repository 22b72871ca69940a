"""Logs, exec and the node API through the API server, against a node that speaks TLS and asks for a certificate."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from controlplane.apiserver.connections import Connections, HttpServer
from controlplane.apiserver.nodeproxy import NodeProxy
from pyk import pki
from pyk.api.status import ApiError
from tests.ports import free_port

Document = dict[str, Any]
SECONDS = 10


@pytest.fixture(scope="module")
def pki_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodeproxy") / "pki"
    pki.ensure_cluster_pki(folder, server_addresses=[])
    pki.ensure_node_pki(folder, folder / "n1", "n1", ["127.0.0.1"])
    return folder


def pod(node: str = "n1", *containers: str, **status: Any) -> Document:
    return {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"nodeName": node, "containers": [{"name": name} for name in containers or ("a",)]},
        "status": status,
    }


class FakeNode:
    """A node API with the answers that the tests need; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.client = ""
        self.follow_ended = asyncio.Event()
        self.bodies: list[bytes] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/containerLogs/default/web/{container}", self.logs)
        app.router.add_get("/exec/default/web/{container}", self.stream)
        app.router.add_get("/attach/default/web/{container}", self.stream)
        app.router.add_route("*", "/echo/{rest:.*}", self.echo)
        return app

    def remember(self, request: web.Request) -> None:
        self.asked.append(request.path_qs)
        certificate = request.transport.get_extra_info("peercert") if request.transport else {}
        self.client = dict(pair for names in certificate["subject"] for pair in names)["commonName"]

    async def logs(self, request: web.Request) -> web.StreamResponse:
        self.remember(request)
        if request.match_info["container"] == "missing":
            return web.Response(status=404, text="no log file")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await response.write(b"one\n")
        if "follow" not in request.query:
            await response.write(b"two\n")
            return response
        try:
            while True:
                await asyncio.sleep(0.01)
                await response.write(b"more\n")
        finally:
            self.follow_ended.set()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        self.remember(request)
        if request.match_info["container"] == "stopped":
            return web.Response(status=500, text="container not running (stopped)")
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"))
        await socket.prepare(request)
        await socket.send_bytes(b"\x01" + (socket.ws_protocol or "").encode())
        async for message in socket:
            if message.data == b"\x00exit":
                await socket.send_bytes(b'\x03{"status":"Success"}')
                break
            await socket.send_bytes(b"\x01" + message.data[1:].upper())
        await socket.close()
        return socket

    async def echo(self, request: web.Request) -> web.Response:
        self.remember(request)
        body = await request.read()
        headers = {"X-Method": request.method, "X-Secret": request.headers.get("Authorization", "none")}
        return web.Response(status=418 if "teapot" in request.path else 200, body=body, headers=headers)


class Front:
    """Where the relaying server listens."""

    def __init__(self, port: int) -> None:
        self.port = port

    def make_url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


class Cluster:
    """A server that does nothing but relay, in front of a fake node."""

    def __init__(self, node: FakeNode, server: Front, node_port: int) -> None:
        self.node = node
        self.server = server
        self.node_port = node_port


Handler = Callable[[NodeProxy, web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def cluster(pki_dir: Path, handler: Handler) -> AsyncIterator[Cluster]:
    node = FakeNode()
    node_server = TestServer(node.app(), scheme="https", host="127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki_dir / "ca.crt"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(pki_dir / "n1" / "kubelet.crt", pki_dir / "n1" / "kubelet.key")
    await node_server.start_server(ssl=context)
    port = node_server.port
    nodes = {"n1": node_object("127.0.0.1", port), "dead": node_object("127.0.0.1", free_port())}
    connections = Connections()
    proxy = NodeProxy(pki_dir, nodes.get, connections)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.Request)
        try:
            return await handler(proxy, request)
        except ApiError as error:
            return web.json_response(error.to_status(), status=error.code)

    runner = web.ServerRunner(HttpServer(handle, connections, body_bytes=1 << 20))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = Front(runner.addresses[0][1])
    try:
        yield Cluster(node, server, port or 0)
    finally:
        connections.stop_all()
        await runner.cleanup()
        await proxy.close()
        await node_server.close()


def node_object(address: str, port: int | None) -> Document:
    return {
        "metadata": {"name": "n1"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        },
    }


def logs_of(target: Document) -> Handler:
    return lambda proxy, request: proxy.pod_log(request, target)


def exec_in(target: Document, *, attach: bool = False) -> Handler:
    return lambda proxy, request: proxy.pod_exec(request, target, attach)


async def get(running: Cluster, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(running.server.make_url(path)) as response:
        return response.status, await response.text()


async def test_logs_come_from_the_pods_node(pki_dir: Path) -> None:
    async with cluster(pki_dir, logs_of(pod())) as running:
        assert await get(running, "/log?tailLines=5&pretty=true") == (200, "one\ntwo\n")
        assert running.node.asked == ["/containerLogs/default/web/a?tailLines=5"]
        assert running.node.client == "kube-apiserver-kubelet-client"


@pytest.mark.parametrize(
    ("protocols", "encoded"),
    [((), b"one\ntwo\n"), (("binary.k8s.io",), b"one\ntwo\n"), (("base64.binary.k8s.io",), None)],
)
async def test_logs_come_over_a_websocket_when_asked_so(
    pki_dir: Path, protocols: tuple[str, ...], encoded: bytes | None
) -> None:
    async with cluster(pki_dir, logs_of(pod())) as running, aiohttp.ClientSession() as session:
        url = running.server.make_url("/log?tailLines=5&pretty=true")
        async with session.ws_connect(url, protocols=protocols) as socket:
            assert socket.protocol == (protocols[0] if protocols else None)
            messages = [message.data async for message in socket]
    assert not messages[0]
    if encoded is None:
        assert b"".join(base64.b64decode(each) for each in messages) == b"one\ntwo\n"
    else:
        assert b"".join(messages) == encoded


async def test_a_pod_without_node_has_empty_logs(pki_dir: Path) -> None:
    async with cluster(pki_dir, logs_of(pod(""))) as running:
        assert await get(running, "/log") == (200, "")


async def test_following_ends_when_the_client_goes(pki_dir: Path) -> None:
    async with cluster(pki_dir, logs_of(pod())) as running, aiohttp.ClientSession() as session:
        response = await session.get(running.server.make_url("/log?follow=true"))
        assert await response.content.readline() == b"one\n"
        response.close()
        await asyncio.wait_for(running.node.follow_ended.wait(), SECONDS)


async def test_a_container_that_waits_says_so(pki_dir: Path) -> None:
    target = pod(
        "n1", "missing", containerStatuses=[{"name": "missing", "state": {"waiting": {"reason": "PodInitializing"}}}]
    )
    async with cluster(pki_dir, logs_of(target)) as running:
        code, body = await get(running, "/log")
        status = json.loads(body)
        assert (code, status["reason"]) == (400, "BadRequest")
        assert status["message"] == 'container "missing" in pod "web" is waiting to start: PodInitializing'


async def test_a_nodes_refusal_is_told_in_its_own_words(pki_dir: Path) -> None:
    target = pod("n1", "missing", containerStatuses=[{"name": "missing", "state": {"running": {}}}])
    async with cluster(pki_dir, logs_of(target)) as running:
        code, body = await get(running, "/log")
        assert (code, json.loads(body)["message"], json.loads(body)["reason"]) == (404, "no log file", "NotFound")


async def test_a_node_that_is_not_there_is_named(pki_dir: Path) -> None:
    async with cluster(pki_dir, logs_of(pod("dead"))) as running:
        code, body = await get(running, "/log")
        message = json.loads(body)["message"]
        assert code == 500
        assert message.startswith('Get "https://127.0.0.1:')
        assert message.endswith(": connect: connection refused")
    async with cluster(pki_dir, logs_of(pod("gone"))) as running:
        code, body = await get(running, "/log")
        assert (code, json.loads(body)["message"]) == (500, 'nodes "gone" not found')


async def talk(running: Cluster, path: str, protocols: tuple[str, ...], sends: list[bytes | str]) -> list[Any]:
    """What comes back over a WebSocket, the chosen protocol first and the close code last."""
    async with aiohttp.ClientSession() as session:
        url = running.server.make_url(path)
        async with session.ws_connect(
            url, protocols=protocols, timeout=aiohttp.ClientWSTimeout(ws_close=SECONDS)
        ) as socket:
            found: list[Any] = [socket.protocol]
            for each in sends:
                await (socket.send_str(each) if isinstance(each, str) else socket.send_bytes(each))
            async for message in socket:
                found.append(message.data)
            return [*found, socket.close_code]


async def test_exec_relays_both_ways_and_ends_with_the_status(pki_dir: Path) -> None:
    async with cluster(pki_dir, exec_in(pod())) as running:
        path = "/exec?command=sh&command=-c&stdin=true&stdout=true&tty=false"
        found = await talk(running, path, ("v5.channel.k8s.io", "v4.channel.k8s.io"), [b"\x00hello", b"\x00exit"])
        assert found == ["v5.channel.k8s.io", b"\x01v5.channel.k8s.io", b"\x01HELLO", b'\x03{"status":"Success"}', 1000]
        assert running.node.asked == ["/exec/default/web/a?input=1&output=1&command=sh&command=-c"]


@pytest.mark.parametrize(
    ("protocols", "chosen", "first"),
    [
        (("v4.channel.k8s.io",), "v4.channel.k8s.io", b"\x01v4.channel.k8s.io"),
        (("v9.channel.k8s.io", "v4.channel.k8s.io"), "v4.channel.k8s.io", b"\x01v4.channel.k8s.io"),
        ((), None, b"\x01v4.channel.k8s.io"),
    ],
)
async def test_the_protocol_is_one_that_the_client_offers(
    pki_dir: Path, protocols: tuple[str, ...], chosen: str | None, first: bytes
) -> None:
    async with cluster(pki_dir, exec_in(pod())) as running:
        found = await talk(running, "/exec?command=sh", protocols, [b"\x00exit"])
        assert found[:2] == [chosen, first]


async def test_base64_frames_are_translated(pki_dir: Path) -> None:
    async with cluster(pki_dir, exec_in(pod(), attach=True)) as running:
        found = await talk(running, "/attach?stdin=1", ("v4.base64.channel.k8s.io",), ["0aGk=", "0ZXhpdA=="])
        assert found[0] == "v4.base64.channel.k8s.io"
        assert found[2] == "1SEk="
        assert running.node.asked == ["/attach/default/web/a?input=1"]


async def test_a_frame_that_is_not_base64_ends_the_stream(pki_dir: Path) -> None:
    async with cluster(pki_dir, exec_in(pod())) as running:
        found = await talk(running, "/exec?command=sh", ("v4.base64.channel.k8s.io",), ["0*"])
        assert found[-1] == aiohttp.WSCloseCode.INVALID_TEXT


@pytest.mark.parametrize(
    ("target", "path", "protocols", "code", "words"),
    [
        (pod(""), "/exec?command=sh", ("v5.channel.k8s.io",), 400, "pod web does not have a host assigned"),
        (pod(), "/exec", ("v5.channel.k8s.io",), 400, "you must specify at least one command for the container"),
        (pod(), "/exec?command=sh&container=b", ("v5.channel.k8s.io",), 400, "container b is not valid for pod web"),
        (pod(), "/exec?command=sh", ("v9.x",), 400, "requested protocol(s) are not supported: ['v9.x']"),
        (pod("dead"), "/exec?command=sh", ("v5.channel.k8s.io",), 500, "connect: connection refused"),
        (pod("n1", "stopped"), "/exec?command=sh", ("v5.channel.k8s.io",), 500, "container not running (stopped)"),
    ],
)
async def test_an_exec_that_cannot_be_is_refused_before_the_upgrade(
    pki_dir: Path, target: Document, path: str, protocols: tuple[str, ...], code: int, words: str
) -> None:
    async with cluster(pki_dir, exec_in(target)) as running:
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
            "Sec-WebSocket-Protocol": ", ".join(protocols),
        }
        url = running.server.make_url(path)
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
            assert response.status == code
            assert words in (await response.json())["message"]


async def test_an_upgrade_to_anything_else_is_refused(pki_dir: Path) -> None:
    statuses = [{"name": "a", "state": {"running": {}}}]
    async with cluster(pki_dir, exec_in(pod(containerStatuses=statuses))) as running:
        code, body = await get(running, "/exec?command=sh")
        assert code == 400
        assert "WebSocket" in json.loads(body)["message"]


async def test_a_fallback_to_spdy_is_told_that_the_container_has_ended(pki_dir: Path) -> None:
    statuses = [{"name": "a", "state": {"terminated": {"exitCode": 0}}}]
    async with cluster(pki_dir, exec_in(pod(containerStatuses=statuses), attach=True)) as running:
        code, body = await get(running, "/attach?stdin=1")
        assert (code, json.loads(body)["message"]) == (400, 'container "a" in pod "web" is not running')


async def test_a_stream_ends_when_the_server_stops(pki_dir: Path) -> None:
    async with aiohttp.ClientSession() as session:
        async with cluster(pki_dir, exec_in(pod())) as running:
            socket = await session.ws_connect(running.server.make_url("/exec?command=sh"))
            assert (await socket.receive()).data == b"\x01v4.channel.k8s.io"
            receiving = asyncio.create_task(socket.receive())
        message = await asyncio.wait_for(receiving, SECONDS)
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        await socket.close()


async def test_the_node_api_answers_through_the_server(pki_dir: Path) -> None:
    async def handler(proxy: NodeProxy, request: web.Request) -> web.StreamResponse:
        return await proxy.node_proxy(request, nodes[0], request.path.removeprefix("/proxy/"))

    nodes: list[Document] = []
    async with cluster(pki_dir, handler) as running, aiohttp.ClientSession() as session:
        nodes.append(node_object("127.0.0.1", running.node_port))
        url = running.server.make_url("/proxy/echo/teapot?a=1&a=2")
        async with session.post(url, data=b"body", headers={"Authorization": "Bearer mine"}) as response:
            assert response.status == 418
            assert await response.read() == b"body"
        assert running.node.asked == ["/echo/teapot?a=1&a=2"]
        async with session.put(url, data=b"x") as response:
            assert response.status == 418
        code, body = await get(running, "/proxy/nothing")
        assert (code, body) == (404, "404: Not Found")
