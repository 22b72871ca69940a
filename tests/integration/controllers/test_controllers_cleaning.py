"""The garbage collector, the namespaces, service accounts and left-over pods against a real API server."""

from __future__ import annotations

from typing import Any

from pyk.api.kinds import CONFIG_MAP, EVENT, NAMESPACE, POD, SECRET, SERVICE_ACCOUNT
from pyk.api.objects import Object, name_of
from pyk.api.status import ApiError
from tests.integration.controllers.played import Cluster, config_map, eventually


async def exists(cluster: Cluster, kind: Any, name: str, namespace: str = "default") -> bool:
    try:
        await cluster.client.get(kind, name, namespace)
    except ApiError as error:
        if error.code != 404:
            raise
        return False
    return True


async def gone(cluster: Cluster, kind: Any, name: str, namespace: str = "default") -> None:
    async def is_gone() -> bool:
        return not await exists(cluster, kind, name, namespace)

    await eventually(f"{name} is gone", is_gone)


async def make(cluster: Cluster, name: str, *owners: Object, **more: Any) -> Object:
    return await cluster.client.create(CONFIG_MAP, config_map(name, *owners, **more))


async def test_dependents_go_after_their_owner_and_shared_ones_stay(cluster: Cluster) -> None:
    owner, friend = await make(cluster, "owner"), await make(cluster, "friend")
    child = await make(cluster, "child", owner)
    await make(cluster, "grandchild", child)
    await make(cluster, "shared", owner, friend)
    await cluster.client.delete(CONFIG_MAP, "owner", "default", propagation_policy="Background")
    await gone(cluster, CONFIG_MAP, "grandchild")

    async def has_one_owner() -> bool:
        shared = await cluster.client.get(CONFIG_MAP, "shared", "default")
        return [reference["name"] for reference in shared["metadata"]["ownerReferences"]] == ["friend"]

    await eventually("the shared one keeps its other owner", has_one_owner)


async def test_foreground_deletion_waits_for_blocking_dependents(cluster: Cluster) -> None:
    owner = await make(cluster, "owner")
    held = config_map("held", owner)
    held["metadata"]["finalizers"] = ["example.com/wait"]
    await cluster.client.create(CONFIG_MAP, held)
    await make(cluster, "loose", owner, block=False)
    await cluster.client.delete(CONFIG_MAP, "owner", "default", propagation_policy="Foreground")
    await gone(cluster, CONFIG_MAP, "loose")
    waiting = await cluster.client.get(CONFIG_MAP, "owner", "default")
    assert waiting["metadata"]["finalizers"] == ["foregroundDeletion"]
    await cluster.client.patch(CONFIG_MAP, "held", "default", {"metadata": {"finalizers": None}})
    await gone(cluster, CONFIG_MAP, "owner")


async def test_a_circle_of_owners_is_no_obstacle(cluster: Cluster) -> None:
    for policy in ("Background", "Foreground"):
        one = await make(cluster, "one")
        two = await make(cluster, "two", one)
        three = await make(cluster, "three", two)
        references = config_map("one", three)["metadata"]["ownerReferences"]
        await cluster.client.patch(CONFIG_MAP, "one", "default", {"metadata": {"ownerReferences": references}})
        await cluster.client.delete(CONFIG_MAP, "one", "default", propagation_policy=policy)
        for name in ("one", "two", "three"):
            await gone(cluster, CONFIG_MAP, name)


async def test_an_owner_that_never_was_or_is_elsewhere_counts_as_absent(cluster: Cluster) -> None:
    await cluster.client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "elsewhere"}})
    far = await make(cluster, "far", namespace="elsewhere")
    await make(cluster, "astray", far)
    invented = {**far, "metadata": {"name": "nobody", "uid": "11111111-2222-3333-4444-555555555555"}}
    await make(cluster, "fatherless", invented)
    await gone(cluster, CONFIG_MAP, "astray")
    await gone(cluster, CONFIG_MAP, "fatherless")
    assert await exists(cluster, CONFIG_MAP, "far", "elsewhere")

    async def told() -> bool:
        events = (await cluster.client.list(EVENT, "default")).items
        return [
            event["involvedObject"]["name"] for event in events if event["reason"] == "OwnerRefInvalidNamespace"
        ] == ["astray"]

    await eventually("the event", told)


async def test_an_owner_of_an_unknown_kind_keeps_the_object(cluster: Cluster) -> None:
    stranger = {
        "apiVersion": "example.com/v1",
        "kind": "Stranger",
        "metadata": {"name": "s", "uid": "11111111-2222-3333-4444-555555555555"},
    }
    await make(cluster, "kept", stranger)
    marker = await make(cluster, "marker")
    await make(cluster, "after", marker)
    await cluster.client.delete(CONFIG_MAP, "marker", "default")
    await gone(cluster, CONFIG_MAP, "after")
    assert await exists(cluster, CONFIG_MAP, "kept")


async def test_a_namespace_is_emptied_pods_first_and_then_goes(cluster: Cluster) -> None:
    await cluster.client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "doomed"}})

    async def has_account() -> bool:
        return await exists(cluster, SERVICE_ACCOUNT, "default", "doomed")

    await eventually("the default service account", has_account)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "held", "namespace": "doomed", "finalizers": ["example.com/wait"]},
        "spec": {"containers": [{"name": "main", "image": "a"}]},
    }
    await cluster.client.create(POD, pod)
    await make(cluster, "settings", namespace="doomed")
    metadata = {"name": "s", "namespace": "doomed"}
    await cluster.client.create(SECRET, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata})
    await cluster.client.delete(NAMESPACE, "doomed")

    async def conditions() -> Any:
        namespace = await cluster.client.get(NAMESPACE, "doomed")
        return {
            condition["type"]: condition["message"]
            for condition in namespace["status"].get("conditions") or ()
            if condition["status"] == "True"
        }

    remaining = (await eventually("conditions", conditions))["NamespaceContentRemaining"]
    assert "pods. has 1 resource instances" in remaining
    assert await exists(cluster, CONFIG_MAP, "settings", "doomed")
    await cluster.client.patch(POD, "held", "doomed", {"metadata": {"finalizers": None}})
    await gone(cluster, NAMESPACE, "doomed", "")
    assert not (await cluster.client.list(SECRET, "doomed")).items


async def test_a_default_service_account_that_is_deleted_comes_back(cluster: Cluster) -> None:
    async def uid() -> str:
        found = (await cluster.client.list(SERVICE_ACCOUNT, "default")).items
        return found[0]["metadata"]["uid"] if found else ""

    first = await eventually("the account", uid)
    await cluster.client.delete(SERVICE_ACCOUNT, "default", "default")

    async def another() -> bool:
        return await uid() not in ("", first)

    await eventually("another account", another)


async def test_a_pod_of_a_node_that_does_not_exist_is_removed(cluster: Cluster) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "lost", "namespace": "default"},
        "spec": {"nodeName": "nowhere", "containers": [{"name": "main", "image": "broken"}]},
    }
    created = await cluster.client.create(POD, pod)
    cluster.kubelet.dead_nodes.add("nowhere")
    await gone(cluster, POD, name_of(created))
