"""An API server over TLS and the scheduler as processes' own users have them: what these tests share."""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from controlplane.apiserver.server import ServerOptions, running_server
from controlplane.store.sqlite import SqliteStore
from pyk import pki
from pyk.api.kinds import EVENT, NODE, POD
from pyk.client.client import Client
from pyk.client.config import load_kubeconfig
from pyk.client.informer import Informer
from pyk.reconcile.clock import RealClock
from tests.ports import free_port

Json = dict[str, Any]


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


@asynccontextmanager
async def started_lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path)
    async with lab.client:
        following = [asyncio.create_task(informer.run()) for informer in (lab.pods, lab.events)]
        try:
            yield lab
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
