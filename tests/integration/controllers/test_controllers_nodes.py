"""Node lifecycle, evictions and pod ranges against a real API server. Nodes are dead after 2.5 s of silence here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pyk.api.kinds import EVENT, NODE, POD
from pyk.api.objects import Object, condition_of, is_condition_true, is_deleting
from tests.integration.controllers.played import Cluster, PlayedNode, eventually


@asynccontextmanager
async def breathing(*nodes: PlayedNode) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(node.keep_breathing()) for node in nodes]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def taints(cluster: Cluster, name: str) -> set[tuple[str, str]]:
    node = await cluster.client.get(NODE, name)
    found = node["spec"].get("taints") or []
    return {(taint["key"].removeprefix("node.kubernetes.io/"), taint["effect"]) for taint in found}


async def readiness(cluster: Cluster, name: str) -> str:
    return str((condition_of(await cluster.client.get(NODE, name), "Ready") or {}).get("status"))


def has_taints(cluster: Cluster, name: str, *wanted: tuple[str, str]) -> Any:
    async def check() -> bool:
        return await taints(cluster, name) == set(wanted)

    return check


def pod_on(node: str, name: str, **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "a"}], **spec},
    }


UNREACHABLE = ("unreachable", "NoSchedule"), ("unreachable", "NoExecute")


async def test_a_node_that_falls_silent_is_tainted_its_pods_evicted_and_all_is_undone_when_it_returns(
    cluster: Cluster,
) -> None:
    nodes = [await cluster.add_node(name) for name in ("n1", "n2", "n3")]
    await cluster.client.create(POD, pod_on("n1", "guest"))
    await eventually("ready", lambda: len(cluster.kubelet.ready()) == 1)
    async with breathing(*nodes[1:]):
        async with breathing(nodes[0]):
            await eventually("many breaths", lambda: nodes[0].breath > 15)
            assert await readiness(cluster, "n1") == "True"
            cluster.kubelet.dead_nodes.add("n1")
        await eventually("tainted", has_taints(cluster, "n1", *UNREACHABLE))
        assert await readiness(cluster, "n1") == "Unknown"

        async def is_evicted() -> bool:
            pod = await cluster.client.get(POD, "guest", "default")
            return is_deleting(pod) and is_condition_true(pod, "DisruptionTarget")

        async def is_unready() -> bool:
            return not is_condition_true(await cluster.client.get(POD, "guest", "default"), "Ready")

        await eventually("its pod is not ready", is_unready)
        await eventually("evicted after its tolerationSeconds", is_evicted)
        async with breathing(nodes[0]):
            await nodes[0].say("True")
            await eventually("no taints", has_taints(cluster, "n1"))
            assert await taints(cluster, "n2") == set()


async def test_when_all_nodes_fall_silent_at_once_nothing_is_evicted(cluster: Cluster) -> None:
    nodes = [await cluster.add_node(name) for name in ("n1", "n2", "n3")]
    await cluster.client.create(POD, pod_on("n1", "guest"))
    for one in nodes:
        await one.breathe()
    for name in ("n1", "n2", "n3"):
        await eventually("known", has_taints(cluster, name, UNREACHABLE[0]))
    for name in ("n1", "n2", "n3"):
        assert await taints(cluster, name) == {UNREACHABLE[0]}
    assert not is_deleting(await cluster.client.get(POD, "guest", "default"))


async def test_an_outage_of_the_api_server_is_not_taken_for_the_death_of_nodes(cluster: Cluster) -> None:
    nodes = [await cluster.add_node(name) for name in ("n1", "n2")]
    async with breathing(*nodes):
        await cluster.restart(4.0)
        before = nodes[0].breath
        await eventually("many breaths", lambda: nodes[0].breath > before + 10)
        assert await readiness(cluster, "n1") == "True"
        assert await readiness(cluster, "n2") == "True"
        events = (await cluster.client.list(EVENT, "default")).items
        assert not [event for event in events if event["reason"] == "NodeNotReady"]


async def test_a_node_that_says_it_is_not_ready_and_a_cordoned_one_are_tainted(cluster: Cluster) -> None:
    nodes = [await cluster.add_node(name) for name in ("n1", "n2")]
    async with breathing(*nodes):
        await nodes[0].say("False")
        await eventually(
            "not ready", has_taints(cluster, "n1", ("not-ready", "NoSchedule"), ("not-ready", "NoExecute"))
        )
        await cluster.kubectl("cordon", "n2")
        await eventually("cordoned", has_taints(cluster, "n2", ("unschedulable", "NoSchedule")))
        await cluster.kubectl("uncordon", "n2")
        await nodes[0].say("True")
        await eventually("uncordoned", has_taints(cluster, "n2"))
        await eventually("ready", has_taints(cluster, "n1"))


async def test_a_taint_of_somebody_evicts_who_does_not_tolerate_it(cluster: Cluster) -> None:
    node = await cluster.add_node("n1")
    await cluster.client.create(POD, pod_on("n1", "guest"))
    tolerations = [{"key": "maintenance", "operator": "Exists"}]
    await cluster.client.create(POD, pod_on("n1", "resident", tolerations=tolerations))
    async with breathing(node):
        await cluster.kubectl("taint", "nodes", "n1", "maintenance=now:NoExecute")

        def only_resident() -> bool:
            return [pod["metadata"]["name"] for pod in cluster.kubelet.living()] == ["resident"]

        await eventually("the guest is gone", only_resident)


async def test_every_node_gets_its_own_range_and_a_freed_one_is_given_again(cluster: Cluster) -> None:
    async def ranges() -> list[str]:
        nodes = (await cluster.client.list(NODE)).items
        return sorted(node["spec"].get("podCIDR") or "" for node in nodes)

    await asyncio.gather(*(cluster.client.create(NODE, bare_node(f"n{number}")) for number in range(5)))

    async def all_have() -> bool:
        return await ranges() == [f"10.200.{number}.0/24" for number in range(5)]

    await eventually("five ranges", all_have)
    freed = (await cluster.client.get(NODE, "n3"))["spec"]["podCIDR"]
    await cluster.client.delete(NODE, "n3")
    await cluster.client.create(NODE, bare_node("late"))
    await eventually("five ranges again", all_have)
    assert (await cluster.client.get(NODE, "late"))["spec"]["podCIDRs"] == [freed]


def bare_node(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
