"""A node with the native runtime under a real API server in this process; only the pod network is a stand-in.

The server, the pod manager and its parts run in the test's event loop; sandboxes and containers are real.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.images.store import ImageStore
from agent.pods.manager import PodManager
from agent.pods.settings import PodSettings
from agent.runtime.cgroups import Cgroups, detect
from agent.runtime.native import NativeRuntime
from agent.volumes.manager import VolumeManager
from controlplane.apiserver.server import ServerOptions, running_server
from controlplane.store.sqlite import SqliteStore
from pyk import pki
from pyk.api.kinds import POD, Kind
from pyk.api.objects import Object
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.config import load_kubeconfig
from pyk.client.events import EventRecorder
from pyk.reconcile.clock import RealClock

PATIENCE_SECONDS = 30


class Addresses:
    """A pod network that only hands out addresses: nothing in these tests sends a packet to a pod."""

    not_ready = ""

    def __init__(self) -> None:
        self.attached: dict[str, str] = {}

    async def attach(self, pod_uid: str, network_namespace: str, pod: Object) -> list[str]:
        os.stat(network_namespace)
        return [self.attached.setdefault(pod_uid, f"198.51.100.{len(self.attached) + 1}")]

    async def detach(self, pod_uid: str) -> None:
        self.attached.pop(pod_uid, None)

    def addresses(self, pod_uid: str) -> list[str]:
        return [self.attached[pod_uid]] if pod_uid in self.attached else []

    async def restore(self, live: Iterable[str]) -> None:
        for uid in self.attached.keys() - set(live):
            del self.attached[uid]


class TestNode:
    """One node and its API server."""

    __test__ = False

    def __init__(
        self, root: Path, client: Client, node_client: Client, cgroups: Cgroups, server: AsyncExitStack
    ) -> None:
        self.root = root
        self.server = server
        self.client = client
        self.node_client = node_client
        self.cgroups = cgroups
        self.clock = RealClock()
        self.network = Addresses()
        self.images = ImageStore(root / "images", self.clock)
        self.node: Object | None = None
        self.settings = PodSettings(
            node_name="n1",
            node_addresses=["127.0.0.1"],
            state_dir=root / "state",
            cgroup_root=f"/pyk-test-{uuid.uuid4().hex[:8]}",
            restart_backoff_base=0.2,
            restart_backoff_max=0.4,
            image_backoff_base=0.3,
            image_backoff_max=0.5,
            failure_backoff_base=0.1,
            failure_backoff_max=0.2,
        )
        self.runtime = self._new_runtime()
        self.pods: PodManager | None = None

    def _new_runtime(self) -> NativeRuntime:
        return NativeRuntime(self.settings.state_dir / "runtime", cgroups=self.cgroups, clock=self.clock)

    @asynccontextmanager
    async def agent(self, **settings: Any) -> AsyncIterator[PodManager]:
        """An agent that works while inside, and then goes away as when it is killed: nothing is ended."""
        self.settings = replace(self.settings, **settings)
        self.runtime = self._new_runtime()
        await self.runtime.start()
        recorder = EventRecorder(self.node_client, "kubelet", "n1", clock=self.clock)
        pods = PodManager(
            client=self.node_client,
            runtime=self.runtime,
            network=self.network,
            images=self.images,
            volumes=VolumeManager(self.settings.state_dir, self.clock),
            cgroups=self.cgroups,
            recorder=recorder,
            clock=self.clock,
            settings=self.settings,
            node=lambda: self.node,
        )
        self.pods = pods
        tasks = [asyncio.create_task(pods.run()), asyncio.create_task(recorder.run())]
        try:
            yield pods
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await self.runtime.close()
            for result in results:
                if isinstance(result, Exception):
                    raise result

    async def stop_server(self) -> None:
        """Take the API server away for the rest of the test."""
        await self.server.aclose()

    async def replace_spawner(self) -> None:
        """End the process that made the containers; the agent's runtime has to find out and start another."""
        other = self._new_runtime()
        await other.start()
        await other.shutdown()

    async def create(self, obj: Object) -> Object:
        return await self.client.create(_kind(obj), {"metadata": {"namespace": "default"}, **obj})

    async def pod(self, name: str) -> Object:
        return await self.client.get(POD, name, "default")

    async def until(self, name: str, holds: Callable[[Object], Any], seconds: float = PATIENCE_SECONDS) -> Object:
        """The pod as soon as `holds` is true of it."""
        listed = await self.client.list(POD, "default", field_selector=f"metadata.name={name}")
        last = next(iter(listed.items), None)
        if last is not None and holds(last):
            return last
        events = self.client.watch(
            POD, "default", resource_version=listed.resource_version, field_selector=f"metadata.name={name}"
        )
        try:
            async with asyncio.timeout(seconds):
                async for event in events:
                    if event.type == "BOOKMARK":
                        continue
                    last = event.object
                    if event.type != "DELETED" and holds(last):
                        return last
        except TimeoutError:
            shown = json.dumps((last or {}).get("status"), indent=1)
            messages = "\n".join(await self.events(name))
            pytest.fail(f"pod {name} did not get there in {seconds} s; its status: {shown}\n{messages}")
        finally:
            await events.aclose()
        raise AssertionError("the watch ended")

    async def until_gone(self, name: str, seconds: float = PATIENCE_SECONDS) -> None:
        async with asyncio.timeout(seconds):
            while True:
                listed = await self.client.list(POD, "default", field_selector=f"metadata.name={name}")
                if not listed.items:
                    return
                events = self.client.watch(
                    POD, "default", resource_version=listed.resource_version, field_selector=f"metadata.name={name}"
                )
                async for event in events:
                    if event.type == "DELETED":
                        return

    async def events(self, name: str) -> list[str]:
        """`reason: message` of the events about a pod."""
        from pyk.api.kinds import EVENT

        listed = await self.client.list(EVENT, "default")
        return [f"{e['reason']}: {e['message']}" for e in listed.items if e["involvedObject"].get("name") == name]

    async def until_event(self, name: str, start: str) -> str:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                for text in await self.events(name):
                    if text.startswith(start):
                        return text
                await asyncio.sleep(0.02)

    def log(self, pod: Object, container: str = "main", attempt: int = 0) -> str:
        """What the container wrote, without the CRI format's head."""
        metadata = pod["metadata"]
        folder = f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"
        path = self.settings.log_root / folder / container / f"{attempt}.log"
        lines = [line.split(" ", 3) for line in path.read_text().splitlines()]
        return "".join(text + ("\n" if tag == "F" else "") for _, _, tag, text in lines)

    async def finished(self, pod: Object) -> Object:
        """Create a pod that ends by itself, and wait for that."""
        await self.create(pod)
        return await self.until(pod["metadata"]["name"], lambda p: p["status"]["phase"] in ("Succeeded", "Failed"))

    async def running(self, pod: Object) -> Object:
        """Create a pod, and wait until it is ready."""
        await self.create(pod)
        return await self.until(pod["metadata"]["name"], is_ready)

    async def clean(self) -> None:
        """End what is left of the tests' containers, whatever state it is in."""
        runtime = self._new_runtime()
        await runtime.start()
        for sandbox in await runtime.list_sandboxes():
            await runtime.remove_sandbox(sandbox.id)
        await runtime.shutdown()
        await runtime.close()
        volumes = VolumeManager(self.settings.state_dir, self.clock)
        await volumes.sweep(())
        await asyncio.to_thread(self.cgroups.remove, self.settings.cgroup_root)


