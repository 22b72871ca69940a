"""Jobs against a real API server and a played kubelet whose pods end as the test says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controlplane.controllers import jobpods
from controlplane.controllers.jobpods import FINALIZER, INDEX
from pyk.api.kinds import EVENT, JOB, POD
from pyk.api.objects import (
    Object,
    annotations_of,
    condition_of,
    controller_of,
    is_condition_true,
    is_deleting,
    labels_of,
    name_of,
    namespace_of,
)
from pyk.api.status import ApiError
from pyk.client.client import STRATEGIC_MERGE_PATCH
from tests.integration.controllers.played import Cluster, eventually


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed pods are replaced soon."""
    monkeypatch.setattr(jobpods, "FIRST_DELAY_SECONDS", 0.1)


def job(name: str = "sum", policy: str = "Never", **spec: Any) -> Object:
    template = {"spec": {"restartPolicy": policy, "containers": [{"name": "main", "image": "a"}]}}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template, **spec}}


async def end(cluster: Cluster, pod: Object, code: int = 0, **status: Any) -> None:
    """The pod's container has ended."""
    terminated = {"exitCode": code, "finishedAt": "2020-01-01T00:00:00Z", "startedAt": "2020-01-01T00:00:00Z"}
    container = {
        "name": "main",
        "image": "a",
        "imageID": "a",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": terminated},
    }
    phase = "Failed" if code else "Succeeded"
    ready = {"type": "Ready", "status": "False"}
    document = {"status": {"phase": phase, "containerStatuses": [container], "conditions": [ready], **status}}
    await cluster.client.patch(
        POD,
        name_of(pod),
        namespace_of(pod),
        document,
        content_type=STRATEGIC_MERGE_PATCH,
        subresource="status",
    )


def running(cluster: Cluster) -> list[Object]:
    return [pod for pod in cluster.kubelet.ready() if pod["status"].get("phase") == "Running"]


async def status(cluster: Cluster, name: str = "sum") -> dict[str, Any]:
    return (await cluster.client.get(JOB, name, "default")).get("status") or {}


async def finished(cluster: Cluster, condition: str, name: str = "sum") -> Any:
    found = await cluster.client.get(JOB, name, "default")
    return condition_of(found, condition) if is_condition_true(found, condition) else None


async def test_every_success_is_counted_once_whatever_happens_to_the_pods(cluster: Cluster) -> None:
    await cluster.client.create(JOB, job(completions=6, parallelism=3))
    done = 0
    while done < 6:
        pods = await eventually("pods run", lambda: running(cluster))
        await end(cluster, pods[0])
        await cluster.client.delete(POD, name_of(pods[0]), "default")
        done += 1
    await eventually("complete", lambda: finished(cluster, "Complete"))
    told = await status(cluster)
    assert (told["succeeded"], told.get("failed") or 0, told["active"]) == (6, 0, 0)
    assert not told.get("uncountedTerminatedPods")
    assert cluster.kubelet.made == 6
    assert not any(FINALIZER in (pod["metadata"].get("finalizers") or ()) for pod in cluster.kubelet.pods.values())
    assert "Complete   6/6" in await cluster.kubectl("get", "job", "sum")
    events = [event["message"] for event in (await cluster.client.list(EVENT, "default")).items]
    assert "Job completed" in events


