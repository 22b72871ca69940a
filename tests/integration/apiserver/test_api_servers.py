"""Several API servers on one etcd: the endpoints of the Service `kubernetes` name those that live."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from controlplane.apiserver.kubernetes_service import endpoint_slices, endpoints
from controlplane.apiserver.servers import RENEW_SECONDS, TTL_SECONDS
from tests.contract.conftest import EtcdServer
from tests.integration.apiserver.conftest import Api, Server
from tests.ports import free_port

NAMED = "/api/v1/namespaces/default/endpoints/kubernetes"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
_SLACK_SECONDS = 4.0


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    if shutil.which("etcd") is None:
        pytest.skip("the etcd binary is missing: apt-get install etcd-server")
    server = EtcdServer(tmp_path)
    server.start()
    yield server
    server.kill()


@asynccontextmanager
async def api_server(
    etcd: EtcdServer, pki_dir: Path, advertised: str, port: int
) -> AsyncIterator[tuple[Api, asyncio.subprocess.Process]]:
    """A server process that answers, and requests to it."""
    command = [sys.executable, "-m", "controlplane.apiserver", "--data-dir", str(pki_dir), "--pki-dir", str(pki_dir)]
    command += ["--store", "etcd", "--etcd-endpoints", etcd.endpoint, "--bind", "127.0.0.1", "--port", str(port)]
    process = await asyncio.create_subprocess_exec(*command, "--advertise-address", advertised)
    context = Server("", pki_dir, None, None, pki_dir).client_context()  # type: ignore[arg-type]
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            api = Api(session, f"https://127.0.0.1:{port}")
            async with asyncio.timeout(30):
                while not await _is_ready(api):
                    await asyncio.sleep(0.05)
            yield api, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _is_ready(api: Api) -> bool:
    try:
        return (await api("GET", "/readyz")).status == 200
    except aiohttp.ClientError:
        return False


async def named(api: Api) -> tuple[set[str], set[str]]:
    """The servers that the Endpoints and the EndpointSlices name."""
    subsets = (await api("GET", NAMED)).body.get("subsets", ())
    slices = (await api("GET", SLICES, labelSelector="kubernetes.io/service-name=kubernetes")).body["items"]
    return {f"{address['ip']}:{subset['ports'][0]['port']}" for subset in subsets for address in subset["addresses"]}, {
        f"{address}:{each['ports'][0]['port']}"
        for each in slices
        for endpoint in each["endpoints"]
        for address in endpoint["addresses"]
    }


async def until(api: Api, wanted: set[str], seconds: float) -> float:
    """Wait until both objects name the servers; the seconds that it took."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while await named(api) != (wanted, wanted):
            await asyncio.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.etcd
async def test_endpoints_name_the_servers_that_live(etcd: EtcdServer, cluster_pki: Path) -> None:
    one, two = free_port(), free_port()
    first, second = f"192.0.2.1:{one}", f"192.0.2.2:{two}"
    async with api_server(etcd, cluster_pki, "192.0.2.1", one) as (api, _):
        await until(api, {first}, _SLACK_SECONDS)
        async with api_server(etcd, cluster_pki, "192.0.2.2", two) as (_, process):
            await until(api, {first, second}, RENEW_SECONDS + _SLACK_SECONDS)
            process.send_signal(signal.SIGKILL)
            await until(api, {first}, TTL_SECONDS + RENEW_SECONDS + _SLACK_SECONDS)
        async with api_server(etcd, cluster_pki, "192.0.2.2", two) as (_, process):
            await until(api, {first, second}, RENEW_SECONDS + _SLACK_SECONDS)
            await api("DELETE", NAMED)
            await api("DELETE", f"{SLICES}/kubernetes")
            await until(api, {first, second}, RENEW_SECONDS + _SLACK_SECONDS)
            process.send_signal(signal.SIGTERM)
            taken = await until(api, {first}, RENEW_SECONDS + _SLACK_SECONDS)
            assert taken < TTL_SECONDS, "who ends in order is not waited for"


def test_servers_are_grouped_by_port_and_family() -> None:
    same = [("192.0.2.2", 6443), ("192.0.2.1", 6443)]
    assert [[each["ip"] for each in subset["addresses"]] for subset in endpoints(same)["subsets"]] == [
        ["192.0.2.1", "192.0.2.2"]
    ]
    assert list(endpoint_slices(same)) == ["kubernetes"]
    mixed = endpoint_slices([*same, ("192.0.2.3", 7443), ("2001:db8::1", 6443)])
    assert {name: each["addressType"] for name, each in mixed.items()} == {
        "kubernetes": "IPv4",
        "kubernetes-ipv4-7443": "IPv4",
        "kubernetes-ipv6-6443": "IPv6",
    }
