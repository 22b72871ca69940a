"""Several processes of one component: one leads, another takes over when it stops or is killed."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from pyk import pki
from pyk.api.kinds import EVENT, LEASE
from pyk.api.status import ApiError
from pyk.client.config import load_kubeconfig
from tests.integration.controllers.played import Cluster, eventually

QUICKLY = ("--leader-elect-lease-duration=3", "--leader-elect-renew-deadline=2", "--leader-elect-retry-period=0.5")
Process = asyncio.subprocess.Process
Start = Callable[[], Awaitable[Process]]


@pytest.fixture(params=["controller-manager", "scheduler"])
def component(request: pytest.FixtureRequest, cluster: Cluster, pki_dir: Path, tmp_path: Path) -> str:
    """Which component stands; it has a kubeconfig of its own."""
    name = str(request.param)
    server = load_kubeconfig(cluster.kubeconfig).server
    key, certificate = pki_dir / f"{name}.key", pki_dir / f"{name}.crt"
    pki.write_kubeconfig(tmp_path / "own", server, pki_dir / "ca.crt", certificate, key)
    return name


@pytest.fixture
async def start(cluster: Cluster, component: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts one more process of the component that stands for election."""
    module = {"controller-manager": "controlplane.controllers", "scheduler": "scheduler"}[component]
    started: list[Process] = []

    async def one() -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, "--leader-elect", *QUICKLY),
            *("--kubeconfig", str(tmp_path / "own")),
            stderr=asyncio.subprocess.DEVNULL,
        )
        started.append(process)
        return process

    yield one
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def holder(cluster: Cluster, component: str) -> str:
    try:
        lease = await cluster.client.get(LEASE, f"kube-{component}", "kube-system")
    except ApiError:
        return ""
    return str(lease["spec"].get("holderIdentity") or "")


def is_held_by(cluster: Cluster, component: str, process: Process) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return f"_{process.pid}-" in await holder(cluster, component)

    return check


async def test_another_takes_over_from_a_leader_that_stops_and_from_one_that_is_killed(
    cluster: Cluster, component: str, start: Start
) -> None:
    first = await start()
    await eventually("the first leads", is_held_by(cluster, component, first))
    second = await start()
    first.send_signal(signal.SIGTERM)
    assert await first.wait() == 0
    assert await holder(cluster, component) == "", "it gave the lock back"
    await eventually("the second leads", is_held_by(cluster, component, second))
    third = await start()
    second.kill()
    await eventually("the third leads", is_held_by(cluster, component, third))
    lease = await cluster.client.get(LEASE, f"kube-{component}", "kube-system")
    assert lease["spec"]["leaseTransitions"] == 2

    async def three_told() -> bool:
        events = (await cluster.client.list(EVENT, "kube-system", field_selector="involvedObject.kind=Lease")).items
        return sum(event["message"].endswith("became leader") for event in events) == 3

    await eventually("each of the three told that it leads", three_told)
