"""Deployments and ReplicaSets against a real API server."""

from __future__ import annotations

import itertools
from typing import Any

from pyk.api.kinds import DEPLOYMENT, EVENT, POD, REPLICA_SET
from pyk.api.objects import condition_of, controller_of, name_of
from pyk.api.status import ApiError
from pyk.client.client import ClientUnavailable
from tests.integration.controllers.played import Cluster, deployment, eventually, replica_set


async def image(cluster: Cluster, name: str) -> None:
    container = {"name": "main", "image": name}
    patch = {"spec": {"template": {"spec": {"containers": [container]}}}}
    await cluster.client.patch(DEPLOYMENT, "web", "default", patch)


async def complete(cluster: Cluster, name: str = "web") -> bool:
    found = await cluster.client.get(DEPLOYMENT, name, "default")
    status, replicas = found.get("status") or {}, found["spec"]["replicas"]
    return status.get("observedGeneration") == found["metadata"]["generation"] and all(
        (status.get(field) or 0) == replicas for field in ("replicas", "updatedReplicas", "availableReplicas")
    )


async def test_a_deployment_rolls_out_and_back_within_its_limits(cluster: Cluster) -> None:
    limits = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    await cluster.client.create(DEPLOYMENT, deployment(replicas=4, strategy=limits))
    await eventually("complete", lambda: complete(cluster))
    cluster.kubelet.watch_from_now()
    await image(cluster, "b")
    await eventually("rolled out", lambda: complete(cluster))
    assert cluster.kubelet.most <= 5
    assert cluster.kubelet.fewest_ready >= 4
    assert {pod["spec"]["containers"][0]["image"] for pod in cluster.kubelet.living()} == {"b"}
    assert "successfully rolled out" in await cluster.kubectl("rollout", "status", "deployment/web", "--timeout=10s")
    await cluster.kubectl("rollout", "undo", "deployment/web")
    await eventually("rolled back", lambda: complete(cluster))
    assert {pod["spec"]["containers"][0]["image"] for pod in cluster.kubelet.living()} == {"a"}
    history = await cluster.kubectl("rollout", "history", "deployment/web")
    assert [line.split()[0] for line in history.splitlines()[2:] if line] == ["2", "3"]
    events = [event["message"] for event in (await cluster.client.list(EVENT, "default")).items]
    assert any(message.startswith("Scaled up replica set web-") for message in events)


async def test_scaling_a_deployment_reaches_its_pods(cluster: Cluster) -> None:
    await cluster.client.create(DEPLOYMENT, deployment(replicas=1))
    await eventually("complete", lambda: complete(cluster))
    await cluster.kubectl("scale", "deployment/web", "--replicas=5")
    await eventually("grown", lambda: len(cluster.kubelet.ready()) == 5)
    await cluster.kubectl("scale", "deployment/web", "--replicas=0")
    await eventually("shrunk", lambda: not cluster.kubelet.living())


async def test_a_broken_image_leaves_the_old_pods_and_exceeds_the_deadline(cluster: Cluster) -> None:
    await cluster.client.create(DEPLOYMENT, deployment(replicas=4, progressDeadlineSeconds=1, minReadySeconds=0))
    await eventually("complete", lambda: complete(cluster))
    await image(cluster, "broken")

    async def reason() -> bool:
        found = await cluster.client.get(DEPLOYMENT, "web", "default")
        return (condition_of(found, "Progressing") or {}).get("reason") == "ProgressDeadlineExceeded"

    await eventually("deadline exceeded", reason)
    assert len(cluster.kubelet.ready()) == 3
    await image(cluster, "better")
    await eventually("complete again", lambda: complete(cluster))


async def test_deleting_a_deployment_deletes_everything_below(cluster: Cluster) -> None:
    for policy in ("Background", "Foreground"):
        await cluster.client.create(DEPLOYMENT, deployment(replicas=2))
        await eventually("complete", lambda: complete(cluster))
        await cluster.client.delete(DEPLOYMENT, "web", "default", propagation_policy=policy)

        async def nothing_left() -> bool:
            lists = [await cluster.client.list(kind, "default") for kind in (DEPLOYMENT, REPLICA_SET, POD)]
            return not any(each.items for each in lists)

        await eventually(f"nothing left ({policy})", nothing_left)


