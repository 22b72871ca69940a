"""Port forwarding: the client's many streams on one WebSocket, each a connection of its own to the pod's node.

Two protocols reach the same ports. `SPDY/3.1+portforward.k8s.io` is what kubectl speaks: SPDY frames inside of the
WebSocket's messages, and for each connection a pair of streams, one for data and one for an error's text, that name the
port. In `v4.channel.k8s.io` the request names the ports; the channels 2 n and 2 n + 1 are the data and the errors of
the n-th, and each first tells its port's number. To the node a connection is a WebSocket: binary messages are bytes,
the text message `end` says that no more will come in that direction. Source: kubelet `pkg/kubelet/server/portforward`,
client-go `tools/portforward`.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import aiohttp
from aiohttp import web

from controlplane.apiserver import spdy
from controlplane.apiserver.channels import CHANNEL_PROTOCOLS, Codec, codec_of
from pyk.api.status import ApiError, bad_request

TUNNEL = "SPDY/3.1+portforward.k8s.io"
END = "end"
_QUEUED = 32
"""Messages of one stream that wait for the node; then the client's connection waits."""
_MOST_STREAMS = 2_000

OpenPort = Callable[[int], Awaitable[aiohttp.ClientWebSocketResponse]]
"""Connects to a port of the pod. Raises `ApiError`."""
_Queue = asyncio.Queue[bytes | None]


class Forwarding(Protocol):
    """One client's forwarding. `protocol` is the WebSocket's sub-protocol, empty for none."""

    @property
    def protocol(self) -> str: ...

    async def run(self, client: web.WebSocketResponse) -> None:
        """Serve until the client is gone or all ports are closed."""


def forwarding_for(offered: Sequence[str], ports: Sequence[str], open_port: OpenPort) -> Forwarding:
    """How to serve the client's sub-protocols; `ports` are the values of the query's `ports`. Raises 400."""
    for protocol in offered or [""]:
        if protocol == TUNNEL:
            return SpdyForwarding(open_port)
        codec = codec_of(protocol)
        if codec is not None and codec.node_protocol == "v4.channel.k8s.io":
            return ChannelForwarding(codec, _numbers(ports), open_port)
    supported = ", ".join((TUNNEL, *(each for each in CHANNEL_PROTOCOLS if each.startswith("v4"))))
    raise bad_request(f"requested protocol(s) are not supported: {list(offered)}; supports [{supported}]")


def _numbers(texts: Sequence[str]) -> list[int]:
    words = [word for text in texts for word in text.split(",") if word]
    if not words:
        raise bad_request('query parameter "ports" is required')
    numbers = [int(word) if word.isascii() and word.isdigit() else 0 for word in words]
    if not all(0 < number < 65536 for number in numbers) or len(numbers) > 127:
        raise bad_request(f"unable to parse ports {', '.join(words)[:100]}: they are numbers from 1 to 65535")
    return numbers


class _Streams:
    """The connections under way, each fed by a bounded queue."""

    def __init__(self) -> None:
        self._queues: dict[int, _Queue] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, number: int, serve: Callable[[_Queue], Awaitable[None]]) -> asyncio.Task[None]:
        queue: _Queue = asyncio.Queue(_QUEUED)
        self._queues[number] = queue

        async def run() -> None:
            try:
                await serve(queue)
            finally:
                del self._queues[number], self._tasks[number]
                while not queue.empty():  # whoever waits to put goes on
                    queue.get_nowait()

        self._tasks[number] = task = asyncio.create_task(run())
        return task

    async def put(self, number: int, data: bytes | None) -> None:
        """Hand on bytes, or None for their end; what is for no stream is dropped."""
        queue = self._queues.get(number)
        if queue is not None:
            await queue.put(data)

    def cancel(self, number: int) -> None:
        if number in self._tasks:
            self._tasks[number].cancel()

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, aiohttp.ClientError | ConnectionError):
                raise outcome


async def _carry(open_port: OpenPort, port: int, queue: _Queue, send: Callable[[bytes], Awaitable[None]]) -> str:
    """Carry bytes both ways until the pod's side ends; an error's text, or nothing."""
    try:
        node = await open_port(port)
    except ApiError as error:
        return error.message

    async def to_node() -> None:
        while (data := await queue.get()) is not None:
            await node.send_bytes(data)
        await node.send_str(END)

    sending = asyncio.create_task(to_node())
    try:
        async for message in node:
            if message.type is not aiohttp.WSMsgType.BINARY:
                break
            await send(message.data)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await node.close()
    return ""


