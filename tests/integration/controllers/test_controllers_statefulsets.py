"""StatefulSets against a real API server: order, updates, claims, history, and kubectl's view of it."""

from __future__ import annotations

from typing import Any

from pyk.api.kinds import CONTROLLER_REVISION, EVENT, PERSISTENT_VOLUME_CLAIM, POD, STATEFUL_SET
from pyk.api.objects import Object, labels_of, name_of
from tests.integration.controllers.played import Cluster, deployment, eventually

CLAIM = {
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}


def stateful_set(replicas: int = 3, **spec: Any) -> Object:
    document = deployment("web", replicas, serviceName="web", **spec)
    return {**document, "kind": "StatefulSet"}


async def settled(cluster: Cluster, replicas: int) -> bool:
    found = await cluster.client.get(STATEFUL_SET, "web", "default")
    status = found.get("status") or {}
    fields = ("replicas", "readyReplicas", "updatedReplicas", "currentReplicas", "availableReplicas")
    return status.get("observedGeneration") == found["metadata"]["generation"] and all(
        status.get(field) == replicas for field in fields
    )


async def image(cluster: Cluster, name: str) -> None:
    container = {"name": "main", "image": name}
    patch = {"spec": {"template": {"spec": {"containers": [container]}}}}
    await cluster.client.patch(STATEFUL_SET, "web", "default", patch)


def images(cluster: Cluster) -> list[str]:
    return [pod["spec"]["containers"][0]["image"] for pod in sorted(cluster.kubelet.living(), key=name_of)]


async def test_a_set_makes_updates_and_undoes_its_pods_in_order(cluster: Cluster) -> None:
    order: list[str] = []
    cluster.kubelet.pods.add_handler(lambda old, new: order.append(name_of(new)) if old is None and new else None)
    await cluster.client.create(STATEFUL_SET, stateful_set())
    await eventually("three pods", lambda: settled(cluster, 3))
    assert order == ["web-0", "web-1", "web-2"]
    pod = await cluster.client.get(POD, "web-1", "default")
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("web-1", "web")
    labels = labels_of(pod)
    assert (labels["statefulset.kubernetes.io/pod-name"], labels["apps.kubernetes.io/pod-index"]) == ("web-1", "1")
    order.clear()
    cluster.kubelet.watch_from_now()
    await image(cluster, "b")
    await eventually("updated", lambda: settled(cluster, 3))
    assert order == ["web-2", "web-1", "web-0"]
    assert cluster.kubelet.fewest_ready >= 2
    assert "3 new pods have been updated" in await cluster.kubectl("rollout", "status", "sts/web", "--timeout=10s")
    history = await cluster.kubectl("rollout", "history", "sts/web")
    assert [line.split()[0] for line in history.splitlines()[2:] if line] == ["1", "2"]
    await cluster.kubectl("rollout", "undo", "sts/web")
    await eventually("back", lambda: settled(cluster, 3))
    assert images(cluster) == ["a", "a", "a"]
    revisions = (await cluster.client.list(CONTROLLER_REVISION, "default")).items
    assert sorted(each["revision"] for each in revisions) == [2, 3]
    await cluster.kubectl("rollout", "restart", "sts/web")
    await eventually("restarted", lambda: settled(cluster, 3))
    events = [event["message"] for event in (await cluster.client.list(EVENT, "default")).items]
    assert "create Pod web-0 in StatefulSet web successful" in events


async def test_a_canary_stays_below_its_partition(cluster: Cluster) -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
    await cluster.client.create(STATEFUL_SET, stateful_set(updateStrategy=rolling))
    await eventually("three pods", lambda: settled(cluster, 3))
    await image(cluster, "b")
    await eventually("the canary", lambda: len(cluster.kubelet.ready()) == 3 and images(cluster) == ["a", "a", "b"])
    await cluster.client.delete(POD, "web-0", "default")
    await cluster.client.delete(POD, "web-2", "default")
    await eventually("restored", lambda: len(cluster.kubelet.ready()) == 3 and images(cluster) == ["a", "a", "b"])
    status = (await cluster.client.get(STATEFUL_SET, "web", "default"))["status"]
    assert status["currentRevision"] != status["updateRevision"]
    whole = {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}
    await cluster.client.patch(STATEFUL_SET, "web", "default", whole)
    await eventually("all of them", lambda: settled(cluster, 3))
    assert images(cluster) == ["b", "b", "b"]


async def test_claims_stay_with_a_name_and_go_as_the_set_says(cluster: Cluster) -> None:
    policy = {"whenScaled": "Delete", "whenDeleted": "Retain"}
    document = stateful_set(
        2,
        podManagementPolicy="Parallel",
        volumeClaimTemplates=[CLAIM],
        persistentVolumeClaimRetentionPolicy=policy,
    )
    await cluster.client.create(STATEFUL_SET, document)
    await eventually("two pods", lambda: settled(cluster, 2))
    pod = await cluster.client.get(POD, "web-1", "default")
    assert pod["spec"]["volumes"][0] == {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-1"}}

    async def claims() -> list[str]:
        return sorted(name_of(each) for each in (await cluster.client.list(PERSISTENT_VOLUME_CLAIM, "default")).items)

    assert await claims() == ["data-web-0", "data-web-1"]
    await cluster.kubectl("scale", "sts/web", "--replicas=1")

    async def shrunk() -> bool:
        return await claims() == ["data-web-0"]

    await eventually("the second claim is gone", shrunk)
    await cluster.client.delete(STATEFUL_SET, "web", "default")
    await eventually("no pods", lambda: not cluster.kubelet.living())
    assert await claims() == ["data-web-0"]


async def test_an_ordered_set_waits_for_a_broken_pod_and_a_parallel_one_does_not(cluster: Cluster) -> None:
    await cluster.client.create(STATEFUL_SET, stateful_set(image="broken"))
    await eventually("one pod", lambda: len(cluster.kubelet.living()) == 1)
    await cluster.client.delete(STATEFUL_SET, "web", "default")
    await eventually("none", lambda: not cluster.kubelet.living())
    await cluster.client.create(STATEFUL_SET, stateful_set(image="broken", podManagementPolicy="Parallel"))
    await eventually("three pods", lambda: len(cluster.kubelet.living()) == 3)
