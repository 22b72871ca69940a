"""Loops whose every second request fails, one half of them after it has happened, still bring the cluster in order."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from pyk.api.kinds import DEPLOYMENT, NAMESPACE, POD_DISRUPTION_BUDGET, REPLICA_SET
from pyk.api.objects import is_condition_true
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable
from pyk.reconcile import metrics
from tests.integration.controllers.played import Cluster, deployment, eventually


class EverySecondFails(Client):
    """Every second request fails: by turns with a refusal, with no answer, and with no answer to what was done."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._turns = itertools.count()

    async def _request_once(self, *arguments: Any) -> bytes:
        turn = next(self._turns)
        if turn % 2 == 0:
            return await super()._request_once(*arguments)
        match turn // 2 % 3:
            case 0:
                raise ApiError(500, "InternalError", "injected")
            case 1:
                raise ClientUnavailable("injected: cut off before")
            case _:
                await super()._request_once(*arguments)
                raise ClientUnavailable("injected: cut off after")


@pytest.mark.e2e  # alone: with a fault in every second request it takes what the machine has
@pytest.mark.parametrize("cluster", [EverySecondFails], indirect=True)
async def test_a_rollout_converges_with_the_right_number_of_pods(cluster: Cluster) -> None:
    await cluster.client.create(DEPLOYMENT, deployment(replicas=5))
    await eventually("five are ready", lambda: len(cluster.kubelet.ready()) == 5, seconds=60)
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "maxUnavailable": 1},
    }
    await cluster.client.create(POD_DISRUPTION_BUDGET, budget)
    cluster.kubelet.watch_from_now()
    image = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "b"}]}}}}
    await cluster.client.patch(DEPLOYMENT, "web", "default", image)

    async def is_done() -> bool:
        status = (await cluster.client.get(DEPLOYMENT, "web", "default"))["status"]
        counts = [status.get(field) for field in ("replicas", "updatedReplicas", "availableReplicas")]
        return status.get("observedGeneration") == 2 and counts == [5, 5, 5]

    await eventually("rolled out", is_done, seconds=60)
    assert cluster.kubelet.most <= 7, "25 % of 5 more than 5, rounded up"
    assert cluster.kubelet.fewest_ready >= 4
    sets = (await cluster.client.list(REPLICA_SET, "default")).items
    assert sorted(each["spec"]["replicas"] for each in sets) == [0, 5]

    async def is_counted() -> bool:
        found = await cluster.client.get(POD_DISRUPTION_BUDGET, "web", "default")
        return found["status"]["disruptionsAllowed"] == 1 and is_condition_true(found, "DisruptionAllowed")

    await eventually("the budget is counted", is_counted, seconds=60)


@pytest.mark.parametrize("cluster", [EverySecondFails], indirect=True)
async def test_a_namespace_goes_with_all_that_is_in_it(cluster: Cluster) -> None:
    await cluster.client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gone"}})
    document = deployment(replicas=3)
    document["metadata"]["namespace"] = "gone"
    await cluster.client.create(DEPLOYMENT, document)
    await eventually("three are ready", lambda: len(cluster.kubelet.ready()) == 3, seconds=60)
    await cluster.client.delete(NAMESPACE, "gone")

    async def is_gone() -> bool:
        try:
            await cluster.client.get(NAMESPACE, "gone")
        except ApiError as error:
            return error.code == 404
        return False

    await eventually("the namespace is gone", is_gone, seconds=60)
    assert cluster.kubelet.living() == []


async def test_every_loop_tells_of_its_queue_on_the_metrics_page(cluster: Cluster) -> None:
    await cluster.client.create(DEPLOYMENT, deployment(replicas=1))
    await eventually("one is ready", lambda: len(cluster.kubelet.ready()) == 1)
    await asyncio.sleep(0)
    page = metrics.exposition().decode()
    for name in cluster.manager.loops:
        for metric in (
            "workqueue_depth",
            "workqueue_adds_total",
            "workqueue_queue_duration_seconds_count",
            "workqueue_work_duration_seconds_count",
            "workqueue_retries_total",
            "workqueue_unfinished_work_seconds",
            "workqueue_longest_running_processor_seconds",
            "reconcile_converge_seconds_count",
        ):
            assert f'{metric}{{name="{name}"}}' in page, (metric, name)
