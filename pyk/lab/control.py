"""The supervisor's control socket: one JSON document asks, one answers, on D/supervisor.sock (mode 0600)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyk.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SOCKET = "supervisor.sock"
_LONGEST_REQUEST = 65536
_ANSWER_SECONDS = 60.0


class ControlError(UserError):
    """The supervisor refuses a request; the text says why."""


async def serve(data_dir: Path, answer: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
    """Answer requests until cancelled."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.LimitOverrunError):
            line = await reader.readline()
            try:
                reply = await answer(json.loads(line))
            except (ControlError, OSError) as error:
                reply = {"error": str(error)}
            except (json.JSONDecodeError, AttributeError):
                reply = {"error": "that was not a JSON object"}
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(converse, sock=_listener(data_dir), limit=_LONGEST_REQUEST)
    async with server:
        await server.serve_forever()


def ask(data_dir: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the supervisor of a cluster and wait for the answer. Raises `UserError` when it does not run or refuses."""
    try:
        with _short_path(data_dir) as path, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.connect(path)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline()
    except TimeoutError:
        raise ControlError(f"the supervisor of {data_dir} does not answer") from None
    except OSError:
        raise ControlError(f"no cluster runs on {data_dir}: start it with 'pyk up'") from None
    if not line:
        raise ControlError(f"the supervisor of {data_dir} went away")
    reply: dict[str, Any] = json.loads(line)
    if "error" in reply:
        raise ControlError(str(reply["error"]))
    return reply


def _listener(data_dir: Path) -> socket.socket:
    with _short_path(data_dir) as path:
        Path(path).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        os.chmod(path, 0o600)
    return listener


@contextmanager
def _short_path(data_dir: Path) -> Iterator[str]:
    """The socket's path by way of a descriptor: the kernel takes no more than 107 characters."""
    descriptor = os.open(data_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{_SOCKET}"
    finally:
        os.close(descriptor)
