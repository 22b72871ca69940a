"""Volumes through the API: the scheduler chooses; a provisioner and the volume controller are played here."""

from __future__ import annotations

from typing import Any

from pyk.api.kinds import BY_KIND, NODE, PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, STORAGE_CLASS
from tests.integration.scheduler.lab import Json, Lab

SELECTED = "volume.kubernetes.io/selected-node"
HOSTNAME, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
DRIVER = BY_KIND["storage.k8s.io/v1", "CSIDriver"]
CAPACITY = BY_KIND["storage.k8s.io/v1", "CSIStorageCapacity"]


async def add_nodes(lab: Lab, *names: str) -> None:
    for name in names:
        await lab.add_node(name)
        labels = {HOSTNAME: name, ZONE: f"zone-{name}"}
        await lab.client.patch(NODE, name, "", {"metadata": {"labels": labels}})


async def add_class(lab: Lab, provisioner: str) -> None:
    await lab.client.create(
        STORAGE_CLASS,
        {"metadata": {"name": "late"}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"},
    )


async def add_claim(lab: Lab, name: str, size: str = "1Gi", modes: str = "ReadWriteOnce") -> None:
    spec = {"accessModes": [modes], "storageClassName": "late", "resources": {"requests": {"storage": size}}}
    metadata = {"name": name, "namespace": "default"}
    await lab.client.create(PERSISTENT_VOLUME_CLAIM, {"metadata": metadata, "spec": spec})


async def add_volume(lab: Lab, name: str, node: str = "", labels: Json | None = None, **more: Any) -> None:
    spec: Json = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "late",
        "csi": {"driver": "disk.example.com", "volumeHandle": name},
        **more,
    }
    if node:
        term = {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [node]}]}
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [term]}}
    await lab.client.create(PERSISTENT_VOLUME, {"metadata": {"name": name, "labels": labels or {}}, "spec": spec})


async def bind(lab: Lab, claim: str, volume: str) -> None:
    """What the volume controller does of a claim and a volume that are meant for one another."""
    found = await lab.client.get(PERSISTENT_VOLUME_CLAIM, claim, "default")
    reference = {
        "kind": "PersistentVolumeClaim",
        "namespace": "default",
        "name": claim,
        "uid": found["metadata"]["uid"],
    }
    await lab.client.patch(PERSISTENT_VOLUME, volume, "", {"spec": {"claimRef": reference}})
    done = {"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": volume}}
    await lab.client.patch(PERSISTENT_VOLUME_CLAIM, claim, "default", done)
    bound = {"status": {"phase": "Bound"}}
    await lab.client.patch(PERSISTENT_VOLUME_CLAIM, claim, "default", bound, subresource="status")
    await lab.client.patch(PERSISTENT_VOLUME, volume, "", bound, subresource="status")


def using(*claims: str) -> list[Json]:
    return [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims]


async def selected(lab: Lab, claim: str, other_than: str = "") -> str:
    """The node for which the claim is to be provisioned, as soon as one is chosen."""
    async for event in lab.client.watch(PERSISTENT_VOLUME_CLAIM, "default", resource_version="0"):
        metadata = event.object["metadata"]
        node = (metadata.get("annotations") or {}).get(SELECTED, "")
        if metadata["name"] == claim and node not in ("", other_than):
            return str(node)
    raise AssertionError("the watch ended")


async def test_a_volume_is_provisioned_for_the_chosen_node_and_the_pod_bound_when_it_is_there(lab: Lab) -> None:
    async with lab.api_server(), lab.scheduler():
        await add_nodes(lab, "a", "b")
        await add_class(lab, "disk.example.com")
        await add_claim(lab, "data")
        await lab.add_pod("p", volumes=using("data"), nodeSelector={HOSTNAME: "b"})
        assert await selected(lab, "data") == "b"
        assert lab.node_of("p") is None, "it waits for its volume"
        await add_volume(lab, "made", node="b")
        await bind(lab, "data", "made")
        await lab.until(lambda: lab.node_of("p") == "b")


async def test_when_a_provisioner_gives_up_the_pod_is_placed_anew(lab: Lab) -> None:
    async with lab.api_server(), lab.scheduler():
        await add_nodes(lab, "a", "b")
        await add_class(lab, "disk.example.com")
        await add_claim(lab, "data")
        await lab.add_pod("p", volumes=using("data"))
        first = await selected(lab, "data")
        await lab.client.patch(NODE, first, "", {"spec": {"unschedulable": True}})
        await lab.client.patch(
            PERSISTENT_VOLUME_CLAIM, "data", "default", {"metadata": {"annotations": {SELECTED: None}}}
        )
        second = await selected(lab, "data", other_than=first)
        await add_volume(lab, "made", node=second)
        await bind(lab, "data", "made")
        await lab.until(lambda: lab.node_of("p") == second)


async def test_a_waiting_claim_is_given_a_volume_of_the_node_that_the_pod_goes_to(lab: Lab) -> None:
    async with lab.api_server(), lab.scheduler():
        await add_nodes(lab, "a", "b")
        await add_class(lab, "kubernetes.io/no-provisioner")
        await add_volume(lab, "of-b", node="b")
        await add_claim(lab, "data")
        await add_claim(lab, "more")
        await lab.add_pod("p", volumes=using("data"))
        async for event in lab.client.watch(PERSISTENT_VOLUME, resource_version="0"):
            if reference := event.object["spec"].get("claimRef"):
                assert reference["name"] == "data"
                break
        await lab.add_pod("late", volumes=using("more"))
        told = "2 node(s) didn't find available persistent volumes to bind"
        await lab.until(lambda: told in lab.scheduled("late").get("message", ""))
        await bind(lab, "data", "of-b")
        await lab.until(lambda: lab.node_of("p") == "b")


async def test_bound_volumes_lead_pods_to_their_nodes_and_zones(lab: Lab) -> None:
    async with lab.api_server(), lab.scheduler():
        await add_nodes(lab, "a", "b")
        await add_class(lab, "disk.example.com")
        await add_volume(lab, "on-a", node="a")
        await add_volume(lab, "zoned", labels={ZONE: "zone-b"})
        for claim, volume in (("here", "on-a"), ("there", "zoned")):
            await add_claim(lab, claim)
            await bind(lab, claim, volume)
        await lab.add_pod("p", volumes=using("here"))
        await lab.add_pod("q", volumes=using("there"))
        await lab.until(lambda: (lab.node_of("p"), lab.node_of("q")) == ("a", "b"))
        await lab.add_pod("torn", volumes=using("here", "there"))
        wanted = "1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) had no available volume zone."
        await lab.until(lambda: wanted in lab.scheduled("torn").get("message", ""))


async def test_a_node_where_the_driver_has_no_space_is_not_chosen(lab: Lab) -> None:
    async with lab.api_server(), lab.scheduler():
        await add_nodes(lab, "a", "b")
        await add_class(lab, "disk.example.com")
        await lab.client.create(DRIVER, {"metadata": {"name": "disk.example.com"}, "spec": {"storageCapacity": True}})
        await add_claim(lab, "data", size="5Gi")
        await lab.add_pod("p", volumes=using("data"))
        message = "2 node(s) did not have enough free storage"
        await lab.until(lambda: message in lab.scheduled("p").get("message", ""))
        capacity = {"storageClassName": "late", "capacity": "10Gi"}
        metadata = {"name": "of-b", "namespace": "default"}
        topology = {"nodeTopology": {"matchLabels": {HOSTNAME: "b"}}}
        await lab.client.create(CAPACITY, {"metadata": metadata, **capacity, **topology})
        assert await selected(lab, "data") == "b"
