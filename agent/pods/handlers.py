"""Exec, httpGet, tcpSocket, grpc and sleep, as probes and lifecycle hooks use them: one attempt and its outcome.

The agent talks to the pod's address from the node. Source: the kubelet's `prober` and `lifecycle` packages.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from agent.pods.http_handler import HOOK, PROBE, HttpHandler, url_of
from agent.pods.outcome import MOST_OUTPUT, Outcome, Target, UnknownPort, port_of, refused
from agent.runtime.contract import RUNTIME_NOT_READY, ExecConfig, Runtime, RuntimeFailure
from pyk.reconcile.clock import Clock

_RETRY_SECONDS = 0.1


class Handlers:
    """Runs handlers. `close` ends the HTTP session."""

    def __init__(self, runtime: Runtime, clock: Clock) -> None:
        self._runtime = runtime
        self._clock = clock
        self._http = HttpHandler()

    async def close(self) -> None:
        await self._http.close()

    async def run(self, probe: Mapping[str, Any], target: Target, timeout: float) -> Outcome:
        """Run a probe once, for at most `timeout` seconds. Never raises for what the container does."""
        return await self._within(probe, target, timeout, PROBE)

    async def run_hook(self, hook: Mapping[str, Any], target: Target, timeout: float | None) -> Outcome:
        """Run a lifecycle hook, for at most `timeout` seconds. Never raises for what the container does.

        When the spawner dies meanwhile the hook runs again with the next one: it runs at least once.
        """
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        while True:
            left = None if deadline is None else deadline - self._clock.monotonic()
            outcome = await self._within(hook, target, left, HOOK)
            if not outcome.unknown or (left is not None and left <= _RETRY_SECONDS):
                return outcome
            await self._clock.sleep(_RETRY_SECONDS)

    async def _within(self, handler: Mapping[str, Any], target: Target, timeout: float | None, agent: str) -> Outcome:
        try:
            async with asyncio.timeout(timeout):
                return await self._run(handler, target, timeout, agent)
        except TimeoutError:
            return Outcome(False, _timed_out(handler, target, timeout))
        except RuntimeFailure as error:
            # A probe whose command cannot even be begun says nothing of the container; a hook has failed.
            return Outcome(False, str(error), unknown=agent == PROBE or error.reason == RUNTIME_NOT_READY)
        except UnknownPort as error:
            return Outcome(False, str(error), unknown=agent == PROBE)

    async def _run(self, handler: Mapping[str, Any], target: Target, timeout: float | None, agent: str) -> Outcome:
        if (command := handler.get("exec")) is not None:
            code, output = await run_command(self._runtime, target.id, command.get("command") or ())
            return Outcome(code == 0, output or (f"exit code {code}" if code and agent == HOOK else ""))
        if (get := handler.get("httpGet")) is not None:
            return await self._http.get(get, target, agent)
        if (socket := handler.get("tcpSocket")) is not None:
            return await _connect(socket.get("host") or target.address, port_of(target.container, socket["port"]))
        if (grpc := handler.get("grpc")) is not None:
            from agent.pods.grpc_handler import check_health

            return await check_health(target.address, grpc["port"], grpc.get("service") or "", timeout)
        if (sleep := handler.get("sleep")) is not None:
            await self._clock.sleep(sleep["seconds"])
            return Outcome(True)
        return Outcome(False, f"handler {'/'.join(handler) or 'without an action'} is not served by this node")


def _timed_out(handler: Mapping[str, Any], target: Target, timeout: float | None) -> str:
    if command := handler.get("exec"):
        words = " ".join(command.get("command") or ())
        return f'command timed out: "{words}" timed out after {timeout:g}s'
    if get := handler.get("httpGet"):
        reason = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        return f'Get "{url_of(get, target)}": {reason}'
    if socket := handler.get("tcpSocket"):
        host = socket.get("host") or target.address
        return f"dial tcp {host}:{port_of(target.container, socket['port'])}: i/o timeout"
    return f"timeout: health rpc did not complete within {timeout:g}s"


async def _connect(host: str, port: int) -> Outcome:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return Outcome(False, refused(host, port, error))
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return Outcome(True)


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
        kept.extend(chunk[: MOST_OUTPUT - len(kept)])

    loop.add_reader(fd, on_readable)
    try:
        await ended
    finally:
        loop.remove_reader(fd)
    return bytes(kept)
