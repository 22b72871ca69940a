"""Connections into a network namespace, and bytes that pass both ways until each side has said its end."""

from __future__ import annotations

import asyncio
import os
import socket

import aiohttp
import pytest
from aiohttp import web

from agent import portforward


@pytest.mark.root
async def test_a_connection_is_made_inside_of_the_namespace() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"got " + await reader.read())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    before = os.readlink("/proc/self/ns/net")
    async with server:
        reader, writer = await portforward.connect(f"/proc/{os.getpid()}/ns/net", port)
        writer.write(b"this")
        writer.write_eof()
        assert await reader.read() == b"got this"
        writer.close()
    assert os.readlink("/proc/self/ns/net") == before


@pytest.mark.root
async def test_a_port_that_nobody_listens_on_refuses() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await portforward.connect("/proc/self/ns/net", unused.getsockname()[1])


async def test_a_namespace_that_is_gone_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        await portforward.connect("/proc/0/ns/net", 80)


async def test_each_direction_ends_by_itself() -> None:
    async def echo_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    async def handle(request: web.Request) -> web.StreamResponse:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        carrier = web.WebSocketResponse()
        await carrier.prepare(request)
        await portforward.serve(carrier, reader, writer)
        return carrier

    server = await asyncio.start_server(echo_at_the_end, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    runner = web.ServerRunner(web.Server(handle))  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with server, aiohttp.ClientSession() as session, session.ws_connect(url) as client:
            await client.send_bytes(b"half ")
            await client.send_bytes(b"closed")
            await client.send_str(portforward.END)
            answered = b""
            async with asyncio.timeout(10):
                while (message := await client.receive()).type is aiohttp.WSMsgType.BINARY:
                    answered += message.data
            assert answered == b"HALF CLOSED"
            assert message.data == portforward.END
    finally:
        await runner.cleanup()
