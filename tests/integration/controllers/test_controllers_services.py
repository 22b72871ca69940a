"""The loops around Services with a real API server: endpoints follow pods, ranges and pools are given out."""

from __future__ import annotations

import asyncio
from typing import Any

from pyk.api.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    ENDPOINTS,
    IP_ADDRESS,
    POD,
    SERVICE,
    SERVICE_CIDR,
)
from pyk.api.objects import Object, labels_of
from pyk.api.status import ApiError
from pyk.client.client import MERGE_PATCH
from tests.integration.controllers.played import Cluster, deployment, eventually

SLICE_OF = "kubernetes.io/service-name"


def service(name: str = "web", **spec: Any) -> Object:
    metadata = {"name": name, "namespace": "default"}
    whole = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": whole}


async def slices(cluster: Cluster, name: str = "web") -> list[Object]:
    found = await cluster.client.list(ENDPOINT_SLICE, "default", label_selector=f"{SLICE_OF}={name}")
    return list(found.items)


async def ready_in_slices(cluster: Cluster, name: str = "web") -> int:
    return sum(
        bool(endpoint["conditions"]["ready"])
        for each in await slices(cluster, name)
        for endpoint in each.get("endpoints") or ()
    )


async def give_address(cluster: Cluster, pod: Object, number: int) -> None:
    status = {"podIP": f"10.200.0.{number}", "podIPs": [{"ip": f"10.200.0.{number}"}]}
    metadata = pod["metadata"]
    await cluster.client.patch(
        POD, metadata["name"], "default", {"status": status}, content_type=MERGE_PATCH, subresource="status"
    )


async def test_endpoints_follow_pods_until_their_node_dies(cluster: Cluster) -> None:
    node = await cluster.add_node("n1")
    breathing = asyncio.create_task(node.keep_breathing())
    await cluster.client.create(SERVICE, service())
    await eventually("there is an empty slice", lambda: _has(slices(cluster), 1))
    document = deployment(replicas=2)
    document["spec"]["template"]["spec"]["nodeName"] = "n1"
    await cluster.client.create(DEPLOYMENT, document)
    await eventually("both run", lambda: len(cluster.kubelet.ready()) == 2)
    for number, pod in enumerate(cluster.kubelet.ready(), 10):
        await give_address(cluster, pod, number)
    await eventually("both are endpoints", lambda: _is(ready_in_slices(cluster), 2))
    assert len(await slices(cluster)) == 1, "the empty slice was used"
    endpoints = await cluster.client.get(ENDPOINTS, "web", "default")
    assert [port["port"] for port in endpoints["subsets"][0]["ports"]] == [8080]
    breathing.cancel()
    await eventually("the dead node has none", lambda: _is(ready_in_slices(cluster), 0))
    await cluster.client.delete(SERVICE, "web", "default")
    await eventually("slices go with their service", lambda: _has(slices(cluster), 0))


async def _has(found: Any, count: int) -> bool:
    return len(await found) == count


async def _is(found: Any, value: Any) -> bool:
    return bool(await found == value)


async def test_hand_made_endpoints_are_mirrored_as_long_as_they_are_there(cluster: Cluster) -> None:
    await cluster.client.create(SERVICE, service("db", selector=None))
    subset = {"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 5432}]}
    metadata = {"name": "db", "namespace": "default"}
    document = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": [subset]}
    await cluster.client.create(ENDPOINTS, document)
    await eventually("there is a mirror", lambda: _is(ready_in_slices(cluster, "db"), 1))
    mirror = (await slices(cluster, "db"))[0]
    assert labels_of(mirror)["endpointslice.kubernetes.io/managed-by"] == "endpointslicemirroring-controller.k8s.io"
    await cluster.client.delete(ENDPOINTS, "db", "default")
    await eventually("it goes with them", lambda: _has(slices(cluster, "db"), 0))


async def test_a_range_in_use_outlives_its_deletion_until_its_last_address_is_free(cluster: Cluster) -> None:
    spec = {"cidrs": ["10.210.0.0/24"]}
    more = {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"}, "spec": spec}
    await cluster.client.create(SERVICE_CIDR, more)

    async def is_held() -> bool:
        return bool((await cluster.client.get(SERVICE_CIDR, "more"))["metadata"].get("finalizers"))

    await eventually("the range has its finalizer", is_held)
    await cluster.client.create(SERVICE, service("far", clusterIP="10.210.0.9"))
    await cluster.client.delete(SERVICE_CIDR, "more")

    async def says_why() -> bool:
        found = await cluster.client.get(SERVICE_CIDR, "more")
        return any(each["reason"] == "Terminating" for each in found["status"]["conditions"])

    await eventually("it says that it is in use", says_why)
    await cluster.client.delete(SERVICE, "far", "default")

    async def is_gone() -> bool:
        try:
            await cluster.client.get(SERVICE_CIDR, "more")
        except ApiError as error:
            return error.code == 404
        return False

    await eventually("the range is gone", is_gone)
    assert "10.210.0.9" not in {each["metadata"]["name"] for each in (await cluster.client.list(IP_ADDRESS)).items}


async def test_load_balancers_get_different_addresses_of_the_pool(cluster: Cluster) -> None:
    for name in ("a", "b", "c"):
        await cluster.client.create(SERVICE, service(name, type="LoadBalancer"))
    metadata = {"name": "load-balancer-pool", "namespace": "kube-system"}
    data = {"addresses": "192.0.2.20-192.0.2.30"}
    await cluster.client.create(
        CONFIG_MAP, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    )

    async def have_all() -> bool:
        found = await cluster.client.list(SERVICE, "default")
        given = [
            each["ip"]
            for item in found.items
            for each in (item["status"].get("loadBalancer") or {}).get("ingress") or ()
        ]
        return sorted(given) == ["192.0.2.20", "192.0.2.21", "192.0.2.22"]

    await eventually("each has its own", have_all)
