"""`python -m scheduler`, as its own user, against a real API server over TLS."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controlplane.apiserver.server import ServerOptions, running_server
from controlplane.store.sqlite import SqliteStore
from pyk import pki
from pyk.api.kinds import CONFIG_MAP, EVENT, NODE, POD
from pyk.client.client import Client
from pyk.client.config import load_kubeconfig
from pyk.client.informer import Informer
from pyk.reconcile.clock import RealClock

Json = dict[str, Any]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Lab:
    """An API server that can be restarted, an admin's client, and informers that tell when something has come true."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pki_dir = folder / "pki"
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        pki.ensure_cluster_pki(self.pki_dir, server_addresses=["127.0.0.1"])
        pki.issue(self.pki_dir, "system:kube-scheduler", path_prefix=self.pki_dir / "kube-scheduler")
        self.client = Client(load_kubeconfig(self.kubeconfig("admin")))
        self.pods = Informer(self.client, POD, clock=RealClock())
        self.events = Informer(self.client, EVENT, clock=RealClock())
        self._changed = asyncio.Event()
        for informer in (self.pods, self.events):
            informer.add_handler(lambda old, new: self._changed.set())

    def kubeconfig(self, user: str) -> Path:
        path = self.folder / f"{user}.kubeconfig"
        certificate = self.pki_dir / f"{user}.crt"
        pki.write_kubeconfig(path, self.url, self.pki_dir / "ca.crt", certificate, certificate.with_suffix(".key"))
        return path

    @asynccontextmanager
    async def api_server(self) -> AsyncIterator[None]:
        clock = RealClock()
        store = SqliteStore(self.folder / "store.db", clock=clock)
        async with running_server(store, ServerOptions(self.pki_dir, port=self.port), clock):
            yield

    @asynccontextmanager
    async def scheduler(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """The process; ends it with SIGTERM, to which it must answer with status 0."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "scheduler", "--kubeconfig", str(self.kubeconfig("kube-scheduler")), *arguments
        )
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def secure_port(self) -> list[str]:
        """The options by which the scheduler serves its record of decisions."""
        port = free_port()
        self.secure_url = f"https://127.0.0.1:{port}"
        files = {"tls-cert-file": "scheduler-server.crt", "tls-private-key-file": "scheduler-server.key"}
        files["client-ca-file"] = "ca.crt"
        return [
            "--secure-port",
            str(port),
            *(part for option, file in files.items() for part in (f"--{option}", str(self.pki_dir / file))),
        ]

    async def decision(self, pod: str, *, user: str = "", token: str = "") -> tuple[int, Any]:
        """The status and what is on record of the pod, or why it is not told."""
        context = ssl.create_default_context(cafile=str(self.pki_dir / "ca.crt"))
        if user:
            context.load_cert_chain(self.pki_dir / f"{user}.crt", self.pki_dir / f"{user}.key")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"{self.secure_url}/debug/decisions/{pod}"
        async with aiohttp.ClientSession(headers=headers) as session, session.get(url, ssl=context) as answer:
            found = await answer.json()
            return answer.status, found if answer.status == 200 else found["message"]

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Wait for something about the pods and events."""
        async with asyncio.timeout(30):
            while not is_true():
                self._changed.clear()
                await self._changed.wait()

    def node_of(self, name: str) -> str | None:
        pod = self.pods.get(f"default/{name}")
        found: str | None = None if pod is None else pod["spec"].get("nodeName")
        return found

    def scheduled(self, name: str) -> Json:
        pod = self.pods.get(f"default/{name}") or {}
        conditions = pod.get("status", {}).get("conditions") or []
        return next((each for each in conditions if each["type"] == "PodScheduled"), {})

    def messages(self, reason: str) -> list[str]:
        return [event["message"] for event in self.events.values() if event["reason"] == reason]

    async def add_node(self, name: str, cpu: str = "4", **spec: Any) -> None:
        allocatable = {"cpu": cpu, "memory": "8Gi", "pods": "110"}
        await self.client.create(
            NODE,
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name},
                "spec": spec,
                "status": {"capacity": allocatable, "allocatable": allocatable},
            },
        )

    async def add_pod(self, name: str, cpu: str = "1", **spec: Any) -> None:
        container = {"name": "main", "image": "pyk.local/host", "resources": {"requests": {"cpu": cpu}}}
        await self.client.create(
            POD,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"containers": [container], **spec},
            },
        )


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path)
    async with lab.client:
        following = [asyncio.create_task(informer.run()) for informer in (lab.pods, lab.events)]
        try:
            yield lab
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)


async def test_pods_are_bound_told_of_and_explained(lab: Lab) -> None:
    port = free_port()
    async with lab.api_server(), lab.scheduler("--metrics-port", str(port), *lab.secure_port()):
        taint = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}
        await lab.add_node("tainted", taints=[taint])
        await lab.add_node("small", cpu="500m")
        await lab.add_pod("p")
        message = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {dedicated: gpu}."
        await lab.until(lambda: lab.scheduled("p").get("reason") == "Unschedulable")
        message += " preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
        assert lab.scheduled("p")["message"] == message
        await lab.until(lambda: message in lab.messages("FailedScheduling"))
        _, page = await lab.decision("default/p", user="admin")
        assert page["reasons"]["Insufficient cpu"] == ["small"]
        assert "  1 node needs 500m more cpu: small" in page["text"]

        await lab.add_node("large")
        await lab.until(lambda: lab.node_of("p") == "large")
        assert lab.scheduled("p")["status"] == "True"
        await lab.until(lambda: "Successfully assigned default/p to large" in lab.messages("Scheduled"))
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            text = await answer.text()
        assert 'scheduler_schedule_attempts_total{result="scheduled"} 1.0' in text
        assert 'scheduler_pending_pods{queue="unschedulable"} 0.0' in text