async def test_an_orphaned_replica_set_is_adopted_by_the_next_deployment(cluster: Cluster) -> None:
    await cluster.client.create(DEPLOYMENT, deployment(replicas=2))
    await eventually("complete", lambda: complete(cluster))
    pods = {pod["metadata"]["uid"] for pod in cluster.kubelet.living()}
    await cluster.client.delete(DEPLOYMENT, "web", "default", propagation_policy="Orphan")

    async def is_orphan() -> bool:
        (only,) = (await cluster.client.list(REPLICA_SET, "default")).items
        # The owner goes when what it owned has been let go.
        return controller_of(only) is None and not (await cluster.client.list(DEPLOYMENT, "default")).items

    await eventually("orphaned", is_orphan)
    await cluster.client.create(DEPLOYMENT, deployment(replicas=2))
    await eventually("complete", lambda: complete(cluster))
    assert {pod["metadata"]["uid"] for pod in cluster.kubelet.living()} == pods


async def test_a_hash_that_is_taken_is_avoided(cluster: Cluster) -> None:
    created = await cluster.client.create(DEPLOYMENT, deployment(replicas=1))
    await eventually("complete", lambda: complete(cluster))
    (first,) = (await cluster.client.list(REPLICA_SET, "default")).items
    await cluster.client.delete(DEPLOYMENT, name_of(created), "default")

    async def is_free() -> bool:
        return not (await cluster.client.list(REPLICA_SET, "default")).items

    await eventually("gone", is_free)
    squatter = replica_set(name_of(first), 0)
    squatter["spec"]["selector"] = {"matchLabels": {"app": "squatter"}}
    squatter["spec"]["template"]["metadata"]["labels"] = {"app": "squatter"}
    await cluster.client.create(REPLICA_SET, squatter)
    await cluster.client.create(DEPLOYMENT, deployment(replicas=1))
    await eventually("complete", lambda: complete(cluster))
    found = await cluster.client.get(DEPLOYMENT, "web", "default")
    assert found["status"]["collisionCount"] == 1


async def test_a_matching_orphan_is_adopted_and_a_relabelled_pod_let_go(cluster: Cluster) -> None:
    stray = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stray", "namespace": "default", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "a"}]},
    }
    await cluster.client.create(POD, stray)
    await cluster.client.create(REPLICA_SET, replica_set(replicas=2))
    await eventually("two pods", lambda: len(cluster.kubelet.ready()) == 2)
    assert controller_of(await cluster.client.get(POD, "stray", "default"))
    await cluster.client.patch(POD, "stray", "default", {"metadata": {"labels": {"app": "debug"}}})
    await eventually("replaced", lambda: len(cluster.kubelet.ready()) == 3)
    assert controller_of(await cluster.client.get(POD, "stray", "default")) is None


class Lag:
    """Holds back what an informer hears until `end`."""

    def __init__(self, informer: Any) -> None:
        self._informer = informer
        self._held: list[Any] = []
        self._apply = informer._apply
        informer._apply = self._held.append

    def end(self) -> None:
        self._informer._apply = self._apply
        for event in self._held:
            self._apply(event)


async def test_a_late_cache_makes_no_pod_too_many_and_deletes_none_too_many(cluster: Cluster) -> None:
    await cluster.client.create(REPLICA_SET, replica_set(replicas=0))
    lag = Lag(cluster.manager.informers[POD])
    await cluster.client.patch(REPLICA_SET, "web", "default", {"spec": {"replicas": 5}})
    await nudge(cluster)
    await eventually("five pods", lambda: len(cluster.kubelet.living()) == 5)
    lag.end()
    lag = Lag(cluster.manager.informers[POD])
    await cluster.client.patch(REPLICA_SET, "web", "default", {"spec": {"replicas": 3}})
    await nudge(cluster)
    await eventually("three pods", lambda: len(cluster.kubelet.living()) == 3)
    lag.end()
    await eventually("counted", lambda: counted(cluster, 3))
    assert cluster.kubelet.most == 5
    assert cluster.kubelet.made == 5


