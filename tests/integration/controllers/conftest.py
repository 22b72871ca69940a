"""A real API server, the controller manager with its own identity, and a kubelet that is played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from controlplane.apiserver.server import ServerOptions, running_server
from controlplane.controllers.manager import Manager, Options
from controlplane.store.sqlite import SqliteStore
from pyk import pki
from pyk.client.client import Client
from pyk.client.config import load_kubeconfig
from pyk.reconcile.clock import RealClock
from tests.integration.controllers.played import Cluster, Kubelet


@pytest.fixture(scope="session")
def pki_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("controllers-pki")
    pki.ensure_cluster_pki(folder, server_addresses=["127.0.0.1"])
    return folder


@asynccontextmanager
async def running(task: asyncio.Task[None]) -> AsyncIterator[None]:
    """Cancel the task at the end; a failure of its own is the test's failure."""
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


@pytest.fixture
async def cluster(pki_dir: Path, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """Everything running, with nodes that are found dead after two and a half seconds of silence.

    The parameter, if any, is the class of the controller manager's client.
    """
    client_class: type[Client] = getattr(request, "param", Client)
    clock = RealClock()
    async with AsyncExitStack() as stack:
        server = AsyncExitStack()
        await stack.enter_async_context(server)
        data = tmp_path / "store.db"

        async def start_server(port: int) -> int:
            options = ServerOptions(pki_dir, port=port, default_toleration_seconds=1)
            return await server.enter_async_context(running_server(SqliteStore(data, clock=clock), options, clock))

        port = await start_server(0)
        for name in ("admin", "controller-manager"):
            key, certificate = pki_dir / f"{name}.key", pki_dir / f"{name}.crt"
            url = f"https://127.0.0.1:{port}"
            pki.write_kubeconfig(tmp_path / name, url, pki_dir / "ca.crt", certificate, key)
        admin = await stack.enter_async_context(Client(load_kubeconfig(tmp_path / "admin")))
        client = await stack.enter_async_context(client_class(load_kubeconfig(tmp_path / "controller-manager")))
        authority = pki.RequestSigner(pki_dir / "ca.crt", pki_dir / "ca.key")
        network = ip_network("10.200.0.0/16")
        options = Options(((network, 24),), 2.5, authority=authority, autoscaler_sync_seconds=0.3)
        manager = Manager(client, clock, options)
        kubelet = Kubelet(admin, clock)
        await stack.enter_async_context(running(asyncio.create_task(manager.run())))
        await stack.enter_async_context(running(asyncio.create_task(kubelet.run())))

        async def restart(away: float) -> None:
            await server.aclose()
            await asyncio.sleep(away)
            await start_server(port)

        yield Cluster(admin, manager, kubelet, tmp_path / "admin", restart)