def is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _kind(obj: Object) -> Kind:
    from pyk.api.kinds import BY_KIND

    return BY_KIND[obj["apiVersion"], obj["kind"]]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[TestNode]:
    folder = tmp_path / "pki"
    pki.ensure_cluster_pki(folder, server_addresses=["127.0.0.1"])
    pki.issue(folder, "system:node:n1", organizations=("system:nodes",), path_prefix=folder / "node")
    clock = RealClock()
    store = SqliteStore(tmp_path / "store.db", clock=clock)
    async with AsyncExitStack() as server:
        port = await server.enter_async_context(running_server(store, ServerOptions(folder, port=0), clock))
        configs = []
        for name in ("admin", "node"):
            file = tmp_path / f"{name}.kubeconfig"
            pki.write_kubeconfig(
                file, f"https://127.0.0.1:{port}", folder / "ca.crt", folder / f"{name}.crt", folder / f"{name}.key"
            )
            configs.append(load_kubeconfig(file))
        async with Client(configs[0]) as client, Client(configs[1]) as node_client:
            under_test = TestNode(tmp_path, client, node_client, detect(), server)
            try:
                yield under_test
            finally:
                await under_test.clean()


@pytest.fixture
def gone() -> Callable[[Exception], bool]:
    return lambda error: isinstance(error, ApiError) and error.code == 404


@pytest.fixture
def shell_pod() -> Callable[..., Object]:
    """A pod bound to the node whose containers run shell scripts: `shell_pod("a", main="sleep 9")`."""

    def make(name: str, script: str = "", *, container: dict[str, Any] | None = None, **spec: Any) -> Object:
        main = {
            "name": "main",
            "image": "pyk.local/busybox:latest",
            "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/sh", "-c", script],
            **(container or {}),
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "nodeName": "n1",
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 2,
                "automountServiceAccountToken": False,  # no controllers run here that would make what its volume shows
                "containers": [main],
                **spec,
            },
        }

    return make
