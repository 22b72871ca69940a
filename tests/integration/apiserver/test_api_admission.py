"""Built-in admission: what it fills in, what it refuses, and quotas that hold however many create at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

NAMESPACE = "/api/v1/namespaces/default"
PODS, QUOTAS, CLAIMS = f"{NAMESPACE}/pods", f"{NAMESPACE}/resourcequotas", f"{NAMESPACE}/configmaps"


def sized(pod: dict[str, Any], **resources: dict[str, str]) -> dict[str, Any]:
    pod["spec"]["containers"][0]["resources"] = resources
    return pod


async def quota(
    api: Any, hard: dict[str, str], name: str = "q", used: dict[str, str] | None = None, **spec: Any
) -> None:
    """A quota that has been counted, as the resource quota loop leaves it."""
    made = await api("POST", QUOTAS, {"metadata": {"name": name}, "spec": {"hard": hard, **spec}})
    assert made.status == 201, made.body
    status = {"hard": hard, "used": dict.fromkeys(hard, "0") | (used or {})}
    assert (await api("PUT", f"{QUOTAS}/{name}/status", {**made.body, "status": status})).status == 200


async def used(api: Any, name: str = "q") -> dict[str, str]:
    return (await api("GET", f"{QUOTAS}/{name}")).body["status"]["used"]


async def test_many_creates_at_once_never_exceed_a_quota(api: Any, new_pod: Any) -> None:
    await quota(api, {"pods": "7", "count/pods": "100"})
    answers = await asyncio.gather(*(api("POST", PODS, new_pod(f"p{index}")) for index in range(40)))
    made = [answer for answer in answers if answer.status == 201]
    refused = [answer for answer in answers if answer.status == 403]
    assert (len(made), len(refused)) == (7, 33)
    assert refused[0].message.endswith(
        "is forbidden: exceeded quota: q, requested: pods=1, used: pods=7, limited: pods=7"
    )
    assert await used(api) == {"pods": "7", "count/pods": "7"}
    assert len((await api("GET", PODS)).body["items"]) == 7


async def test_what_is_not_created_is_given_back(api: Any, new_pod: Any) -> None:
    await quota(api, {"pods": "10"})
    assert (await api("POST", PODS, new_pod("one"))).status == 201
    answers = await asyncio.gather(*(api("POST", PODS, new_pod("one")) for _ in range(8)))
    assert {answer.status for answer in answers} == {409}
    wrong = new_pod("wrong")
    wrong["spec"]["restartPolicy"] = "Sometimes"
    assert (await api("POST", PODS, wrong)).status == 422
    assert (await api("POST", PODS, new_pod("dry"), dryRun="All")).status == 201
    assert await used(api) == {"pods": "1"}


async def test_all_quotas_of_a_namespace_are_charged_or_none(api: Any, new_pod: Any) -> None:
    await quota(api, {"pods": "5"}, "roomy")
    await quota(api, {"pods": "2"}, "tight")
    answers = await asyncio.gather(*(api("POST", PODS, new_pod(f"p{index}")) for index in range(6)))
    assert sorted(answer.status for answer in answers) == [201, 201, 403, 403, 403, 403]
    assert (await used(api, "roomy"), await used(api, "tight")) == ({"pods": "2"}, {"pods": "2"})


async def test_a_quota_of_compute_asks_containers_to_say_what_they_want(api: Any, new_pod: Any) -> None:
    await quota(api, {"requests.cpu": "1", "limits.memory": "1Gi"})
    silent = await api("POST", PODS, new_pod("silent"))
    assert "failed quota: q: must specify limits.memory for: main; requests.cpu for: main" in silent.message
    fits = sized(new_pod("fits"), requests={"cpu": "600m"}, limits={"memory": "512Mi"})
    assert (await api("POST", PODS, fits)).status == 201
    assert await used(api) == {"requests.cpu": "600m", "limits.memory": "512Mi"}
    more = sized(new_pod("more"), requests={"cpu": "600m"}, limits={"memory": "512Mi"})
    assert (
        "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"
        in (await api("POST", PODS, more)).message
    )


async def test_scopes_choose_the_pods_that_a_quota_counts(api: Any, new_pod: Any) -> None:
    await quota(api, {"pods": "0"}, "besteffort", scopes=["BestEffort"])
    await quota(api, {"pods": "0"}, "short", scopes=["Terminating"])
    assert "exceeded quota: besteffort" in (await api("POST", PODS, new_pod("idle"))).message
    assert (await api("POST", PODS, sized(new_pod("busy"), requests={"cpu": "1"}))).status == 201
    short = sized(new_pod("short"), requests={"cpu": "1"})
    short["spec"]["activeDeadlineSeconds"] = 5
    assert "exceeded quota: short" in (await api("POST", PODS, short)).message


async def test_objects_of_any_kind_can_be_counted(api: Any) -> None:
    await quota(api, {"configmaps": "1", "count/deployments.apps": "0"})
    assert (await api("POST", CLAIMS, {"metadata": {"name": "one"}})).status == 201
    refused = await api("POST", CLAIMS, {"metadata": {"name": "two"}})
    assert "requested: configmaps=1, used: configmaps=1, limited: configmaps=1" in refused.message


async def test_limit_ranges_fill_in_and_refuse(api: Any, new_pod: Any) -> None:
    limits = {
        "type": "Container",
        "default": {"cpu": "500m"},
        "defaultRequest": {"cpu": "100m"},
        "min": {"cpu": "50m"},
        "max": {"cpu": "1"},
        "maxLimitRequestRatio": {"cpu": "5"},
    }
    body = {"metadata": {"name": "l"}, "spec": {"limits": [limits]}}
    assert (await api("POST", f"{NAMESPACE}/limitranges", body)).status == 201
    made = (await api("POST", PODS, new_pod("silent"))).body
    assert made["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}}
    assert made["metadata"]["annotations"] == {
        "kubernetes.io/limit-ranger": "LimitRanger plugin set: cpu request for container main; "
        "cpu limit for container main"
    }
    assert made["status"]["qosClass"] == "Burstable"
    for resources, text in (
        ({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}, "maximum cpu usage per Container is 1, but limit is 2"),
        (
            {"requests": {"cpu": "1m"}, "limits": {"cpu": "2m"}},
            "minimum cpu usage per Container is 50m, but request is 1m",
        ),
        (
            {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}},
            "cpu max limit to request ratio per Container is 5, but provided ratio is 10.000000",
        ),
    ):
        answer = await api("POST", PODS, sized(new_pod("bad"), **resources))
        assert (answer.status, text in answer.message) == (403, True), answer.message


async def test_a_priority_class_becomes_a_priority(api: Any, new_pod: Any) -> None:
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    plain = (await api("POST", PODS, new_pod("plain"))).body["spec"]
    assert (plain["priority"], plain["preemptionPolicy"]) == (0, "PreemptLowerPriority")
    body = {"metadata": {"name": "high"}, "value": 100, "globalDefault": True, "preemptionPolicy": "Never"}
    assert (await api("POST", classes, body)).status == 201
    spec = (await api("POST", PODS, new_pod("high"))).body["spec"]
    assert (spec["priorityClassName"], spec["priority"], spec["preemptionPolicy"]) == ("high", 100, "Never")
    second = await api("POST", classes, {**body, "metadata": {"name": "other"}})
    assert "PriorityClass high is already marked as default. Only one default can exist" in second.message
    unknown = new_pod("unknown")
    unknown["spec"]["priorityClassName"] = "nothing"
    assert "no PriorityClass with name nothing was found" in (await api("POST", PODS, unknown)).message
    critical = new_pod("critical")
    critical["spec"]["priorityClassName"] = "system-node-critical"
    assert (await api("POST", PODS, critical)).body["spec"]["priority"] == 2000001000
    assert (await api("DELETE", f"{classes}/system-node-critical")).status == 403


async def test_a_runtime_class_adds_overhead_and_scheduling(api: Any, new_pod: Any) -> None:
    body = {
        "metadata": {"name": "vm"},
        "handler": "vm",
        "overhead": {"podFixed": {"memory": "64Mi"}},
        "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]},
    }
    assert (await api("POST", "/apis/node.k8s.io/v1/runtimeclasses", body)).status == 201
    pod = new_pod("vm")
    pod["spec"]["runtimeClassName"] = "vm"
    spec = (await api("POST", PODS, pod)).body["spec"]
    assert spec["overhead"] == {"memory": "64Mi"}
    assert spec["nodeSelector"] == {"vm": "yes"}
    assert {"key": "vm", "operator": "Exists"} in spec["tolerations"]
    pod["spec"]["runtimeClassName"] = "none"
    assert 'pod rejected: RuntimeClass "none" not found' in (await api("POST", PODS, pod)).message


async def test_a_pod_needs_its_service_account(api: Any, new_pod: Any) -> None:
    pod = new_pod("p")
    pod["spec"]["serviceAccountName"] = "nobody"
    refused = await api("POST", PODS, pod)
    assert refused.message == (
        'pods "p" is forbidden: error looking up service account default/nobody: serviceaccount "nobody" not found'
    )


async def test_a_pod_waits_for_the_first_account_of_its_namespace(api: Any, new_pod: Any) -> None:
    await api("POST", "/api/v1/namespaces", {"metadata": {"name": "young"}})
    root = "/api/v1/namespaces/young"
    creating = asyncio.create_task(api("POST", f"{root}/pods", new_pod("p")))
    assert (await api("POST", f"{root}/serviceaccounts", {"metadata": {"name": "default"}})).status == 201
    assert (await creating).status == 201


LEVEL = "pod-security.kubernetes.io"


@pytest.mark.parametrize(
    ("level", "spec", "context", "text"),
    [
        ("baseline", {"hostNetwork": True}, {}, "host namespaces (hostNetwork=true)"),
        (
            "baseline",
            {},
            {"privileged": True},
            'privileged (container "main" must not set securityContext.privileged=true)',
        ),
        (
            "baseline",
            {},
            {"capabilities": {"add": ["SYS_ADMIN"]}},
            'non-default capabilities (container "main" must not include "SYS_ADMIN" in '
            "securityContext.capabilities.add)",
        ),
        (
            "baseline",
            {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]},
            {},
            'hostPath volumes (volume "v")',
        ),
        (
            "restricted",
            {},
            {},
            'allowPrivilegeEscalation != false (container "main" must set '
            "securityContext.allowPrivilegeEscalation=false), unrestricted capabilities "
            '(container "main" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true '
            '(pod or container "main" must set securityContext.runAsNonRoot=true), seccompProfile '
            '(pod or container "main" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")',
        ),
    ],
)
async def test_pod_security_levels_refuse(
    api: Any, new_pod: Any, level: str, spec: dict[str, Any], context: dict[str, Any], text: str
) -> None:
    await api.patch(NAMESPACE, {"metadata": {"labels": {f"{LEVEL}/enforce": level}}})
    pod = new_pod("p")
    pod["spec"] |= spec
    pod["spec"]["containers"][0]["securityContext"] = context
    refused = await api("POST", PODS, pod)
    assert (refused.status, refused.message) == (
        403,
        f'pods "p" is forbidden: violates PodSecurity "{level}:latest": {text}',
    )


async def test_a_restricted_namespace_takes_a_restricted_pod(api: Any, new_pod: Any) -> None:
    await api.patch(NAMESPACE, {"metadata": {"labels": {f"{LEVEL}/enforce": "restricted"}}})
    pod = new_pod("p")
    pod["spec"]["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    pod["spec"]["containers"][0]["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
    }
    assert (await api("POST", PODS, pod)).status == 201


async def test_pod_security_warns_of_pods_and_templates_and_of_what_runs_already(api: Any, new_pod: Any) -> None:
    privileged = new_pod("old")
    privileged["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    assert (await api("POST", PODS, privileged)).status == 201
    labelled = await api.patch(NAMESPACE, {"metadata": {"labels": {f"{LEVEL}/enforce": "baseline"}}})
    assert labelled.headers.getall("Warning") == [
        '299 - "existing pods in namespace \\"default\\" violate the new PodSecurity enforce level '
        '\\"baseline:latest\\""',
        '299 - "old: privileged"',
    ]
    labels = {f"{LEVEL}/enforce": "privileged", f"{LEVEL}/warn": "restricted", f"{LEVEL}/warn-version": "v1.30"}
    await api.patch(NAMESPACE, {"metadata": {"labels": labels}})
    template = {"metadata": {"labels": {"a": "b"}}, "spec": new_pod("x")["spec"]}
    deployment = {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}
    made = await api("POST", "/apis/apps/v1/namespaces/default/deployments", deployment)
    assert made.status == 201
    assert 'would violate PodSecurity \\"restricted:v1.30\\": allowPrivilegeEscalation' in made.headers["Warning"]
    wrong = await api.patch(NAMESPACE, {"metadata": {"labels": {f"{LEVEL}/enforce": "strict"}}})
    assert "must be one of privileged, baseline, restricted" in wrong.message


async def test_kubectl_creates_and_describes_quotas_and_priorities(server: Any) -> None:
    status, out, err = await server.kubectl("create", "quota", "q", "--hard=pods=3,cpu=1")
    assert (status, out) == (0, "resourcequota/q created\n"), err
    status, out, err = await server.kubectl("create", "priorityclass", "high", "--value=5", "--description=x")
    assert status == 0, err
    status, out, err = await server.kubectl("get", "quota,pc")
    assert status == 0, err
    assert "priorityclass.scheduling.k8s.io/high" in out
    assert "system-cluster-critical" in out
    status, out, err = await server.kubectl("describe", "quota", "q")
    assert status == 0, err
    assert "Resource" in out
