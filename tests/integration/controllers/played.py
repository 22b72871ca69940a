"""The parts that these tests play themselves: a kubelet that starts and ends pods at once, and nodes that breathe."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.controllers.manager import Manager
from pyk.api.kinds import LEASE, NODE, POD
from pyk.api.objects import Object, condition_of, is_deleting, name_of, split_key
from pyk.api.status import ApiError
from pyk.client.client import STRATEGIC_MERGE_PATCH, Client, ClientUnavailable
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock, micro_timestamp, timestamp
from pyk.reconcile.controller import Controller

KUBECTL = Path(sys.executable).parent / "kubectl"
PATIENCE_SECONDS = 20.0


class Kubelet:
    """Makes pods ready as soon as they are there, unless their image is `broken`; ends those that are deleted.

    It counts the pods ever made, and since `watch_from_now` the most that lived and the fewest that were ready.
    """

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self.pods = Informer(client, POD, clock=clock)
        self.dead_nodes: set[str] = set()
        self.made = 0
        self.most = 0
        self.fewest_ready = 10**6
        self._controller = Controller("played-kubelet", self._see_to, clock=clock, workers=4, max_delay=0.1)
        self._controller.watches(self.pods)
        self.pods.add_handler(self._count)

    def watch_from_now(self) -> None:
        self.most, self.fewest_ready = 0, 10**6

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pods.run())
            group.create_task(self._controller.run())

    def living(self) -> list[Object]:
        return [pod for pod in self.pods.values() if not is_deleting(pod)]

    def ready(self) -> list[Object]:
        return [pod for pod in self.living() if (condition_of(pod, "Ready") or {}).get("status") == "True"]

    def _count(self, old: Object | None, new: Object | None) -> None:
        self.made += old is None
        self.most = max(self.most, len(self.living()))
        self.fewest_ready = min(self.fewest_ready, len(self.ready()))

    async def _see_to(self, key: str) -> None:
        pod = self.pods.get(key)
        if pod is None or pod["spec"].get("nodeName") in self.dead_nodes:
            return
        namespace, name = split_key(key)
        try:
            if is_deleting(pod):
                await self._client.delete(POD, name, namespace, grace_period_seconds=0)
            elif pod["spec"]["containers"][0]["image"] != "broken" and not pod.get("status", {}).get("podIP"):
                ready = {"type": "Ready", "status": "True", "lastTransitionTime": timestamp(self._clock.time())}
                begun = timestamp(self._clock.time())
                status = {"phase": "Running", "podIP": "10.0.0.1", "startTime": begun, "conditions": [ready]}
                await self._client.patch(
                    POD,
                    name,
                    namespace,
                    {"status": status},
                    content_type=STRATEGIC_MERGE_PATCH,
                    subresource="status",
                )
        except ApiError as error:
            if error.code != 404:
                raise


@dataclass
class Cluster:
    """What a test has in hand. `restart` ends the API server and starts it again after so many seconds."""

    client: Client
    manager: Manager
    kubelet: Kubelet
    kubeconfig: Path
    restart: Callable[[float], Awaitable[None]]

    async def kubectl(self, *arguments: str) -> str:
        """The output of the unmodified kubectl; fails the test when kubectl fails."""
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.kubeconfig.parent)}
        process = await asyncio.create_subprocess_exec(
            str(KUBECTL),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
        )
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        return output.decode()

    async def add_node(self, name: str) -> PlayedNode:
        """A node that says it is ready and breathes from now on."""
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        await self.client.create(NODE, node)
        played = PlayedNode(self.client, name)
        await played.say("True")
        await played.breathe()
        return played


class PlayedNode:
    """A node's agent as far as the control plane hears of it."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name
        self.breath = 0

    async def say(self, ready: str) -> None:
        """Post the node's status."""
        self.breath += 1
        heartbeat = timestamp(1_700_000_000 + self.breath)  # the node's clock is wrong, which must not matter
        condition = {"type": "Ready", "status": ready, "reason": "Said", "lastHeartbeatTime": heartbeat}
        await self._client.patch(
            NODE,
            self.name,
            "",
            {"status": {"conditions": [condition]}},
            content_type=STRATEGIC_MERGE_PATCH,
            subresource="status",
        )

    async def breathe(self) -> None:
        """Renew the node's lease."""
        self.breath += 1
        renewed = {"holderIdentity": self.name, "renewTime": micro_timestamp(1_700_000_000 + self.breath)}
        metadata = {"name": self.name, "namespace": "kube-node-lease"}
        try:
            await self._client.patch(LEASE, self.name, "kube-node-lease", {"spec": renewed})
        except ApiError as error:
            if error.code != 404:
                raise
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": renewed}
            await self._client.create(LEASE, lease)

    async def keep_breathing(self, every: float = 0.3) -> None:
        """Renew until cancelled, through outages."""
        while True:
            with suppress(ClientUnavailable):
                await self.breathe()
            await asyncio.sleep(every)


async def eventually(what: str, check: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """What `check` returns (awaited, if need be) as soon as that is true."""
    last: Any = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                last = check()
                if asyncio.iscoroutine(last):
                    last = await last
                if last:
                    return last
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"after {seconds} s still not so: {what} (last: {last!r})") from None


def deployment(name: str = "web", replicas: int = 3, image: str = "a", **spec: Any) -> Object:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": image}]}},
            **spec,
        },
    }


def replica_set(name: str = "web", replicas: int = 3) -> Object:
    document = deployment(name, replicas)
    return {**document, "kind": "ReplicaSet"}


def config_map(name: str, *owners: Object, namespace: str = "default", block: bool = True) -> Object:
    references = [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": name_of(owner),
            "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": block,
        }
        for owner in owners
    ]
    metadata = {"name": name, "namespace": namespace, "ownerReferences": references}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
