"""ReplicationControllers against a real API server, and deletions that wait for their pods or leave them."""

from __future__ import annotations

from typing import Any

from pyk.api.kinds import POD, REPLICATION_CONTROLLER
from pyk.api.objects import Object, controller_of, is_deleting, name_of, owner_reference
from pyk.api.status import ApiError
from tests.integration.controllers.played import Cluster, deployment, eventually


def controller(name: str = "web", replicas: int = 3) -> Object:
    spec = {**deployment(name, replicas)["spec"], "selector": {"app": name}}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ReplicationController", "metadata": metadata, "spec": spec}


async def status(cluster: Cluster, name: str = "web") -> dict[str, Any]:
    return (await cluster.client.get(REPLICATION_CONTROLLER, name, "default")).get("status") or {}


async def test_a_controller_keeps_its_number_adopts_and_releases(cluster: Cluster) -> None:
    stray = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stray", "namespace": "default", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "a"}]},
    }
    await cluster.client.create(POD, stray)
    await cluster.client.create(REPLICATION_CONTROLLER, controller(replicas=2))

    async def ready() -> int:
        return int((await status(cluster)).get("readyReplicas") or 0)

    await eventually("two ready", lambda: _is(ready(), 2))
    assert cluster.kubelet.made == 2
    await cluster.client.patch(POD, "stray", "default", {"metadata": {"labels": {"app": "debug"}}})
    await eventually("replaced", lambda: len(cluster.kubelet.ready()) == 3)
    assert controller_of(await cluster.client.get(POD, "stray", "default")) is None
    await cluster.kubectl("scale", "rc/web", "--replicas=4")
    await eventually("four ready", lambda: _is(ready(), 4))
    assert "4         4         4" in await cluster.kubectl("get", "rc", "web")


async def _is(number: Any, wanted: int) -> bool:
    return bool(await number == wanted)


async def test_a_pod_with_another_owner_outlives_the_one_that_waits_for_its_pods(cluster: Cluster) -> None:
    await cluster.client.create(REPLICATION_CONTROLLER, controller("one", 4))
    other = await cluster.client.create(REPLICATION_CONTROLLER, controller("two", 0))
    await eventually("four pods", lambda: len(cluster.kubelet.ready()) == 4)
    kept = {name_of(pod) for pod in cluster.kubelet.living()[:2]}
    for name in kept:
        pod = await cluster.client.get(POD, name, "default")
        owners = [*pod["metadata"]["ownerReferences"], {**owner_reference(other), "controller": False}]
        await cluster.client.patch(POD, name, "default", {"metadata": {"ownerReferences": owners}})
    await cluster.client.delete(REPLICATION_CONTROLLER, "one", "default", propagation_policy="Foreground")

    async def is_gone() -> bool:
        try:
            await cluster.client.get(REPLICATION_CONTROLLER, "one", "default")
        except ApiError as error:
            return error.code == 404
        return False

    await eventually("the owner is gone", is_gone)
    assert {name_of(pod) for pod in cluster.kubelet.pods.values() if not is_deleting(pod)} == kept


async def test_orphaned_pods_stay(cluster: Cluster) -> None:
    await cluster.client.create(REPLICATION_CONTROLLER, controller(replicas=3))
    await eventually("three pods", lambda: len(cluster.kubelet.ready()) == 3)
    before = {pod["metadata"]["uid"] for pod in cluster.kubelet.living()}
    await cluster.client.delete(REPLICATION_CONTROLLER, "web", "default", propagation_policy="Orphan")

    async def are_free() -> bool:
        gone = not (await cluster.client.list(REPLICATION_CONTROLLER, "default")).items
        return gone and not any(controller_of(pod) for pod in cluster.kubelet.living())

    await eventually("free", are_free)
    assert {pod["metadata"]["uid"] for pod in cluster.kubelet.living()} == before
