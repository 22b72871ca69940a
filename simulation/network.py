"""The network between the clients and the API server: it takes time, and it fails as the weather has it.

A request travels, is handled by the real server in a task of the server's (it is finished even when who asked has died
meanwhile), and its answer travels back. The weather (`weather.py`) says what goes wrong: requests that do not arrive,
answers that get lost though the write has happened, writes that meet somebody else's, watches that break, come late,
or have to start anew. Where a client is cut off, or no server is there, everything fails as a refused connection does.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import orjson
from aiohttp import web

from controlplane.apiserver.answer import Answer
from controlplane.apiserver.server import Answering
from pyk.api.status import ApiError, expired, internal_error, unavailable
from pyk.client.client import Client, ClientUnavailable
from pyk.client.config import ClientConfig
from pyk.reconcile.clock import Clock
from simulation.history import cause
from simulation.log import Log
from simulation.weather import Weather
from simulation.wire import Subject, Wire, request_on, subject_of

TRAVEL_SECONDS = (0.0002, 0.002)
"""How long a request or an answer is under way."""
_WRITES = ("POST", "PUT", "PATCH", "DELETE")


class Network:
    """Who is connected to the server, and the server, if one is up."""

    def __init__(self, weather: Weather, log: Log) -> None:
        self.weather = weather
        self.log = log
        self.server: Answering | None = None
        self.requests = itertools.count(1)
        self.served = 0
        self._wires: dict[Wire, str] = {}
        self._handling: dict[asyncio.Task[Any], None] = {}

    def connect(self, wire: Wire, origin: str) -> None:
        self._wires[wire] = origin

    def disconnect(self, wire: Wire) -> None:
        """The client's end is closed."""
        self._wires.pop(wire, None)
        wire.abort()
        if self.server is not None:
            self.server.connections.lost(wire)

    def break_watches(self, origin: str = "") -> int:
        """Break the streams of one client, or of all: how many."""
        broken = [wire for wire, of in self._wires.items() if not origin or of == origin]
        for wire in broken:
            self.disconnect(wire)
        return len(broken)

    def handle(self, origin: str, request: web.Request) -> asyncio.Task[web.StreamResponse]:
        """Have the server handle a request. Raises `ClientUnavailable` without one."""
        if self.server is None:
            raise ClientUnavailable("connection refused")
        self.served += 1
        context = contextvars.copy_context()
        context.run(cause.set, (origin, request.method, request.path))
        task = asyncio.get_running_loop().create_task(self.server.api.handle(request), context=context)
        self._handling[task] = None
        task.add_done_callback(lambda done: self._handling.pop(done, None))
        return task

    def lose_server(self) -> None:
        """The server's process has died: what it was doing ends where it was."""
        self.server = None
        for task in list(self._handling):
            task.cancel()
        self.break_watches()