async def test_an_indexed_job_runs_each_index_and_forgives_some(cluster: Cluster) -> None:
    spec = {"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 1}
    await cluster.client.create(JOB, job(**spec))
    await eventually("three pods", lambda: len(running(cluster)) == 3)

    def at(index: int) -> list[Object]:
        return [pod for pod in running(cluster) if annotations_of(pod)[INDEX] == str(index)]

    (first,) = at(0)
    assert (first["spec"]["hostname"], labels_of(first)[INDEX]) == ("sum-0", "0")
    (variable,) = first["spec"]["containers"][0]["env"]
    assert (variable["name"], variable["valueFrom"]["fieldRef"]["fieldPath"]) == (
        "JOB_COMPLETION_INDEX",
        f"metadata.labels['{INDEX}']",
    )
    await end(cluster, first, 1)
    (again,) = await eventually("tried again", lambda: at(0) if at(0) and name_of(at(0)[0]) != name_of(first) else [])
    assert annotations_of(again)["batch.kubernetes.io/job-index-failure-count"] == "1"
    await end(cluster, again, 1)
    for index in (1, 2):
        await end(cluster, at(index)[0])
    condition = await eventually("failed", lambda: finished(cluster, "Failed"))
    assert condition["reason"] == "FailedIndexes"
    told = await status(cluster)
    assert (told["completedIndexes"], told["failedIndexes"], told["failed"]) == ("1,2", "0", 2)


async def test_policies_end_a_job_early(cluster: Cluster) -> None:
    rules = [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]
    await cluster.client.create(JOB, job(parallelism=2, completions=2, podFailurePolicy={"rules": rules}))
    pods = await eventually("two pods", lambda: running(cluster) if len(running(cluster)) == 2 else [])
    await end(cluster, pods[0], 42)
    condition = await eventually("failed", lambda: finished(cluster, "Failed"))
    assert condition["reason"] == "PodFailurePolicy"
    assert "failed with exit code 42 matching FailJob rule at index 0" in condition["message"]
    policy = {"rules": [{"succeededIndexes": "0", "succeededCount": 1}]}
    spec = {"completionMode": "Indexed", "completions": 3, "parallelism": 3, "successPolicy": policy}
    await cluster.client.create(JOB, job("lead", **spec))
    pods = await eventually("three pods", lambda: running(cluster) if len(running(cluster)) == 3 else [])
    await end(cluster, next(pod for pod in pods if annotations_of(pod)[INDEX] == "0"))
    condition = await eventually("complete", lambda: finished(cluster, "Complete", "lead"))
    assert condition["reason"] == "SuccessPolicy"
    assert not running(cluster)


async def test_a_job_is_suspended_adopts_releases_and_takes_its_pods_along(cluster: Cluster) -> None:
    await cluster.client.create(JOB, job(parallelism=2, suspend=True))
    await eventually("suspended", lambda: finished(cluster, "Suspended"))
    await cluster.client.patch(JOB, "sum", "default", {"spec": {"suspend": False}})
    pods = await eventually("two pods", lambda: running(cluster) if len(running(cluster)) == 2 else [])
    orphan = name_of(pods[0])
    await cluster.client.patch(POD, orphan, "default", {"metadata": {"ownerReferences": None}})

    async def owner() -> Any:
        return controller_of(await cluster.client.get(POD, orphan, "default"))

    await eventually("adopted again", owner)
    await cluster.client.patch(POD, orphan, "default", {"metadata": {"labels": {jobpods_label(): None}}})

    async def is_free() -> bool:
        pod = await cluster.client.get(POD, orphan, "default")
        return controller_of(pod) is None and not pod["metadata"].get("finalizers")

    await eventually("released", is_free)
    await eventually("replaced", lambda: len(running(cluster)) == 3)
    await cluster.client.delete(JOB, "sum", "default", propagation_policy="Background")
    await eventually("only the free one", lambda: [name_of(pod) for pod in cluster.kubelet.pods.values()] == [orphan])


def jobpods_label() -> str:
    return "batch.kubernetes.io/controller-uid"


async def test_a_job_of_somebody_else_is_left_alone(cluster: Cluster) -> None:
    await cluster.client.create(JOB, job("theirs", managedBy="example.com/queue"))
    await cluster.client.create(JOB, job("ours"))
    await eventually("ours runs", lambda: running(cluster))
    assert not await status(cluster, "theirs")


async def test_a_finished_job_goes_when_its_time_is_over(cluster: Cluster) -> None:
    await cluster.client.create(JOB, job(ttlSecondsAfterFinished=0))
    (pod,) = await eventually("a pod", lambda: running(cluster))
    await end(cluster, pod)

    async def is_gone() -> bool:
        try:
            await cluster.client.get(JOB, "sum", "default")
        except ApiError as error:
            return error.code == 404
        return False

    await eventually("gone", is_gone)
    await eventually("its pods too", lambda: not [pod for pod in cluster.kubelet.pods.values() if not is_deleting(pod)])


async def test_lost_answers_and_a_restarted_server_change_no_count(cluster: Cluster) -> None:
    await cluster.client.create(JOB, job(completions=8, parallelism=4))
    for number in range(8):
        pods = await eventually("pods run", lambda: running(cluster))
        if number == 3:
            await asyncio.gather(end(cluster, pods[0]), return_exceptions=True)
            await cluster.restart(0.2)
        else:
            await end(cluster, pods[0])
        await eventually("seen", lambda: name_of(pods[0]) not in map(name_of, running(cluster)))  # noqa: B023
    await eventually("complete", lambda: finished(cluster, "Complete"), 40)
    assert (await status(cluster))["succeeded"] == 8
