"""`pyk exec`: a further command in a running container, with or without a terminal.

It speaks the channel protocol of Kubernetes over a WebSocket (v5.channel.k8s.io, or v4): the first byte of each
message names the stream. The command's exit status is ours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import aiohttp

from pyk.api.kinds import POD
from pyk.api.objects import name_of
from pyk.cli.pods import container_names, default_container, find_pods
from pyk.cli.session import Session, add_connection_options
from pyk.client.client import Client
from pyk.errors import UserError

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255


def register(subparsers: Any) -> None:
    usage = "pyk exec POD [OPTION ...] -- COMMAND [ARGUMENT ...]"
    parser = subparsers.add_parser("exec", help="run a command in a container", usage=usage)
    parser.add_argument("pod", metavar="POD", help="web, pod/web or deployment/web")
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("-c", "--container", default="", metavar="NAME", help="one container of the pod")
    parser.add_argument("-i", "--stdin", action="store_true", help="pass standard input on")
    parser.add_argument("-t", "--tty", action="store_true", help="give the command a terminal")
    add_connection_options(parser)
    parser.set_defaults(run=run, takes_command=True)


def run(arguments: argparse.Namespace) -> int:
    command = arguments.behind
    if not command or arguments.words:
        raise UserError("name the command behind '--': pyk exec POD -- COMMAND [ARGUMENT ...]")
    session = Session(arguments)
    pod = find_pods(session, arguments.pod)[0]
    names = container_names(pod)
    container = arguments.container or default_container(pod)
    if container not in names:
        raise UserError(f"pod {name_of(pod)} has no container {container!r}: it has {', '.join(names)}")
    terminal = arguments.tty and sys.stdin.isatty()
    if arguments.tty and not terminal:
        print("pyk: standard input is no terminal, so the command gets none", file=sys.stderr)
    params = [("container", container), ("stdout", "true")]
    params += [("stdin", "true")] if arguments.stdin else []
    params += [("tty", "true")] if terminal else [("stderr", "true")]
    params += [("command", word) for word in command]
    path = POD.path(session.namespace, name_of(pod), "exec")
    return asyncio.run(_run(session, path, params, terminal=terminal, interactive=arguments.stdin))


async def _run(session: Session, path: str, params: list[tuple[str, str]], *, terminal: bool, interactive: bool) -> int:
    async with Client(session.config) as client, client.websocket(path, params=params, protocols=PROTOCOLS) as socket:
        tasks: list[asyncio.Task[None]] = []
        with _raw_terminal() if terminal else nullcontext():
            if interactive:
                tasks.append(asyncio.create_task(_send_input(socket)))
            if terminal:
                tasks.append(asyncio.create_task(_send_sizes(socket)))
            try:
                return await _receive(socket)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


async def _receive(socket: aiohttp.ClientWebSocketResponse) -> int:
    """Write what comes to our own streams, until the status comes: the command's exit status."""
    outputs = {STDOUT: sys.stdout.buffer, STDERR: sys.stderr.buffer}
    async for message in socket:
        data = message.data if isinstance(message.data, bytes) else str(message.data).encode()
        if not data:
            continue
        if data[0] == ERROR:
            return exit_status(data[1:])
        if (output := outputs.get(data[0])) is not None and len(data) > 1:
            output.write(data[1:])
            output.flush()
    raise UserError("the connection to the container ended before its command did")


def exit_status(document: bytes) -> int:
    """The exit status that the `Status` on the error channel tells of. Raises `UserError` when there is none."""
    status = json.loads(document)
    if status.get("status") == "Success":
        return 0
    if status.get("reason") == "NonZeroExitCode":
        for cause in (status.get("details") or {}).get("causes") or ():
            if cause.get("reason") == "ExitCode":
                return int(cause["message"])
    raise UserError(str(status.get("message") or "the command could not be run"))


async def _send_input(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Pass standard input on until it ends, and then say so."""
    while data := await read_when_ready(sys.stdin.fileno()):
        await socket.send_bytes(bytes([STDIN]) + data)
    if socket.protocol == PROTOCOLS[0]:
        await socket.send_bytes(bytes([CLOSE, STDIN]))


async def read_when_ready(descriptor: int) -> bytes:
    """What a terminal, a pipe or a file has next, empty at its end. Only the reading itself would block the loop."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def on_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    try:
        loop.add_reader(descriptor, on_ready)
    except PermissionError:  # a plain file, which cannot be polled and is always ready
        return os.read(descriptor, 32768)
    try:
        await ready
    finally:
        # A reader that stays would tell of these bytes a second time when they are read already.
        loop.remove_reader(descriptor)
    return os.read(descriptor, 32768)


async def _send_sizes(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Tell the terminal's size, now and whenever it changes."""
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    try:
        while True:
            size = os.get_terminal_size(sys.stdin.fileno())
            document = json.dumps({"Width": size.columns, "Height": size.lines}).encode()
            await socket.send_bytes(bytes([RESIZE]) + document)
            await changed.wait()
            changed.clear()
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Keys go to the container as they are; the terminal is as before afterwards."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
