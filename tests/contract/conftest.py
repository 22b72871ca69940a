"""The databases that the store's contract is held against: a SQLite file or a memory a test, an etcd server a worker
process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.store.contract import Store
from controlplane.store.etcd import EtcdStore
from controlplane.store.memory import Memory, MemoryStore
from controlplane.store.sqlite import SqliteStore
from pyk.reconcile.clock import RealClock, VirtualClock
from tests.ports import free_port

ETCD_START_SECONDS = 20


class EtcdServer:
    """An etcd process of ours on loopback, which can be killed and started again on its data."""

    def __init__(
        self, directory: Path, *, name: str = "one", cluster: dict[str, int] | None = None, **flags: str
    ) -> None:
        self.directory = directory
        self.name = name
        self.client_port, peer_port = free_port(), free_port()
        self._cluster = cluster or {name: peer_port}
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.client_port}"

    def start(self, *, wait: bool = True) -> None:
        scheme = "https" if "cert-file" in self._flags else "http"
        client = f"{scheme}://{self.endpoint}"
        peers = {name: f"http://127.0.0.1:{port}" for name, port in self._cluster.items()}
        command = ["etcd", "--name", self.name, "--data-dir", str(self.directory / self.name)]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peers[self.name], "--initial-advertise-peer-urls", peers[self.name]]
        command += ["--initial-cluster", ",".join(f"{name}={url}" for name, url in peers.items())]
        command += ["--logger", "zap", "--log-level", "error"]
        for flag, value in self._flags.items():
            command.append(f"--{flag}={value}")
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if wait:
            self.wait_until_healthy()

    def wait_until_healthy(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + ETCD_START_SECONDS
        while not self._is_healthy():
            assert self._process.poll() is None, f"etcd exited with status {self._process.returncode}"
            assert time.monotonic() < deadline, "etcd did not become healthy"
            time.sleep(0.05)

    def _is_healthy(self) -> bool:
        if "cert-file" in self._flags:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.client_port), 1):
                return True
            return False
        try:
            with urllib.request.urlopen(f"http://{self.endpoint}/health", timeout=1) as response:
                return b"true" in response.read()
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """SIGKILL: what it had not made durable is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def make_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., EtcdServer]]:
    """Makes etcd servers, not started yet; all are killed at the end."""
    if shutil.which("etcd") is None:
        pytest.skip("the etcd binary is missing: apt-get install etcd-server")
    servers: list[EtcdServer] = []

    def make(**options: Any) -> EtcdServer:
        server = EtcdServer(options.pop("directory", None) or tmp_path_factory.mktemp("etcd"), **options)
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def etcd_server(make_etcd: Callable[..., EtcdServer]) -> EtcdServer:
    server = make_etcd()
    server.start()
    return server


@pytest.fixture(scope="session")
def etcd_roots() -> Iterator[str]:
    return (f"/pyk-test-{number}" for number in itertools.count())


class VirtualEngine:
    """A database of this process in virtual time."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.stores: list[Store] = []

    def new_store(self) -> Store:
        store = self.make()
        self.stores.append(store)
        return store

    def make(self) -> Store:
        raise NotImplementedError

    async def restart(self, store: Store) -> Store:
        """The database goes away and returns; the store to use from now on."""
        await store.close()
        reopened = self.new_store()
        await reopened.open()
        return reopened

    async def let_time_pass(self, seconds: float) -> None:
        await self.clock.advance(seconds)


class SqliteEngine(VirtualEngine):
    """A SQLite file."""

    name = "sqlite"

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._path = directory / "state" / "store.db"

    def make(self) -> Store:
        return SqliteStore(self._path, clock=self.clock)


class MemoryEngine(VirtualEngine):
    """A memory."""

    name = "memory"

    def __init__(self) -> None:
        super().__init__()
        self._memory = Memory()

    def make(self) -> Store:
        return MemoryStore(self._memory, clock=self.clock)


class EtcdEngine:
    """A key prefix of its own in the worker's etcd server."""

    name = "etcd"

    def __init__(self, server: EtcdServer, root: str) -> None:
        self._server = server
        self._root = root
        self.stores: list[Store] = []

    def new_store(self) -> Store:
        store = EtcdStore([self._server.endpoint], clock=RealClock(), root=self._root)
        self.stores.append(store)
        return store

    async def restart(self, store: Store) -> Store:
        self._server.kill()
        await asyncio.to_thread(self._server.start)
        return store

    async def let_time_pass(self, seconds: float) -> None:
        """etcd counts the time of its leases itself: whoever needs it waits for the event."""


@pytest.fixture(params=["sqlite", "memory", pytest.param("etcd", marks=pytest.mark.etcd)])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    if request.param == "sqlite":
        made: Any = SqliteEngine(tmp_path)
    elif request.param == "memory":
        made = MemoryEngine()
    else:
        made = EtcdEngine(request.getfixturevalue("etcd_server"), next(request.getfixturevalue("etcd_roots")))
    yield made
    for store in made.stores:
        await store.close()


@pytest.fixture
async def store(engine: Any) -> Store:
    opened: Store = engine.new_store()
    await opened.open()
    return opened


@pytest.fixture
def collect() -> Callable[..., Awaitable[list[Any]]]:
    """`await collect(watch, count)`: the next `count` events of a watch, which must come within 30 s."""

    async def take(watch: Any, count: int) -> list[Any]:
        events: list[Any] = []
        async with asyncio.timeout(30):
            while len(events) < count:
                events += (await anext(watch)).events
        return events

    return take
