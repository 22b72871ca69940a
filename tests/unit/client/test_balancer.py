"""The port on loopback that leads to whichever API server answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pyk.client import balancer
from pyk.client.balancer import Balancer, Server, order, parse_server, url_of
from pyk.reconcile.clock import RealClock

A, B, C = ("10.0.0.1", 6443), ("10.0.0.2", 6443), ("10.0.0.3", 6443)


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("https://10.0.0.1:6443", A),
        ("10.0.0.1", A),
        ("https://host.example:8443/", ("host.example", 8443)),
        ("https://[fd00::1]:6443", ("fd00::1", 6443)),
    ],
)
def test_a_server_by_its_url(text: str, server: Server) -> None:
    assert parse_server(text) == server
    assert parse_server(url_of(server)) == server


@pytest.mark.parametrize("text", ["", "http://a", "https://a/b", "https://a:b", "https://a:70000", "https://:1"])
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(ValueError, match="is not https"):
        parse_server(text)


@pytest.mark.parametrize(
    ("used", "failed", "tried"),
    [
        (None, {}, [A, B, C]),
        (B, {}, [B, C, A]),
        (B, {B: 95.0}, [C, A, B]),
        (B, {B: 80.0}, [B, C, A]),
        (A, {A: 99.0, B: 99.0, C: 99.0}, [A, B, C]),
        (("10.0.0.9", 1), {}, [A, B, C]),
    ],
)
def test_the_server_used_last_comes_first_unless_it_failed_lately(
    used: Server | None, failed: dict[Server, float], tried: list[Server]
) -> None:
    assert order([A, B, C], used, failed, 100.0) == tried


@asynccontextmanager
async def backend(name: str) -> AsyncIterator[tuple[Server, asyncio.Server]]:
    """A server that answers each line with its name; `mute` never says anything."""
    writers = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while await reader.readline():
            if name != "mute":
                writer.write(f"{name}\n".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield ("127.0.0.1", server.sockets[0].getsockname()[1]), server
    finally:
        server.close()
        for writer in writers:
            writer.close()


@asynccontextmanager
async def running(found: Balancer) -> AsyncIterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    task = asyncio.create_task(found.run(port))
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0)
    try:
        yield port
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"who\n")
    async with asyncio.timeout(10):
        line = await reader.readline()
    writer.close()
    return line.decode().strip()


async def test_connections_stay_with_one_server_until_it_is_gone() -> None:
    async with (
        backend("one") as (one, server),
        backend("two") as (two, _),
        running(Balancer([one, two], RealClock())) as port,
    ):
        assert [await ask(port) for _ in range(3)] == ["one"] * 3
        server.close()
        await server.wait_closed()
        assert [await ask(port) for _ in range(3)] == ["two"] * 3


async def test_a_server_that_takes_connections_and_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancer, "ANSWER_SECONDS", 0.05)
    async with (
        backend("mute") as (mute, _),
        backend("two") as (two, _),
        running(Balancer([mute, two], RealClock())) as port,
    ):
        assert await ask(port) == ""
        assert await ask(port) == "two"


async def test_a_server_that_leaves_the_list_is_left_at_once() -> None:
    lists: list[list[Server]] = []
    async with backend("one") as (one, _), backend("two") as (two, _):
        found = Balancer([one], RealClock(), lambda servers: lists.append(list(servers)))
        async with running(found) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"who\n")
            assert await reader.readline() == b"one\n"
            found.set_servers([])
            assert found.servers == (one,), "nobody leaves all of them"
            found.set_servers([two])
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            assert await ask(port) == "two"
            writer.close()
    assert lists == [[two]]


async def test_nobody_answers_and_the_client_is_told_by_the_end_of_its_connection() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with running(Balancer([closed.getsockname()], RealClock())) as port:
            assert await ask(port) == ""