async def test_the_record_of_decisions_is_for_those_who_may_get_the_pod(lab: Lab) -> None:
    async with lab.api_server(), lab.scheduler(*lab.secure_port()):
        await lab.add_node("n")
        await lab.add_node("tainted", taints=[{"key": "dedicated", "effect": "NoSchedule"}])
        await lab.add_pod("p")
        await lab.until(lambda: lab.node_of("p") == "n")
        status, page = await lab.decision("default/p", user="admin")
        assert (status, page["node"], page["feasibleNodes"]) == (200, "n", 1)
        head, empty, titles, row = page["text"]
        assert "default/p was placed on n; 1 node would have done, its score was" in head
        assert (empty, titles.split()[:2], row.split()[:2]) == ("", ["NODE", "TOTAL"], ["n", "*"])
        pki.issue(lab.pki_dir, "nobody", path_prefix=lab.pki_dir / "nobody")
        assert await lab.decision("default/p", user="nobody") == (
            403,
            'pods "p" is forbidden: User "nobody" cannot get resource "pods" in the namespace "default"',
        )
        token = (lab.pki_dir / "tokens.csv").read_text().partition(",")[0]
        assert (await lab.decision("default/p", token=token))[0] == 200
        assert await lab.decision("default/p", token="x") == (401, "the bearer token is not valid")
        assert await lab.decision("default/p") == (401, "show a client certificate or a bearer token")
        assert await lab.decision("default/q", user="admin") == (404, "nothing is recorded of pod default/q")
        told = await lab.client.get(CONFIG_MAP, "kube-scheduler", "kube-public")
        assert told["data"] == {"address": lab.secure_url}

        env = {**os.environ, "KUBECONFIG": str(lab.kubeconfig("admin"))}
        for arguments, first in (
            (("p",), "As the scheduler recorded it:"),
            (("p", "--anew"), "default/p was placed on n at"),
        ):
            command = (sys.executable, "-m", "pyk.cli.main", "why", *arguments)
            process = await asyncio.create_subprocess_exec(*command, env=env, stdout=asyncio.subprocess.PIPE)
            text = (await process.communicate())[0].decode()
            assert (process.returncode, first in text.splitlines()[0]) == (0, True), text


async def test_many_pods_fill_the_nodes_and_never_more(lab: Lab) -> None:
    async with lab.api_server(), lab.scheduler():
        for number in range(5):
            await lab.add_node(f"n{number}", cpu="8")
        await asyncio.gather(*(lab.add_pod(f"p{number}", cpu="500m") for number in range(90)))
        await lab.until(lambda: sum(lab.node_of(f"p{number}") is not None for number in range(90)) == 80)
        await lab.until(lambda: sum(lab.scheduled(f"p{n}").get("reason") == "Unschedulable" for n in range(90)) == 10)
        on_node = Counter(lab.node_of(f"p{number}") for number in range(90))
        assert on_node == {**{f"n{number}": 16 for number in range(5)}, None: 10}
        bound = next(f"p{number}" for number in range(90) if lab.node_of(f"p{number}"))
        await lab.client.delete(POD, bound, "default", grace_period_seconds=0)
        await lab.until(lambda: sum(pod["spec"].get("nodeName") is not None for pod in lab.pods.values()) == 80)


async def test_a_gated_pod_waits_for_its_gates(lab: Lab) -> None:
    async with lab.api_server(), lab.scheduler():
        await lab.add_node("n")
        await lab.add_pod("gated", schedulingGates=[{"name": "example.com/wait"}])
        await lab.add_pod("free")
        await lab.until(lambda: lab.node_of("free") == "n")
        await lab.until(lambda: lab.scheduled("gated").get("reason") == "SchedulingGated")
        await lab.client.patch(POD, "gated", "default", {"spec": {"schedulingGates": None}})
        await lab.until(lambda: lab.node_of("gated") == "n")


async def test_scheduling_goes_on_after_the_api_server_was_away(lab: Lab) -> None:
    async with lab.scheduler() as process:
        async with lab.api_server():
            await lab.add_node("n", cpu="2")
            await lab.add_pod("before")
            await lab.until(lambda: lab.node_of("before") == "n")
        async with lab.api_server():
            await lab.add_pod("after")
            await lab.add_pod("too-many")
            await lab.until(lambda: {lab.node_of("after"), lab.node_of("too-many")} == {"n", None})
            await lab.until(
                lambda: (
                    "Unschedulable" in (lab.scheduled("after").get("reason"), lab.scheduled("too-many").get("reason"))
                )
            )
        assert process.returncode is None


async def test_a_kubeconfig_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scheduler", "--kubeconfig", str(tmp_path / "none"), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().count("\n") == 1
    assert str(tmp_path / "none") in errors.decode()