class SimulatedClient(Client):
    """The API server as one actor sees it. The same as over HTTP: requests, watches, errors."""

    def __init__(self, network: Network, clock: Clock, origin: str, user: str, *groups: str) -> None:
        super().__init__(ClientConfig(server="https://simulated"), user_agent=origin)
        self._network = network
        self._clock = clock
        self.origin = origin
        self._subject: Subject = subject_of(user, *groups)

    async def _travel(self) -> None:
        await self._clock.sleep(self._clock.random.uniform(*TRAVEL_SECONDS))

    def _refused(self, why: str) -> ClientUnavailable:
        error = ClientUnavailable(f"the API server cannot be reached: {why}")
        error.__cause__ = ConnectionResetError(why)
        return error

    async def _request_once(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Any, headers: Mapping[str, str]
    ) -> bytes:
        network, dice = self._network, self._clock.random
        await self._travel()
        weather = network.weather.over(self.origin)
        if weather.is_cut or network.server is None:
            raise self._refused("connection refused")
        if weather.slow:
            await self._clock.sleep(dice.uniform(0.0, weather.slow))
        if weather.errors and dice.random() < weather.errors:
            raise self._failure(method, path)
        is_write = method in _WRITES
        if weather.conflicts and method in ("PUT", "PATCH") and dice.random() < weather.conflicts:
            await self._meddle(path)
        content = None if body is None else orjson.dumps(body)
        wire = Wire(self._subject)
        try:
            answer = await asyncio.shield(
                network.handle(
                    self.origin, request_on(wire, method, path, params or {}, content, {**self._headers, **headers})
                )
            )
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            raise self._refused("the server went away") from None
        assert isinstance(answer, Answer)
        await self._travel()
        if is_write and weather.lost_answers and dice.random() < weather.lost_answers:
            network.log.add(self.origin, f"the answer ({answer.status}) to {method} {path} is lost")
            raise self._refused("the connection broke before the answer came")
        if answer.status >= 400:
            raise ApiError.from_body(answer.status, answer.whole())
        return answer.whole()

    @property
    def _headers(self) -> dict[str, str]:
        return {"User-Agent": self.origin, "Accept": "application/json"}

    def _failure(self, method: str, path: str) -> Exception:
        dice = self._clock.random
        self._network.log.add(self.origin, f"{method} {path} fails")
        return dice.choice(
            [
                self._refused("connection reset"),
                internal_error("etcdserver: leader changed"),
                unavailable("the server is currently unable to handle the request"),
                ApiError(429, "TooManyRequests", "too many requests", retry_after_seconds=1),
                ApiError(504, "Timeout", "the server did not finish in time"),
            ]
        )

    async def _meddle(self, path: str) -> None:
        """Somebody else writes to the same object first, so that an update from what was read before is refused."""
        network = self._network
        patch = {"metadata": {"annotations": {"simulation.pyk.io/touched": str(next(network.requests))}}}
        target = "/".join(path.split("/")[:-1]) if path.endswith(("/status", "/scale", "/resize")) else path
        request = request_on(
            Wire(subject_of("meddler", "system:masters")),
            "PATCH",
            target,
            {},
            orjson.dumps(patch),
            {"Content-Type": "application/merge-patch+json", "User-Agent": "meddler"},
        )
        network.log.add(self.origin, f"somebody else writes to {target} first")
        await asyncio.wait([network.handle("meddler", request)])

    async def _lines(self, path: str, params: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        network = self._network
        await self._travel()
        weather = network.weather.over(self.origin)
        if weather.is_cut or network.server is None:
            raise self._refused("connection refused")
        if weather.expired and params.get("resourceVersion") and self._clock.random.random() < weather.expired:
            network.log.add(self.origin, f"the watch of {path} has to start anew")
            raise expired(f"too old resource version: {params['resourceVersion']}")
        wire = Wire(self._subject)
        network.connect(wire, self.origin)
        try:
            task = network.handle(self.origin, request_on(wire, "GET", path, params, None, self._headers))
            task.add_done_callback(lambda _: wire.end())
            await wire.begun()
            if not wire.has_begun:
                raise ApiError.from_body(*self._ended(task, wire))
            async for piece in self._pieces(wire):
                for line in piece.split(b"\n"):
                    if line:
                        yield line
        finally:
            network.disconnect(wire)

    def _ended(self, task: asyncio.Task[Any], wire: Wire) -> tuple[int, bytes]:
        """Status and body of what came instead of a stream. Raises `ClientUnavailable`."""
        if wire.is_broken or not task.done() or task.cancelled():
            raise self._refused("the server went away")
        answer = task.result()
        assert isinstance(answer, Answer)
        return answer.status, answer.whole()

    async def _pieces(self, wire: Wire) -> AsyncGenerator[bytes, None]:
        """What is written, in order, each piece some time after it was; `lag` seconds more in bad weather."""
        arrival = 0.0
        while True:
            try:
                found = await wire.next()
                if found is None:
                    return
                written, piece = found
                lag = self._network.weather.over(self.origin).lag
                delay = self._clock.random.uniform(*TRAVEL_SECONDS) + (self._clock.random.uniform(0, lag) if lag else 0)
                arrival = max(arrival, written + delay)
                if (left := arrival - self._clock.monotonic()) > 0:
                    await self._clock.sleep(left)
                if wire.is_broken:
                    raise ConnectionResetError("the connection was lost")
            except ConnectionError as error:
                raise self._refused(str(error)) from error
            yield piece

    async def close(self) -> None:
        """Break what is still open."""
        self._network.break_watches(self.origin)
