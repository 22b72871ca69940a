"""The workload kinds: defaults, tables, scales, what is refused, and what may change."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client

TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
CORE, APPS, BATCH = (f"{root}/namespaces/default" for root in ("/api/v1", "/apis/apps/v1", "/apis/batch/v1"))
SELECTOR = {"matchLabels": {"app": "one"}}


def template(policy: str = "Always", **spec: Any) -> dict[str, Any]:
    containers = [{"name": "main", "image": "a"}]
    pod = {"restartPolicy": policy, "containers": containers, **spec}
    return {"metadata": {"labels": {"app": "one"}}, "spec": pod}


JOB: dict[str, Any] = {"template": template("Never")}
CLAIM = {
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}
KINDS: dict[str, tuple[str, dict[str, Any], list[Any]]] = {
    "replicationcontrollers": (CORE, {"replicas": 2, "template": template()}, [2, 0, 0]),
    "statefulsets": (APPS, {"replicas": 2, "selector": SELECTOR, "template": template()}, ["0/2"]),
    "daemonsets": (APPS, {"selector": SELECTOR, "template": template()}, [0, 0, 0, 0, 0, "<none>"]),
    "jobs": (BATCH, JOB, ["Running", "0/1", ""]),
    "cronjobs": (
        BATCH,
        {"schedule": "*/5 * * * *", "timeZone": "Etc/UTC", "jobTemplate": {"spec": JOB}},
        ["*/5 * * * *", "Etc/UTC", "False", 0, "<none>"],
    ),
}


async def create(api: Any, plural: str, **changed: Any) -> Any:
    root, spec, _ = KINDS[plural]
    return await api("POST", f"{root}/{plural}", {"metadata": {"name": "one"}, "spec": {**spec, **changed}})


@pytest.mark.parametrize("plural", KINDS)
async def test_a_workload_is_stored_shown_and_deleted(api: Any, plural: str) -> None:
    path = f"{KINDS[plural][0]}/{plural}"
    made = await create(api, plural)
    assert made.status == 201, made.body
    assert made.body["metadata"]["generation"] == 1
    # The strictest of clients reads an object that no controller has seen: its counts are there, and are zero.
    getattr(client, f"V1{made.body['kind']}").from_dict(made.body)
    assert not any(made.body["status"].values())
    row = (await api("GET", path, headers=TABLE)).body["rows"][0]["cells"]
    cells = KINDS[plural][2]
    assert row[1 : 1 + len(cells)] == cells
    assert (await api("PUT", f"{path}/one", made.body)).body == made.body
    changed = await api.patch(f"{path}/one", {"metadata": {"labels": {"new": "one"}}})
    assert changed.body["metadata"]["generation"] == 1
    assert (await api("DELETE", f"{path}/one")).status == 200


async def test_workloads_get_the_defaults_of_kubernetes(api: Any) -> None:
    stateful = (await create(api, "statefulsets", volumeClaimTemplates=[CLAIM])).body["spec"]
    assert stateful["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
    assert stateful["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    (claim,) = stateful["volumeClaimTemplates"]
    assert (claim["kind"], claim["status"], claim["spec"]["volumeMode"]) == (
        "PersistentVolumeClaim",
        {"phase": "Pending"},
        "Filesystem",
    )
    daemon = (await create(api, "daemonsets")).body
    assert daemon["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    assert daemon["metadata"]["annotations"] == {"deprecated.daemonset.template.generation": "1"}
    controller = (await create(api, "replicationcontrollers")).body
    assert controller["spec"]["selector"] == controller["metadata"]["labels"] == {"app": "one"}
    cron = (await create(api, "cronjobs")).body["spec"]
    assert (cron["concurrencyPolicy"], cron["successfulJobsHistoryLimit"], cron["failedJobsHistoryLimit"]) == (
        "Allow",
        3,
        1,
    )


async def test_a_job_gets_a_selector_of_its_own(api: Any) -> None:
    job = (await create(api, "jobs")).body
    spec, uid = job["spec"], job["metadata"]["uid"]
    assert spec["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    labels = spec["template"]["metadata"]["labels"]
    assert labels == job["metadata"]["labels"]
    assert (labels["job-name"], labels["batch.kubernetes.io/job-name"], labels["app"]) == ("one", "one", "one")
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"], spec["completionMode"]) == (
        1,
        1,
        6,
        "NonIndexed",
    )
    assert spec["podReplacementPolicy"] == "TerminatingOrFailed"


@pytest.mark.parametrize("plural", ["replicationcontrollers", "statefulsets"])
async def test_a_scale_is_read_and_written(api: Any, plural: str) -> None:
    path = f"{KINDS[plural][0]}/{plural}/one/scale"
    await create(api, plural)
    scale = (await api("GET", path)).body
    table = (await api("GET", path, headers=TABLE)).body
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Desired", "Available", "Age"]
    assert table["rows"][0]["cells"][:3] == ["one", 2, 0]
    assert (scale["spec"]["replicas"], scale["status"]["selector"]) == (2, "app=one")
    assert (await api("PUT", path, {**scale, "spec": {"replicas": 5}})).body["spec"]["replicas"] == 5
    assert (await api.patch(path, {"spec": {"replicas": 4}})).body["spec"]["replicas"] == 4


NEVER_ORDERED = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3, 2]}}]}
BOTH = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}
REFUSED = [
    ("replicationcontrollers", {"selector": {"app": "two"}}, "`selector` does not match template `labels`"),
    ("replicationcontrollers", {"replicas": -1}, "must be greater than or equal to 0"),
    ("statefulsets", {"selector": {}}, "empty selector is invalid for statefulset"),
    ("statefulsets", {"podManagementPolicy": "Burst"}, "must be 'OrderedReady' or 'Parallel'"),
    ("statefulsets", {"updateStrategy": {"type": "Recreate"}}, "must be 'RollingUpdate' or 'OnDelete'"),
    ("statefulsets", {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}, "cannot be 0"),
    ("statefulsets", {"template": template("OnFailure")}, 'supported values: "Always"'),
    ("statefulsets", {"serviceName": "Not_a_name"}, "spec.serviceName"),
    ("statefulsets", {"volumeClaimTemplates": [{"metadata": {"name": "d"}, "spec": {}}]}, "at least 1 access mode"),
    ("daemonsets", {"updateStrategy": BOTH}, "may not be set when maxUnavailable is non-zero"),
    (
        "daemonsets",
        {"updateStrategy": {"rollingUpdate": {"maxUnavailable": "0%"}}},
        "cannot be 0 when maxSurge is 0",
    ),
    ("daemonsets", {"template": template(activeDeadlineSeconds=1)}, "activeDeadlineSeconds in DaemonSet is not"),
    ("jobs", {"template": template()}, 'valid values: "OnFailure", "Never"'),
    ("jobs", {"completionMode": "Indexed", "completions": None, "parallelism": 2}, "when completion mode is Indexed"),
    ("jobs", {"backoffLimitPerIndex": 1}, "requires indexed completion mode"),
    ("jobs", {"selector": {"matchLabels": {"a": "b"}}}, "`selector` not auto-generated"),
    ("jobs", {"podFailurePolicy": NEVER_ORDERED}, "must be ordered"),
    ("jobs", {"podFailurePolicy": {"rules": [{"action": "Count"}]}}, "one of OnExitCodes and OnPodConditions"),
    (
        "jobs",
        {"completionMode": "Indexed", "completions": 2, "successPolicy": {"rules": [{"succeededIndexes": "0-2"}]}},
        'too large index: "2"',
    ),
    ("jobs", {"managedBy": "me"}, "must be a domain-prefixed path"),
    ("cronjobs", {"schedule": "* * * *"}, "expected exactly 5 fields, found 4: [* * * *]"),
    ("cronjobs", {"schedule": "TZ=Europe/Berlin * * * * *"}, "use timeZone field instead"),
    ("cronjobs", {"timeZone": "Mars/Base"}, "unknown time zone Mars/Base"),
    ("cronjobs", {"concurrencyPolicy": "Never"}, "Unsupported value"),
    ("cronjobs", {"jobTemplate": {"spec": {**JOB, "selector": SELECTOR}}}, "will be auto-generated"),
]


@pytest.mark.parametrize(("plural", "spec", "text"), REFUSED)
async def test_what_is_wrong_is_told(api: Any, plural: str, spec: dict[str, Any], text: str) -> None:
    answer = await create(api, plural, **spec)
    assert answer.status == 422, answer.body
    assert text in answer.message


UNCHANGEABLE = [
    ("statefulsets", {"serviceName": "other"}, "updates to statefulset spec for fields other than 'replicas'"),
    ("daemonsets", {"selector": {"matchLabels": {"b": "c"}}}, "field is immutable"),
    ("jobs", {"completions": 3}, "field is immutable"),
    ("jobs", {"template": {"spec": {"activeDeadlineSeconds": 5}}}, "spec.template: Invalid value"),
]


@pytest.mark.parametrize(("plural", "change", "text"), UNCHANGEABLE)
async def test_what_must_not_change_does_not(api: Any, plural: str, change: dict[str, Any], text: str) -> None:
    await create(api, plural)
    answer = await api.patch(f"{KINDS[plural][0]}/{plural}/one", {"spec": change})
    assert answer.status == 422
    assert text in answer.message


async def test_a_suspended_job_may_be_placed_and_sized_anew(api: Any) -> None:
    await create(api, "jobs", suspend=True)
    container = {"name": "main", "image": "a", "resources": {"requests": {"cpu": "1"}}}
    change = {"template": {"spec": {"nodeSelector": {"disk": "fast"}, "containers": [container]}}, "suspend": False}
    assert (await api.patch(f"{BATCH}/jobs/one", {"spec": change})).status == 200
    again = {"template": {"spec": {"nodeSelector": {"disk": "slow"}}}}
    assert (await api.patch(f"{BATCH}/jobs/one", {"spec": again})).status == 422


async def test_a_new_template_of_a_daemon_set_is_numbered(api: Any) -> None:
    await create(api, "daemonsets")
    change = {"spec": {"template": {"metadata": {"annotations": {"again": "yes"}}}}}
    changed = (await api.patch(f"{APPS}/daemonsets/one", change)).body["metadata"]
    assert (changed["generation"], changed["annotations"]) == (2, {"deprecated.daemonset.template.generation": "2"})


async def test_the_end_of_a_job_is_an_end(api: Any) -> None:
    job = (await create(api, "jobs")).body
    path = f"{BATCH}/jobs/one/status"
    done = {"type": "Complete", "status": "True"}
    met = {"type": "SuccessCriteriaMet", "status": "True"}
    early = await api("PUT", path, {**job, "status": {"conditions": [done, met]}})
    assert "completionTime is required for Complete jobs" in early.message
    moment = "2030-01-01T00:00:00Z"
    status = {"conditions": [met, done], "startTime": moment, "completionTime": moment, "succeeded": 1}
    ended = await api("PUT", path, {**job, "status": status})
    assert ended.status == 200, ended.body
    back = await api("PUT", path, {**ended.body, "status": {**status, "conditions": [met], "succeeded": 0}})
    assert "cannot disable the terminal Complete=True condition" in back.message
    assert "cannot decrease the succeeded counter" in back.message
    listed = await api("GET", f"{BATCH}/jobs?fieldSelector=status.successful%3D1")
    assert len(listed.body["items"]) == 1
