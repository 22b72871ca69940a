"""CronJobs against a real API server."""

from __future__ import annotations

from typing import Any

from pyk.api.kinds import CRON_JOB, EVENT, JOB
from pyk.api.objects import Object, annotations_of, controller_of, labels_of, name_of
from tests.integration.controllers.played import Cluster, eventually

EVERY_SECOND = "@every 1s"


def cron_job(schedule: str = EVERY_SECOND, **spec: Any) -> Object:
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "a"}]}
    template = {"metadata": {"labels": {"run": "tick"}}, "spec": {"template": {"spec": pod}}}
    metadata = {"name": "tick", "namespace": "default"}
    document = {"schedule": schedule, "jobTemplate": template, **spec}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": document}


async def jobs(cluster: Cluster) -> list[Object]:
    return sorted((await cluster.client.list(JOB, "default")).items, key=name_of)


async def test_a_job_is_started_and_known_to_its_cron_job(cluster: Cluster) -> None:
    await cluster.client.create(CRON_JOB, cron_job(concurrencyPolicy="Forbid"))

    async def active() -> Any:
        return ((await cluster.client.get(CRON_JOB, "tick", "default")).get("status") or {}).get("active")

    (reference,) = await eventually("active", active)
    (job,) = await jobs(cluster)
    assert (reference["uid"], reference["name"]) == (job["metadata"]["uid"], name_of(job))
    assert (controller_of(job) or {})["name"] == "tick"
    assert labels_of(job)["run"] == "tick"
    assert annotations_of(job)["batch.kubernetes.io/cronjob-scheduled-timestamp"].endswith("Z")

    async def refused() -> bool:
        events = (await cluster.client.list(EVENT, "default")).items
        return any(event["reason"] == "JobAlreadyActive" for event in events)

    await eventually("another one was not started", refused)
    assert len(await jobs(cluster)) == 1
    told = await cluster.kubectl("get", "cronjob", "tick")
    assert "@every 1s   <none>     False     1" in told


async def test_suspended_it_starts_nothing_but_people_may(cluster: Cluster) -> None:
    await cluster.client.create(CRON_JOB, cron_job(suspend=True))
    await cluster.kubectl("create", "job", "--from=cronjob/tick", "by-hand")
    (job,) = await eventually("by hand", lambda: jobs(cluster))
    assert name_of(job) == "by-hand"
    await eventually("its pod", lambda: cluster.kubelet.ready())

    async def unexpected() -> bool:
        events = (await cluster.client.list(EVENT, "default")).items
        return any(event["reason"] == "UnexpectedJob" for event in events)

    await eventually("told", unexpected)
    assert not ((await cluster.client.get(CRON_JOB, "tick", "default")).get("status") or {}).get("active")
    await cluster.client.delete(CRON_JOB, "tick", "default")

    async def nothing_left() -> bool:
        return not await jobs(cluster) and not cluster.kubelet.pods.values()

    await eventually("all of it goes", nothing_left)
