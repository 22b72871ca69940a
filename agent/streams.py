"""Exec and attach over WebSocket: frames in and out of a session's file descriptors.

A frame is a channel number and bytes: 0 stdin, 1 stdout, 2 stderr, 3 the final `Status`, 4 the terminal's size as JSON;
in v5 a frame on channel 255 closes the channel that it names. Output is read only as fast as the client takes it, and
input written only as fast as the process takes it, so neither side's slowness fills our memory.
Source: apimachinery pkg/util/remotecommand, the kubelet's pkg/kubelet/cri/streaming/remotecommand.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from typing import Any

import aiohttp
from aiohttp import web

from agent.runtime.contract import ExecSession, RuntimeFailure
from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
PROTOCOLS = (V5, V4)
FRAME_BYTES = 32 * 1024
LONGEST_FRAME_BYTES = 16 << 20
DRAIN_SECONDS = 1.0
"""How long the output of an ended process is read on when others of its children still hold it open."""
HEARTBEAT_SECONDS = 60.0


def status_of(exit_code: int, failure: str = "") -> dict[str, Any]:
    """The final `Status` as the kubelet words it: of a process's exit code, or of one that did not start."""
    if failure:
        return {
            "metadata": {},
            "status": "Failure",
            "message": f"Internal error occurred: error executing command in container: {failure}",
            "reason": "InternalError",
            "details": {"causes": [{"message": f"error executing command in container: {failure}"}]},
            "code": 500,
        }
    if exit_code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {exit_code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(exit_code)}]},
    }


async def accept(request: web.Request) -> web.WebSocketResponse:
    """Upgrade the request with the best sub-protocol that both know."""
    socket = web.WebSocketResponse(
        protocols=PROTOCOLS, heartbeat=HEARTBEAT_SECONDS, max_msg_size=LONGEST_FRAME_BYTES, compress=False
    )
    await socket.prepare(request)
    return socket


async def fail(socket: web.WebSocketResponse, failure: RuntimeFailure) -> None:
    """Tell the client that there is no process to stream from."""
    await _send(socket, ERROR, json.dumps(status_of(failure.exit_code, str(failure))).encode())
    await socket.close()


async def serve(socket: web.WebSocketResponse, session: ExecSession, *, clock: Clock, tells_exit: bool = True) -> None:
    """Stream until the process has ended and its output has been sent, or the client is gone. Closes the session.

    Without `tells_exit` the end is a success whatever the exit code is: that of a container is told by its status.
    """
    outputs = {STDOUT: session.stdout_fd, STDERR: session.stderr_fd}
    try:
        # An empty frame on the first open channel says that the connection stands.
        first = next((channel for channel, descriptor in outputs.items() if descriptor is not None), ERROR)
        await _send(socket, first, b"")
        pumps = [
            asyncio.create_task(_send_output(socket, channel, descriptor))
            for channel, descriptor in outputs.items()
            if descriptor is not None
        ]
        incoming = asyncio.create_task(_take_input(socket, session))
        ending = asyncio.create_task(_ending(session, pumps, clock, tells_exit))
        try:
            await asyncio.wait({incoming, ending}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                await _send(socket, ERROR, json.dumps(ending.result()).encode())
        finally:
            await _cancelled([incoming, ending, *pumps])
    except ConnectionError as error:
        log.debug("a client of exec went away: %s", error)
    finally:
        await session.close()
        await socket.close()


async def _ending(
    session: ExecSession, pumps: list[asyncio.Task[None]], clock: Clock, tells_exit: bool
) -> dict[str, Any]:
    """Wait for the process, then for its output: the final status."""
    try:
        code = await session.wait()
        status = status_of(code if tells_exit else 0)
    except RuntimeFailure as error:
        status = status_of(error.exit_code, str(error))
    if pumps:
        patience = asyncio.create_task(clock.sleep(DRAIN_SECONDS))
        pending = set(pumps)
        while pending and not patience.done():
            done, _ = await asyncio.wait({*pending, patience}, return_when=asyncio.FIRST_COMPLETED)
            pending -= done
        await _cancelled([patience])
    return status


async def _send_output(socket: web.WebSocketResponse, channel: int, descriptor: int) -> None:
    while data := await _read(descriptor):
        await _send(socket, channel, data)


async def _take_input(socket: web.WebSocketResponse, session: ExecSession) -> None:
    """Handle the client's frames until it goes away."""
    async for message in socket:
        if message.type is aiohttp.WSMsgType.TEXT:
            frame = message.data.encode()
        elif message.type is aiohttp.WSMsgType.BINARY:
            frame = message.data
        else:
            continue
        if not frame:
            continue
        channel, data = frame[0], frame[1:]
        if channel == STDIN and data and session.stdin_fd is not None:
            await _write(session, data)
        elif channel == RESIZE:
            await _resize(session, data)
        elif channel == CLOSE and data[:1] == bytes([STDIN]) and socket.ws_protocol == V5:
            await session.close_stdin()


async def _resize(session: ExecSession, data: bytes) -> None:
    try:
        size = json.loads(data)
        columns, rows = int(size["Width"]), int(size["Height"])
    except (ValueError, KeyError, TypeError):
        return  # clients send what they like; a size that is none changes nothing
    if 0 < columns < 65536 and 0 < rows < 65536:
        await session.resize(columns, rows)


async def _read(descriptor: int) -> bytes:
    """What can be read; empty at the end (of a terminal: EIO)."""
    while True:
        try:
            return os.read(descriptor, FRAME_BYTES)
        except BlockingIOError:
            await _ready(descriptor, writing=False)
        except OSError:
            return b""


async def _write(session: ExecSession, data: bytes) -> None:
    """Write all of it; nothing is written to a process that does not read any more."""
    view = memoryview(data)
    while view and session.stdin_fd is not None:
        try:
            view = view[os.write(session.stdin_fd, view) :]
        except BlockingIOError:
            await _ready(session.stdin_fd, writing=True)
        except OSError:
            return


async def _ready(descriptor: int, *, writing: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    # A terminal's one descriptor is waited on for both ways at once; each loop keeps a reader and a writer apart.
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)


async def _send(socket: web.WebSocketResponse, channel: int, data: bytes) -> None:
    await socket.send_bytes(bytes([channel]) + data)


async def _cancelled(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception) and not isinstance(outcome, ConnectionError):
            raise outcome
