"""Disruption budgets with a real API server: they are counted, hold under evictions, and kubectl drain waits."""

from __future__ import annotations

import asyncio
from typing import Any

from controlplane.controllers.descheduler import DeschedulerLoop
from pyk.api.kinds import CONFIG_MAP, DEPLOYMENT, NODE, POD, POD_DISRUPTION_BUDGET
from pyk.api.objects import Object, is_condition_true, name_of, owner_reference
from pyk.api.status import ApiError
from pyk.client.events import EventRecorder
from pyk.reconcile.clock import RealClock
from tests.integration.controllers.played import Cluster, config_map, deployment, eventually


def budget(name: str = "web", **spec: Any) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
    }


async def web(cluster: Cluster, replicas: int) -> None:
    """A Deployment whose pods run on the node n1."""
    document = deployment(replicas=replicas)
    document["spec"]["template"]["spec"]["nodeName"] = "n1"
    await cluster.client.create(DEPLOYMENT, document)
    await eventually("all are ready", lambda: len(cluster.kubelet.ready()) == replicas)


def allows(cluster: Cluster, number: int) -> Any:
    async def check() -> bool:
        found = await cluster.client.get(POD_DISRUPTION_BUDGET, "web", "default")
        is_counted = found["status"].get("observedGeneration") == found["metadata"]["generation"]
        return is_counted and found["status"]["disruptionsAllowed"] == number

    return check


async def evict(cluster: Cluster, name: str) -> int:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}}
    try:
        await cluster.client.create(POD, eviction, namespace="default", name=name, subresource="eviction")
    except ApiError as error:
        return error.code
    return 201


async def test_a_budget_follows_what_the_pods_owner_wants_and_holds_under_evictions(cluster: Cluster) -> None:
    await web(cluster, 6)
    await cluster.client.create(POD_DISRUPTION_BUDGET, budget(maxUnavailable="50%"))
    await eventually("half may go", allows(cluster, 3))
    cluster.kubelet.watch_from_now()
    answers = await asyncio.gather(*(evict(cluster, name_of(pod)) for pod in cluster.kubelet.living()))
    assert answers.count(201) >= 3, answers
    assert set(answers) <= {201, 429}
    await eventually("all are back", allows(cluster, 3))
    assert cluster.kubelet.fewest_ready >= 3

    await cluster.client.patch(DEPLOYMENT, "web", "default", {"spec": {"replicas": 10}})
    await eventually("half of more may go", allows(cluster, 5))


async def test_pods_whose_owner_has_no_scale_may_not_be_disrupted(cluster: Cluster) -> None:
    owner = await cluster.client.create(CONFIG_MAP, config_map("owner"))
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "a",
            "namespace": "default",
            "labels": {"app": "web"},
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": {"containers": [{"name": "main", "image": "a"}]},
    }
    await cluster.client.create(POD, pod)
    await cluster.client.create(POD_DISRUPTION_BUDGET, budget(maxUnavailable=1))

    async def says_why() -> bool:
        status = (await cluster.client.get(POD_DISRUPTION_BUDGET, "web", "default"))["status"]
        told = {(each["reason"], each["message"]) for each in status.get("conditions") or ()}
        return told == {("SyncFailed", "configmaps does not implement the scale subresource")}

    await eventually("the budget says why", says_why)


async def test_kubectl_drain_waits_for_the_budget(cluster: Cluster) -> None:
    await cluster.client.create(NODE, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
    await web(cluster, 3)
    await cluster.client.create(POD_DISRUPTION_BUDGET, budget(minAvailable=1))
    await eventually("two may go", allows(cluster, 2))
    cluster.kubelet.watch_from_now()
    before = {name_of(pod) for pod in cluster.kubelet.living()}
    output = await cluster.kubectl("drain", "n1", "--timeout=50s")
    assert "node/n1 drained" in output
    assert not before & {name_of(pod) for pod in cluster.kubelet.living()}
    assert cluster.kubelet.fewest_ready >= 1
    node = await cluster.client.get(NODE, "n1")
    assert node["spec"]["unschedulable"]
    assert not is_condition_true(cluster.kubelet.ready()[0], "DisruptionTarget")


async def test_the_descheduler_asks_for_evictions_within_budgets(cluster: Cluster) -> None:
    for name, labels in (("n1", {"disk": "ssd"}), ("n2", {"disk": "ssd"})):
        ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}
        metadata = {"name": name, "labels": labels}
        document = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": {"conditions": [ready]}}
        await cluster.client.create(NODE, document)
    document = deployment(replicas=2)
    document["spec"]["template"]["spec"] |= {"nodeName": "n1", "nodeSelector": {"disk": "ssd"}}
    await cluster.client.create(DEPLOYMENT, document)
    await eventually("both are ready", lambda: len(cluster.kubelet.ready()) == 2)
    await cluster.client.create(POD_DISRUPTION_BUDGET, budget(minAvailable=2))
    await eventually("none may go", allows(cluster, 0))
    loop = DeschedulerLoop(
        cluster.client,
        EventRecorder(cluster.client, "descheduler", clock=RealClock()),
        RealClock(),
        cluster.manager.informers,
        seconds=60,
    )
    before = {name_of(pod) for pod in cluster.kubelet.living()}
    await cluster.client.patch(NODE, "n1", "", {"metadata": {"labels": {"disk": None}}})
    nodes = cluster.manager.informers[NODE]
    await eventually("known", lambda: "disk" not in (nodes.get("n1") or {})["metadata"].get("labels", {}))
    await loop.reconcile("turn")
    assert {name_of(pod) for pod in cluster.kubelet.living()} == before, "the budget keeps them"
    await cluster.client.patch(POD_DISRUPTION_BUDGET, "web", "default", {"spec": {"minAvailable": 1}})
    await eventually("one may go", allows(cluster, 1))
    await loop.reconcile("turn")
    await eventually("one went", lambda: len(before & {name_of(pod) for pod in cluster.kubelet.living()}) == 1)