class SpdyForwarding:
    """kubectl's protocol."""

    protocol = TUNNEL

    def __init__(self, open_port: OpenPort) -> None:
        self._open_port = open_port
        self._codec = spdy.Codec()
        self._streams = _Streams()
        self._errors: dict[str, int] = {}

    async def run(self, client: web.WebSocketResponse) -> None:
        try:
            async for message in client:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    continue
                for frame in self._codec.feed(message.data):
                    if frame.type == spdy.GOAWAY:
                        return
                    await self._take(client, frame)
        except spdy.BadFrame as error:
            await client.close(code=aiohttp.WSCloseCode.PROTOCOL_ERROR, message=str(error).encode())
        finally:
            await self._streams.close()

    async def _take(self, client: web.WebSocketResponse, frame: spdy.Frame) -> None:
        match frame.type:
            case spdy.SYN_STREAM:
                await self._begin(client, frame)
            case spdy.DATA:
                if frame.data:
                    await self._streams.put(frame.stream, frame.data)
                if frame.is_last:
                    await self._streams.put(frame.stream, None)
            case spdy.RST_STREAM:
                self._streams.cancel(frame.stream)
            case spdy.PING if frame.number % 2:  # a client's own have odd numbers
                await client.send_bytes(spdy.ping_frame(frame.number))

    async def _begin(self, client: web.WebSocketResponse, frame: spdy.Frame) -> None:
        kind, port = frame.headers.get("streamtype"), frame.headers.get("port", "")
        request = frame.headers.get("requestid", "")
        is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65536
        is_known = kind == "error" or (kind == "data" and request in self._errors)
        if not is_port or not is_known or len(self._errors) + len(self._streams) >= _MOST_STREAMS:
            await client.send_bytes(spdy.reset_frame(frame.stream, 3))
            return
        await client.send_bytes(self._codec.syn_reply(frame.stream, {}))
        if kind == "error":
            self._errors[request] = frame.stream
            return
        error_stream = self._errors.pop(request)

        async def serve(queue: _Queue) -> None:
            async def send(data: bytes) -> None:
                await client.send_bytes(spdy.data_frame(frame.stream, data))

            failure = await _carry(self._open_port, int(port), queue, send)
            ends = spdy.data_frame(frame.stream, b"", is_last=True)
            await client.send_bytes(spdy.data_frame(error_stream, failure.encode(), is_last=True) + ends)

        self._streams.start(frame.stream, serve)


class ChannelForwarding:
    """The protocol of WebSocket channels: ports are fixed when it begins."""

    def __init__(self, codec: Codec, ports: Sequence[int], open_port: OpenPort) -> None:
        self.protocol = codec.client_protocol
        self._codec = codec
        self._ports = ports
        self._open_port = open_port
        self._streams = _Streams()

    async def run(self, client: web.WebSocketResponse) -> None:
        async def send(channel: int, data: bytes) -> None:
            frame = self._codec.encode(bytes([channel]) + data)
            await (client.send_str(frame) if isinstance(frame, str) else client.send_bytes(frame))

        async def forward(index: int, port: int, queue: _Queue) -> None:
            async def send_data(data: bytes) -> None:
                await send(2 * index, data)

            failure = await _carry(self._open_port, port, queue, send_data)
            if failure:
                await send(2 * index + 1, failure.encode())

        for channel in range(2 * len(self._ports)):
            await send(channel, struct.pack("<H", self._ports[channel // 2]))
        tasks = [
            self._streams.start(
                index,
                lambda queue, index=index, port=port: forward(index, port, queue),  # type: ignore[misc]
            )
            for index, port in enumerate(self._ports)
        ]
        receiving = asyncio.create_task(self._receive(client))
        try:
            ended = asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.wait((receiving, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            receiving.cancel()
            await self._streams.close()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _receive(self, client: web.WebSocketResponse) -> None:
        async for message in client:
            if message.type not in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
                continue
            try:
                frame = self._codec.decode(message.data)
            except ValueError as error:
                await client.close(code=aiohttp.WSCloseCode.INVALID_TEXT, message=str(error).encode())
                return
            if len(frame) > 1 and frame[0] % 2 == 0:
                await self._streams.put(frame[0] // 2, frame[1:])
