"""Exec, httpGet and tcpSocket, as probes and lifecycle hooks use them: one attempt, its outcome, what it said.

Source: the kubelet's `prober` packages. The agent talks to the pod's address from the node; certificates are not
checked and redirects not followed, and of what is said at most 10 KiB is read.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.runtime.contract import ExecConfig, Runtime, RuntimeFailure
from pyk.reconcile.clock import Clock

if TYPE_CHECKING:
    import aiohttp

_MOST_OUTPUT = 10 * 1024
_USER_AGENT = "kube-probe/1.36"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether it succeeded, and what it said."""

    ok: bool
    output: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """The container that a handler is about: its specification, id and the pod's primary address."""

    container: Mapping[str, Any]
    id: str
    address: str


class UnknownPort(Exception):
    """A handler names a port that the container does not have."""


class Handlers:
    """Runs handlers. `close` ends the HTTP session."""

    def __init__(self, runtime: Runtime, clock: Clock) -> None:
        self._runtime = runtime
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def run(self, handler: Mapping[str, Any], target: Target, timeout: float | None) -> Outcome:
        """Run a handler once, for at most `timeout` seconds. Never raises for what the container does."""
        try:
            async with asyncio.timeout(timeout):
                return await self._run(handler, target)
        except TimeoutError:
            return Outcome(False, f"command timed out after {timeout:g}s" if "exec" in handler else _TIMED_OUT)
        except (RuntimeFailure, UnknownPort) as error:
            return Outcome(False, str(error))

    async def _run(self, handler: Mapping[str, Any], target: Target) -> Outcome:
        if (command := handler.get("exec")) is not None:
            code, output = await run_command(self._runtime, target.id, command.get("command") or ())
            return Outcome(code == 0, output if code == 0 or output else f"exit code {code}")
        if (get := handler.get("httpGet")) is not None:
            return await self._http_get(get, target)
        if (socket := handler.get("tcpSocket")) is not None:
            return await _connect(socket.get("host") or target.address, port_of(target.container, socket["port"]))
        if (sleep := handler.get("sleep")) is not None:
            await self._clock.sleep(sleep["seconds"])
            return Outcome(True)
        return Outcome(False, f"handler {'/'.join(handler) or 'without an action'} is not served by this node")

    async def _http_get(self, get: Mapping[str, Any], target: Target) -> Outcome:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False, force_close=True, limit=0))
        headers = {"User-Agent": _USER_AGENT, "Accept": "*/*"}
        headers |= {header["name"]: header["value"] for header in get.get("httpHeaders") or ()}
        host = get.get("host") or target.address
        shown = f"[{host}]" if ":" in host else host
        path = get.get("path") or "/"
        url = f"{(get.get('scheme') or 'HTTP').lower()}://{shown}:{port_of(target.container, get['port'])}"
        try:
            async with self._session.get(
                url + (path if path.startswith("/") else f"/{path}"), headers=headers, allow_redirects=False
            ) as response:
                body = (await response.content.read(_MOST_OUTPUT)).decode(errors="replace")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(False, f'Get "{url}{path}": {error}')
        if 200 <= response.status < 400:
            return Outcome(True, body)
        return Outcome(False, f"HTTP probe failed with statuscode: {response.status}")


_TIMED_OUT = "context deadline exceeded (no answer within the time allowed)"


async def _connect(host: str, port: int) -> Outcome:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return Outcome(False, f"dial tcp {host}:{port}: {error.strerror or error}")
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return Outcome(True)


def port_of(container: Mapping[str, Any], port: int | str) -> int:
    """The number of a port that is given by number or by name. Raises `UnknownPort`."""
    if isinstance(port, int):
        return port
    for declared in container.get("ports") or ():
        if declared.get("name") == port:
            return int(declared["containerPort"])
    if port.isdigit():
        return int(port)
    raise UnknownPort(f"couldn't find port {port!r} in container {container['name']}")


async def run_command(runtime: Runtime, container_id: str, command: Sequence[str]) -> tuple[int, str]:
    """Run a command in a container: its exit code and the beginning of what it wrote. Raises `RuntimeFailure`."""
    session = await runtime.exec(container_id, ExecConfig(command=command))
    try:
        outputs = await asyncio.gather(_read(session.stdout_fd), _read(session.stderr_fd))
        return await session.wait(), b"".join(outputs).decode(errors="replace")
    finally:
        await session.close()


async def _read(fd: int | None) -> bytes:
    """What comes from a non-blocking descriptor until its end; the beginning of it is kept."""
    if fd is None:
        return b""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    kept = bytearray()

    def on_readable() -> None:
        try:
            chunk = os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk and not ended.done():
            ended.set_result(None)
        kept.extend(chunk[: _MOST_OUTPUT - len(kept)])

    loop.add_reader(fd, on_readable)
    try:
        await ended
    finally:
        loop.remove_reader(fd)
    return bytes(kept)
