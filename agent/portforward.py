"""Forwarded ports: a TCP connection made inside of a pod's network namespace, carried over a WebSocket.

A binary message is bytes; the text message `end` says that no more will come in that direction, so that either side
may half-close. A socket belongs for ever to the namespace in which it was made: a short-lived thread enters the pod's,
makes the socket, and ends; everything else happens on the event loop. Each direction is read only as fast as the
other end takes it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from concurrent.futures import Future

import aiohttp
from aiohttp import web

from agent.runtime import syscalls

END = "end"
CONNECT_SECONDS = 10.0
_PIECE_BYTES = 64 << 10
_ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


async def connect(network_namespace: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to `localhost:port` inside of the namespace at the path. Raises OSError, also when it takes longer
    than `CONNECT_SECONDS`."""
    failure: OSError | None = None
    for family, address in _ADDRESSES:
        try:
            made = await socket_inside(network_namespace, family)
            try:
                made.setblocking(False)
                async with asyncio.timeout(CONNECT_SECONDS):
                    await asyncio.get_running_loop().sock_connect(made, (address, port))
                return await asyncio.open_connection(sock=made)
            except BaseException:
                made.close()
                raise
        except OSError as error:  # what IPv4 says is what people know
            failure = failure or error
    assert failure is not None
    raise failure


async def socket_inside(network_namespace: str, family: int) -> socket.socket:
    """A TCP socket of the namespace. Raises OSError when there is none."""
    made: Future[socket.socket] = Future()

    def make() -> None:
        try:
            descriptor = os.open(network_namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                syscalls.setns(descriptor, syscalls.CLONE_NEWNET)
            finally:
                os.close(descriptor)
            made.set_result(socket.socket(family, socket.SOCK_STREAM))
        except OSError as error:
            made.set_exception(error)

    threading.Thread(target=make, name="pod-socket", daemon=True).start()
    return await asyncio.wrap_future(made)


async def serve(web_socket: web.WebSocketResponse, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes both ways until the pod has closed its side or the client is gone. Closes the connection."""
    tasks = [asyncio.create_task(_from_pod(web_socket, reader)), asyncio.create_task(_to_pod(web_socket, writer))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        writer.close()
        await web_socket.close()
    for outcome in outcomes:
        if isinstance(outcome, Exception) and not isinstance(outcome, OSError | aiohttp.ClientError):
            raise outcome


async def _from_pod(web_socket: web.WebSocketResponse, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(_PIECE_BYTES):
        await web_socket.send_bytes(data)
    await web_socket.send_str(END)


async def _to_pod(web_socket: web.WebSocketResponse, writer: asyncio.StreamWriter) -> None:
    """Write what comes; ends when the client is gone."""
    async for message in web_socket:
        if message.type is aiohttp.WSMsgType.BINARY:
            writer.write(message.data)
            await writer.drain()
        elif message.type is aiohttp.WSMsgType.TEXT and message.data == END:
            writer.write_eof()