async def nudge(cluster: Cluster) -> None:
    """Have the loop decide ten times on what its cache shows now."""
    queue = cluster.manager.loops["replicaset"].controller.queue
    for number in range(10):
        annotation = {"metadata": {"annotations": {"nudge": str(number)}}}
        stored = await cluster.client.patch(REPLICA_SET, "web", "default", annotation)

        def is_decided(version: str = stored["metadata"]["resourceVersion"]) -> bool:
            cached = cluster.manager.informers[REPLICA_SET].get("default/web")
            seen = cached is not None and int(cached["metadata"]["resourceVersion"]) >= int(version)
            return seen and not queue._ready and not queue._working

        await eventually("decided", is_decided)


async def counted(cluster: Cluster, number: int) -> bool:
    found = await cluster.client.get(REPLICA_SET, "web", "default")
    return bool(found["status"].get("readyReplicas") == number)


async def test_a_creation_whose_answer_is_lost_is_not_made_twice(cluster: Cluster) -> None:
    loop: Any = cluster.manager.loops["replicaset"]
    client = loop._control._client
    lost = []

    class LossyClient:
        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        async def create(self, kind: Any, obj: Any, **more: Any) -> Any:
            made = await client.create(kind, obj, **more)
            if kind is POD and len(lost) < 3:
                lost.append(name_of(made))
                raise ClientUnavailable("the connection broke before the answer")
            return made

    loop._control._client = LossyClient()
    lag = Lag(cluster.manager.informers[POD])
    await cluster.client.create(REPLICA_SET, replica_set(replicas=4))
    await eventually("four pods", lambda: len(cluster.kubelet.ready()) == 4)
    await nudge(cluster)
    lag.end()
    await eventually("counted", lambda: counted(cluster, 4))
    assert cluster.kubelet.made == 4
    assert len(lost) == 3


async def test_refused_pods_show_in_the_sets_condition_until_they_are_allowed(cluster: Cluster) -> None:
    loop: Any = cluster.manager.loops["replicaset"]
    client = loop._control._client
    refuses = True

    class RefusingClient:
        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        async def create(self, kind: Any, obj: Any, **more: Any) -> Any:
            if kind is POD and refuses:
                raise ApiError(403, "Forbidden", "pods are forbidden: exceeded quota")
            return await client.create(kind, obj, **more)

    loop._control._client = RefusingClient()
    await cluster.client.create(REPLICA_SET, replica_set(replicas=2))

    async def failure() -> Any:
        return condition_of(await cluster.client.get(REPLICA_SET, "web", "default"), "ReplicaFailure")

    condition = await eventually("the condition", failure)
    assert (condition["reason"], condition["message"]) == ("FailedCreate", "pods are forbidden: exceeded quota")
    refuses = False
    await eventually("two pods", lambda: len(cluster.kubelet.ready()) == 2)

    async def gone() -> bool:
        return await failure() is None

    await eventually("the condition is gone", gone)


async def test_every_second_answer_lost_delays_a_rollout_but_breaks_no_promise(cluster: Cluster) -> None:
    client: Any = cluster.manager.loops["replicaset"]._client  # type: ignore[attr-defined]
    request, calls = client.request, itertools.count()

    async def lossy(method: str, path: str, **more: Any) -> bytes:
        content: bytes = await request(method, path, **more)
        if "/events" not in path and next(calls) % 2:
            raise ClientUnavailable("the connection broke before the answer")
        return content

    client.request = lossy
    limits = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    await cluster.client.create(DEPLOYMENT, deployment(replicas=3, strategy=limits))
    await eventually("complete", lambda: complete(cluster), 60)
    assert cluster.kubelet.made == 3
    cluster.kubelet.watch_from_now()
    await image(cluster, "b")
    await eventually("rolled out", lambda: complete(cluster), 60)
    assert cluster.kubelet.most <= 4
    assert cluster.kubelet.fewest_ready >= 3
    assert cluster.kubelet.made == 6
