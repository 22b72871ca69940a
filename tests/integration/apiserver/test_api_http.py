"""HTTP as such: heads, lengths, and connections that stay or close."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest


async def exchange(server, text):
    """What the server answers to a request, and whether it closed the connection after it."""
    port = int(server.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=server.client_context(), server_hostname="localhost"
    )
    try:
        writer.write(text.replace("\n", "\r\n").encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        length = 0 if text.startswith("HEAD") else int(headers["content-length"])
        body = await reader.readexactly(length)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        return lines[0], headers, body, not await reader.read(1)
    finally:
        writer.close()


async def test_an_answer_says_what_it_is(server):
    status, headers, body, is_closed = await exchange(server, "GET /api/v1/namespaces/default HTTP/1.1\nHost: x\n\n")
    assert status == "HTTP/1.1 200 OK"
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-cache, private"
    assert headers["date"].endswith(" GMT")
    assert int(headers["content-length"]) == len(body)
    assert not is_closed


@pytest.mark.parametrize(
    ("version", "asked", "closes"),
    [("1.1", "close", True), ("1.0", "", True), ("1.0", "keep-alive", False), ("1.1", "keep-alive", False)],
)
async def test_a_connection_closes_when_the_client_wants_it(server, version, asked, closes):
    connection = f"Connection: {asked}\n" if asked else ""
    _, headers, _, is_closed = await exchange(server, f"GET /livez HTTP/{version}\nHost: x\n{connection}\n")
    assert is_closed is closes
    if version == "1.0" and not closes:
        assert headers["connection"] == "keep-alive"


async def test_a_head_has_the_length_but_no_body(server):
    status, headers, _, is_closed = await exchange(server, "HEAD /livez HTTP/1.1\nHost: x\n\n")
    assert (status, headers["content-length"]) == ("HTTP/1.1 200 OK", "2")
    assert not is_closed


@pytest.mark.parametrize("begun", [b"", b"GET /livez HTTP/1.1\r\nHo"])
async def test_a_connection_that_brings_no_request_is_cut_off(server, monkeypatch, begun):
    port = int(server.url.rpartition(":")[2])

    async def connected():
        return await asyncio.open_connection(
            "127.0.0.1", port, ssl=server.client_context(), server_hostname="localhost"
        )

    monkeypatch.setattr("controlplane.apiserver.connections.HEAD_SECONDS", 0.5)
    used, silent = await connected(), await connected()
    try:
        for _, writer in (used, silent):
            writer.write(begun)
        used[1].write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"[len(begun) :])
        assert (await used[0].readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(20):
            with suppress(ConnectionError):
                assert await silent[0].read() == b""
        used[1].write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await used[0].readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    finally:
        used[1].close()
        silent[1].close()
