"""Evictions: what a budget grants and refuses, exactly, however many come at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

PODS = "/api/v1/namespaces/default/pods"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
READY = [{"type": "Ready", "status": "True"}]


@pytest.fixture
def run(api: Any, new_pod: Any) -> Any:
    """Makes a pod that runs, ready or not."""

    async def make(name: str, *, ready: bool = True, phase: str = "Running") -> dict[str, Any]:
        document = new_pod(name, labels={"app": "web"})
        document["spec"]["nodeName"] = "n1"
        assert (await api("POST", PODS, document)).status == 201
        status = {"phase": phase, "conditions": READY if ready else []}
        return dict((await api.patch(f"{PODS}/{name}/status", {"status": status})).body)

    return make


@pytest.fixture
def budget(api: Any) -> Any:
    """Makes a budget that says what the disruption loop would have found."""

    async def make(name: str = "web", *, observed: int = 1, spec: Any = None, **counts: int) -> None:
        spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}, **(spec or {})}
        assert (await api("POST", BUDGETS, {"metadata": {"name": name}, "spec": spec})).status == 201
        whole = {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0, **counts}
        answer = await api.patch(f"{BUDGETS}/{name}/status", {"status": {**whole, "observedGeneration": observed}})
        assert answer.status == 200

    return make


@pytest.fixture
def evict(api: Any) -> Any:
    async def ask(name: str, options: Any = None, version: str = "policy/v1", **query: Any) -> Any:
        body = {"apiVersion": version, "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}}
        return await api(
            "POST", f"{PODS}/{name}/eviction", body | ({"deleteOptions": options} if options else {}), **query
        )

    return ask


async def test_a_pod_without_a_budget_goes_and_says_why(api: Any, run: Any, evict: Any) -> None:
    await run("a")
    answer = await evict("a", {"gracePeriodSeconds": 7})
    assert (answer.status, answer.body["status"], answer.body["code"]) == (201, "Success", 201)
    pod = (await api("GET", f"{PODS}/a")).body
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 7
    told = next(each for each in pod["status"]["conditions"] if each["type"] == "DisruptionTarget")
    assert (told["status"], told["reason"], told["message"]) == (
        "True",
        "EvictionByEvictionAPI",
        "Eviction API: evicting",
    )


async def test_a_budget_grants_exactly_what_it_has_however_many_ask_at_once(
    api: Any, run: Any, budget: Any, evict: Any
) -> None:
    names = [f"pod-{number}" for number in range(12)]
    for name in names:
        await run(name)
    await budget(disruptionsAllowed=5, currentHealthy=12, desiredHealthy=7, expectedPods=12)
    answers = await asyncio.gather(*map(evict, names))
    assert sorted(answer.status for answer in answers) == [201] * 5 + [429] * 7
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.body["reason"] == "TooManyRequests"
    assert refused.body["message"] == "Cannot evict pod as it would violate the pod's disruption budget."
    assert refused.body["details"]["causes"] == [
        {
            "reason": "DisruptionBudget",
            "message": "The disruption budget web needs 7 healthy pods and has 12 currently",
        }
    ]
    status = (await api("GET", f"{BUDGETS}/web")).body["status"]
    granted = {name for name, answer in zip(names, answers, strict=True) if answer.status == 201}
    assert (status["disruptionsAllowed"], set(status["disruptedPods"])) == (0, granted)
    assert [(each["type"], each["status"], each["reason"]) for each in status["conditions"]] == [
        ("DisruptionAllowed", "False", "InsufficientPods")
    ]
    deleting = [pod for pod in (await api("GET", PODS)).body["items"] if "deletionTimestamp" in pod["metadata"]]
    assert {pod["metadata"]["name"] for pod in deleting} == granted


async def test_a_budget_that_is_not_counted_yet_asks_to_come_again(run: Any, budget: Any, evict: Any) -> None:
    await run("a")
    await budget(observed=0, disruptionsAllowed=1)
    answer = await evict("a")
    assert (answer.status, answer.headers["Retry-After"], answer.body["details"]["retryAfterSeconds"]) == (
        429,
        "10",
        10,
    )
    assert "is still being processed by the server" in answer.body["details"]["causes"][0]["message"]


async def test_an_unready_pod_needs_no_budget_that_is_met_without_it(
    api: Any, run: Any, budget: Any, evict: Any
) -> None:
    await run("a", ready=False)
    await run("b", ready=False)
    await budget(currentHealthy=1, desiredHealthy=2)
    assert (await evict("a")).status == 429, "too few are healthy, and the unready one may become so"
    await api.patch(f"{BUDGETS}/web", {"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}})
    assert (await evict("a")).status == 201
    await api.patch(f"{BUDGETS}/web", {"spec": {"unhealthyPodEvictionPolicy": "IfHealthyBudget"}})
    await api.patch(f"{BUDGETS}/web/status", {"status": {"currentHealthy": 2}})
    assert (await evict("b")).status == 201
    assert "disruptedPods" not in (await api("GET", f"{BUDGETS}/web")).body["status"]


@pytest.mark.parametrize("phase", ["Pending", "Succeeded", "Failed"])
async def test_a_pod_that_does_not_serve_needs_no_budget(run: Any, budget: Any, evict: Any, phase: str) -> None:
    await run("a", phase=phase)
    await budget()
    assert (await evict("a")).status == 201


async def test_two_budgets_for_one_pod_are_one_too_many(run: Any, budget: Any, evict: Any) -> None:
    await run("a")
    await budget("one", disruptionsAllowed=1)
    await budget("two", disruptionsAllowed=1)
    answer = await evict("a")
    assert answer.status == 500
    assert "more than one PodDisruptionBudget" in answer.message


async def test_a_dry_run_takes_nothing(api: Any, run: Any, budget: Any, evict: Any) -> None:
    pod = await run("a")
    await budget(disruptionsAllowed=1, currentHealthy=1)
    before = (await api("GET", f"{BUDGETS}/web")).body
    assert (await evict("a", dryRun="All")).status == 201
    assert (await evict("a", {"dryRun": ["All"]})).status == 201
    assert (await api("GET", f"{PODS}/a")).body == pod
    assert (await api("GET", f"{BUDGETS}/web")).body == before


async def test_preconditions_hold_before_anything_is_taken(api: Any, run: Any, budget: Any, evict: Any) -> None:
    pod = await run("a")
    await budget(disruptionsAllowed=1, currentHealthy=1)
    assert (await evict("a", {"preconditions": {"uid": "another"}})).status == 409
    assert (await evict("a", {"preconditions": {"resourceVersion": "1"}})).status == 409
    assert (await api("GET", f"{BUDGETS}/web")).body["status"]["disruptionsAllowed"] == 1
    right = {"uid": pod["metadata"]["uid"], "resourceVersion": pod["metadata"]["resourceVersion"]}
    assert (await evict("a", {"preconditions": right})).status == 201


async def test_what_is_no_eviction_is_refused(api: Any, run: Any, evict: Any) -> None:
    await run("a")
    path = f"{PODS}/a/eviction"
    assert (await evict("missing")).status == 404
    named = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "b"}}
    assert (await api("POST", path, named)).message == "name in URL does not match name in Eviction object"
    assert (await api("POST", path, {"kind": "Pod", "metadata": {"name": "a"}})).status == 400
    assert (await api("GET", path)).status == 405
    assert (await evict("a", version="policy/v1beta1")).status == 201
