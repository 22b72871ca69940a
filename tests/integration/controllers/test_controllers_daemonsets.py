"""DaemonSets against a real API server and played nodes: placing, rolling, history."""

from __future__ import annotations

from typing import Any

from controlplane.controllers.daemonpods import target_of
from pyk.api.kinds import CONTROLLER_REVISION, DAEMON_SET, NODE, POD
from pyk.api.objects import Object, labels_of, name_of
from tests.integration.controllers.played import Cluster, deployment, eventually


def daemon_set(**spec: Any) -> Object:
    document = deployment("log", 1, **spec)
    del document["spec"]["replicas"]
    return {**document, "kind": "DaemonSet"}


async def nodes(cluster: Cluster, *names: str) -> None:
    for name in names:
        metadata = {"name": name, "labels": {"disk": "fast"}}
        await cluster.client.create(NODE, {"apiVersion": "v1", "kind": "Node", "metadata": metadata})


async def settled(cluster: Cluster, number: int) -> bool:
    found = await cluster.client.get(DAEMON_SET, "log", "default")
    status = found.get("status") or {}
    fields = ("desiredNumberScheduled", "currentNumberScheduled", "updatedNumberScheduled", "numberAvailable")
    return status.get("observedGeneration") == found["metadata"]["generation"] and all(
        status.get(field) == number for field in fields
    )


async def image(cluster: Cluster, name: str) -> None:
    container = {"name": "main", "image": name}
    patch = {"spec": {"template": {"spec": {"containers": [container]}}}}
    await cluster.client.patch(DAEMON_SET, "log", "default", patch)


async def test_each_node_has_its_pod_and_gets_it_back(cluster: Cluster) -> None:
    await nodes(cluster, "n1", "n2")
    await cluster.client.create(DAEMON_SET, daemon_set())
    await eventually("two pods", lambda: settled(cluster, 2))
    assert sorted(map(target_of, cluster.kubelet.living())) == ["n1", "n2"]
    pod = cluster.kubelet.living()[0]
    assert {"node.kubernetes.io/unreachable", "node.kubernetes.io/disk-pressure"} <= {
        toleration["key"] for toleration in pod["spec"]["tolerations"]
    }
    await cluster.client.delete(POD, name_of(pod), "default")
    await eventually("a new one", lambda: settled(cluster, 2) if cluster.kubelet.made == 3 else False)
    await nodes(cluster, "n3")
    await eventually("three pods", lambda: settled(cluster, 3))
    selector = {"spec": {"template": {"spec": {"nodeSelector": {"disk": "slow"}}}}}
    await cluster.client.patch(DAEMON_SET, "log", "default", selector)
    await eventually("nowhere", lambda: not cluster.kubelet.pods.values())
    await cluster.client.patch(NODE, "n2", "", {"metadata": {"labels": {"disk": "slow"}}})
    await eventually("on one", lambda: settled(cluster, 1))


async def test_a_rollout_keeps_its_limits_and_can_be_undone(cluster: Cluster) -> None:
    await nodes(cluster, "n1", "n2", "n3")
    await cluster.client.create(DAEMON_SET, daemon_set())
    await eventually("three pods", lambda: settled(cluster, 3))
    cluster.kubelet.watch_from_now()
    await image(cluster, "b")
    await eventually("updated", lambda: settled(cluster, 3))
    assert cluster.kubelet.fewest_ready >= 2
    told = await cluster.kubectl("rollout", "status", "ds/log", "--timeout=10s")
    assert 'daemon set "log" successfully rolled out' in told
    await cluster.kubectl("rollout", "undo", "ds/log")
    await eventually("back", lambda: settled(cluster, 3))
    assert {pod["spec"]["containers"][0]["image"] for pod in cluster.kubelet.living()} == {"a"}
    surge = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    await cluster.client.patch(DAEMON_SET, "log", "default", {"spec": {"updateStrategy": surge}})
    cluster.kubelet.watch_from_now()
    await image(cluster, "c")
    await eventually("updated", lambda: settled(cluster, 3) if len(cluster.kubelet.living()) == 3 else False)
    assert cluster.kubelet.fewest_ready >= 3
    assert cluster.kubelet.most == 4
    assert {pod["spec"]["containers"][0]["image"] for pod in cluster.kubelet.living()} == {"c"}


async def test_people_may_tend_the_revisions(cluster: Cluster) -> None:
    await nodes(cluster, "n1")
    await cluster.client.create(DAEMON_SET, daemon_set())
    await eventually("a pod", lambda: settled(cluster, 1))

    async def revisions() -> list[Object]:
        return (await cluster.client.list(CONTROLLER_REVISION, "default")).items

    (first,) = await revisions()
    assert (first["revision"], labels_of(first)["app"]) == (1, "log")
    own = {key: first["metadata"][key] for key in ("labels", "ownerReferences")}
    metadata = {"name": "by-hand", "namespace": "default", **own}
    twin = {**first, "metadata": metadata, "revision": 2}
    await cluster.client.create(CONTROLLER_REVISION, twin)
    await cluster.client.delete(CONTROLLER_REVISION, name_of(first), "default")
    await image(cluster, "b")
    await eventually("updated", lambda: settled(cluster, 1))
    assert sorted(each["revision"] for each in await revisions()) == [2, 3]
