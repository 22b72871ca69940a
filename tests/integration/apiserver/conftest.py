"""A real API server over TLS with a SQLite store of its own, and two clients: plain aiohttp and kubectl."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from controlplane.apiserver.server import ServerOptions, running_server
from controlplane.store.sqlite import SqliteStore
from pyk import pki
from pyk.reconcile.clock import RealClock

KUBECTL = Path(sys.executable).parent / "kubectl"


@dataclass
class Answer:
    status: int
    body: Any
    headers: Any
    raw: bytes

    @property
    def message(self) -> str:
        return str(self.body["message"])


class Api:
    """Requests as they are on the wire."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def __call__(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, **query: Any
    ) -> Answer:
        data = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        content_type = {"Content-Type": "application/json"} if data is not None else {}
        async with self.session.request(
            method,
            self.url + path,
            data=data,
            params={key: str(value) for key, value in query.items()},
            headers=content_type | (headers or {}),
        ) as response:
            raw = await response.read()
            is_json = response.content_type == "application/json" and raw
            return Answer(response.status, orjson.loads(raw) if is_json else None, response.headers, raw)

    async def patch(self, path: str, body: Any, kind: str = "merge", **query: Any) -> Answer:
        types = {"merge": "merge-patch", "json": "json-patch", "strategic": "strategic-merge-patch"}
        headers = {"Content-Type": f"application/{types[kind]}+json"}
        return await self("PATCH", path, body, headers=headers, **query)

    @asynccontextmanager
    async def watch(
        self, path: str, *, headers: dict[str, str] | None = None, **query: Any
    ) -> AsyncIterator[EventReader]:
        params = {"watch": "true", **{key: str(value) for key, value in query.items()}}
        async with self.session.get(self.url + path, params=params, headers=headers) as response:
            yield EventReader(response)


class EventReader:
    """The events of a watch, one by one."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> tuple[str, Any]:
        async with asyncio.timeout(10):
            line = await self.response.content.readline()
        assert line, "the watch has ended"
        event = orjson.loads(line)
        return event["type"], event["object"]

    async def take(self, count: int) -> list[tuple[str, str]]:
        """Types and names of the next events."""
        found = [await self.next() for _ in range(count)]
        return [(kind, obj["metadata"]["name"]) for kind, obj in found]

    async def is_ended(self) -> bool:
        async with asyncio.timeout(10):
            return await self.response.content.readline() == b""


@dataclass
class Server:
    """A running server and how to reach it."""

    url: str
    pki_dir: Path
    store: SqliteStore
    api: Api
    kubeconfig: Path

    def client_context(self, certificate: str | None = "admin") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.pki_dir / "ca.crt"))
        if certificate:
            context.load_cert_chain(self.pki_dir / f"{certificate}.crt", self.pki_dir / f"{certificate}.key")
        return context

    @asynccontextmanager
    async def client(self, certificate: str | None = "admin", token: str = "") -> AsyncIterator[Api]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connector = aiohttp.TCPConnector(ssl=self.client_context(certificate))
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            yield Api(session, self.url)

    async def kubectl(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """Exit status, output and errors of the unmodified kubectl."""
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.kubeconfig.parent)}
        process = await asyncio.create_subprocess_exec(
            str(KUBECTL),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate(stdin.encode())
        return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture(scope="session")
def cluster_pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apiserver-pki")
    pki.ensure_cluster_pki(folder, server_addresses=["127.0.0.1"])
    pki.issue(
        folder,
        "system:node:n1",
        organizations=("system:nodes",),
        path_prefix=folder / "node1",
    )
    return folder


@asynccontextmanager
async def started(pki_dir: Path, data_dir: Path, port: int = 0, **options: Any) -> AsyncIterator[Server]:
    clock = RealClock()
    store = SqliteStore(data_dir / "store.db", clock=clock)
    async with running_server(store, ServerOptions(pki_dir, port=port, **options), clock) as bound:
        url = f"https://127.0.0.1:{bound}"
        kubeconfig = data_dir / "kubeconfig"
        pki.write_kubeconfig(kubeconfig, url, pki_dir / "ca.crt", pki_dir / "admin.crt", pki_dir / "admin.key")
        server = Server(url, pki_dir, store, None, kubeconfig)  # type: ignore[arg-type]
        async with server.client() as api:
            server.api = api
            yield server


@pytest.fixture
async def server(cluster_pki: Path, tmp_path: Path) -> AsyncIterator[Server]:
    async with started(cluster_pki, tmp_path) as running:
        yield running


@pytest.fixture
def start_server(cluster_pki: Path, tmp_path: Path) -> Any:
    """Starts a server on the same data whenever it is called."""
    return lambda port=0: started(cluster_pki, tmp_path, port)


@pytest.fixture
def api(server: Server) -> Api:
    return server.api


def pod(name: str, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **metadata},
        "spec": {"containers": [{"name": "main", "image": "pyk.local/busybox"}]},
    }


def config(name: str, data: dict[str, str] | None = None, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": data or {}}


@pytest.fixture
def new_pod() -> Any:
    return pod


@pytest.fixture
def new_config() -> Any:
    return config
