"""An API server that is killed while Services come and go: no address and no node port is given twice, and none is
lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from controlplane.apiserver.allocation import PORTS_PREFIX
from controlplane.apiserver.allocation_repair import GRACE_SECONDS
from controlplane.apiserver.server import ServerOptions, running_server
from controlplane.store.sqlite import SqliteStore
from pyk.reconcile.clock import RealClock
from tests.integration.apiserver.conftest import Api, Server
from tests.ports import free_port

SERVICES = "/api/v1/namespaces/default/services"
ADDRESSES = "/apis/networking.k8s.io/v1/ipaddresses"
GENERATIONS, WRITERS, ANSWERS = 4, 12, 60


class LaterClock(RealClock):
    """A clock for which what a killed server began was long ago."""

    def time(self) -> float:
        return super().time() + GRACE_SECONDS + 60


@asynccontextmanager
async def requests_to(pki_dir: Path, port: int) -> AsyncIterator[Api]:
    context = Server("", pki_dir, None, None, pki_dir).client_context()  # type: ignore[arg-type]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield Api(session, f"https://127.0.0.1:{port}")


async def until_ready(api: Api) -> None:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                if (await api("GET", "/readyz")).status == 200:
                    return
            await asyncio.sleep(0.05)


async def come_and_go(api: Api, names: itertools.count[int], answered: list[int]) -> None:
    """Create Services, turn some into others, delete some; until the server is gone."""
    with contextlib.suppress(aiohttp.ClientError, OSError):
        while True:
            number = next(names)
            spec = {"type": "NodePort", "selector": {"app": "x"}, "ports": [{"port": 80}]}
            made = await api("POST", SERVICES, {"metadata": {"name": f"s{number}"}, "spec": spec})
            assert made.status == 201, made.body
            answered.append(number)
            if number % 3 == 0:
                await api("DELETE", f"{SERVICES}/s{number}")
            elif number % 3 == 1:
                await api.patch(f"{SERVICES}/s{number}", {"spec": {"type": "ClusterIP"}})


async def test_a_killed_server_gives_nothing_twice_and_loses_nothing(cluster_pki: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "controlplane.apiserver", "--data-dir", str(tmp_path)]
    command += ["--pki-dir", str(cluster_pki)]
    names: itertools.count[int] = itertools.count()
    answered: list[int] = []
    async with requests_to(cluster_pki, port) as api:
        for generation in range(1, GENERATIONS + 1):
            process = await asyncio.create_subprocess_exec(*command, "--bind", "127.0.0.1", "--port", str(port))
            try:
                await until_ready(api)
                async with asyncio.TaskGroup() as group:
                    for _ in range(WRITERS):
                        group.create_task(come_and_go(api, names, answered))
                    while len(answered) < generation * ANSWERS:
                        await asyncio.sleep(0.005)
                    process.kill()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    store = SqliteStore(tmp_path / "store.db", clock=RealClock())
    async with (
        running_server(store, ServerOptions(cluster_pki, port=0), LaterClock()) as bound,
        requests_to(cluster_pki, bound) as api,
    ):
        services = (await api("GET", SERVICES)).body["items"]
        assert {f"s{number}" for number in answered if number % 3} <= {each["metadata"]["name"] for each in services}
        used = Counter(each["spec"]["clusterIP"] for each in services)
        ports = Counter(port["nodePort"] for each in services for port in each["spec"]["ports"] if "nodePort" in port)
        assert max(used.values()) == max(ports.values()) == 1

        async def recorded() -> tuple[set[str], set[int]]:
            found = (await api("GET", ADDRESSES)).body["items"]
            page = await store.list(PORTS_PREFIX)
            return {each["metadata"]["name"] for each in found}, {
                int(entry.key[len(PORTS_PREFIX) :]) for entry in page.entries
            }

        async with asyncio.timeout(20):
            while await recorded() != (set(used), set(ports)):
                await asyncio.sleep(0.05)
