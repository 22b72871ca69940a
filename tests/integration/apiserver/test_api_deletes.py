"""Deleting: grace periods, finalizers, propagation, preconditions, collections."""

from __future__ import annotations

PODS = "/api/v1/namespaces/default/pods"
CONFIGS = "/api/v1/namespaces/default/configmaps"


async def bound_pod(api, new_pod, name="a", **metadata):
    await api("POST", PODS, new_pod(name, **metadata))
    await api("POST", f"{PODS}/{name}/binding", {"target": {"kind": "Node", "name": "n1"}})
    return (await api("GET", f"{PODS}/{name}")).body


async def test_a_deleted_object_is_gone_and_the_answer_says_which(api, new_config):
    created = (await api("POST", CONFIGS, new_config("a"))).body
    tried = (await api("DELETE", f"{CONFIGS}/a", dryRun="All")).body
    answer = await api("DELETE", f"{CONFIGS}/a")
    assert answer.status == 200
    assert tried == answer.body
    assert answer.body["status"] == "Success"
    assert answer.body["details"] == {"name": "a", "kind": "configmaps", "uid": created["metadata"]["uid"]}
    assert (await api("GET", f"{CONFIGS}/a")).status == 404


async def test_a_pod_on_a_node_is_marked_first(api, new_pod):
    await bound_pod(api, new_pod)
    marked = (await api("DELETE", f"{PODS}/a")).body
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
    assert marked["metadata"]["deletionTimestamp"]
    again = (await api("DELETE", f"{PODS}/a")).body
    assert again["metadata"]["resourceVersion"] == marked["metadata"]["resourceVersion"]
    shorter = (await api("DELETE", f"{PODS}/a", {"gracePeriodSeconds": 5})).body
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 5
    assert shorter["metadata"]["deletionTimestamp"] < marked["metadata"]["deletionTimestamp"]
    now = await api("DELETE", f"{PODS}/a", gracePeriodSeconds=0)
    assert now.body["kind"] == "Pod"
    assert (await api("GET", f"{PODS}/a")).status == 404


async def test_a_pod_without_a_node_or_finished_goes_at_once(api, new_pod):
    await api("POST", PODS, new_pod("a"))
    await api("DELETE", f"{PODS}/a")
    assert (await api("GET", f"{PODS}/a")).status == 404
    await bound_pod(api, new_pod, "b")
    await api.patch(f"{PODS}/b/status", {"status": {"phase": "Succeeded"}})
    await api("DELETE", f"{PODS}/b")
    assert (await api("GET", f"{PODS}/b")).status == 404


async def test_finalizers_hold_an_object_until_they_are_gone(api, new_config):
    await api("POST", CONFIGS, new_config("a", finalizers=["example.com/hold"]))
    held = (await api("DELETE", f"{CONFIGS}/a")).body
    assert held["metadata"]["deletionTimestamp"]
    added = await api.patch(f"{CONFIGS}/a", {"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}})
    assert (added.status, "no new finalizers can be added" in added.message) == (422, True)
    assert (await api.patch(f"{CONFIGS}/a", {"metadata": {"finalizers": None}})).status == 200
    assert (await api("GET", f"{CONFIGS}/a")).status == 404


async def test_propagation_policies_are_finalizers_for_the_garbage_collector(api, new_config):
    for policy, finalizer in (("Orphan", "orphan"), ("Foreground", "foregroundDeletion")):
        await api("POST", CONFIGS, new_config("a"))
        held = (await api("DELETE", f"{CONFIGS}/a", {"propagationPolicy": policy})).body
        assert held["metadata"]["finalizers"] == [finalizer]
        await api.patch(f"{CONFIGS}/a", {"metadata": {"finalizers": []}})
        assert (await api("GET", f"{CONFIGS}/a")).status == 404
    await api("POST", CONFIGS, new_config("a"))
    await api("DELETE", f"{CONFIGS}/a", propagationPolicy="Background")
    assert (await api("GET", f"{CONFIGS}/a")).status == 404
    wrong = await api("DELETE", f"{CONFIGS}/a", {"propagationPolicy": "Orphan", "orphanDependents": True})
    assert wrong.status == 422


async def test_preconditions_are_kept(api, new_config):
    created = (await api("POST", CONFIGS, new_config("a"))).body["metadata"]
    other = await api("DELETE", f"{CONFIGS}/a", {"preconditions": {"uid": "other"}})
    assert (other.status, "Precondition failed: UID" in other.message) == (409, True)
    stale = await api("DELETE", f"{CONFIGS}/a", {"preconditions": {"resourceVersion": "1"}})
    assert stale.status == 409
    fitting = {"uid": created["uid"], "resourceVersion": created["resourceVersion"]}
    assert (await api("DELETE", f"{CONFIGS}/a", {"preconditions": fitting})).status == 200


async def test_a_collection_is_deleted_by_its_selector(api, new_config):
    for index in range(30):
        await api("POST", CONFIGS, new_config(f"c{index}", labels={"odd": str(index % 2)}))
    answer = await api("DELETE", CONFIGS, labelSelector="odd=1")
    assert (answer.status, len(answer.body["items"])) == (200, 15)
    left = (await api("GET", CONFIGS)).body["items"]
    assert {item["metadata"]["labels"]["odd"] for item in left} == {"0"}


async def test_a_terminating_namespace_with_a_finalizer_of_its_own_stays(api):
    await api("POST", "/api/v1/namespaces", {"metadata": {"name": "x", "finalizers": ["example.com/hold"]}})
    body = (await api("DELETE", "/api/v1/namespaces/x")).body
    body["spec"]["finalizers"] = []
    await api("PUT", "/api/v1/namespaces/x/finalize", body)
    assert (await api("GET", "/api/v1/namespaces/x")).body["spec"].get("finalizers", []) == []
    await api.patch("/api/v1/namespaces/x", {"metadata": {"finalizers": None}})
    assert (await api("GET", "/api/v1/namespaces/x")).status == 404
