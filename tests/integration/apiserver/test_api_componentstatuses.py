"""ComponentStatus, with components played by what they do at the API server: watching, or holding a lease."""

from __future__ import annotations

import asyncio
import time

import orjson

from pyk.reconcile.clock import timestamp

PATH = "/api/v1/componentstatuses"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"


def states(body):
    return {each["metadata"]["name"]: each["conditions"][0]["status"] for each in body["items"]}


async def test_a_component_that_watches_works_until_its_connection_is_gone(server, api):
    none = {"controller-manager": "False", "etcd-0": "True", "scheduler": "False"}
    assert states((await api("GET", PATH)).body) == none
    async with server.client("scheduler") as scheduler, scheduler.watch("/api/v1/pods"):
        answer = await api("GET", PATH)
        assert states(answer.body) == none | {"scheduler": "True"}
        assert answer.headers["Warning"] == '299 - "v1 ComponentStatus is deprecated in v1.19+"'
        out = (await server.kubectl("get", "cs"))[1].splitlines()
        assert out[0].split() == ["NAME", "STATUS", "MESSAGE", "ERROR"]
        assert out[1].split(None, 2) == [
            "controller-manager",
            "Unhealthy",
            "it holds no lease and watches nothing through this API server",
        ]
        assert [line.split() for line in out[2:]] == [["etcd-0", "Healthy", "ok"], ["scheduler", "Healthy", "ok"]]
    async with asyncio.timeout(10):
        while states((await api("GET", PATH)).body) != none:
            await asyncio.sleep(0)


async def test_a_component_that_holds_its_lease_works_until_that_runs_out(server, api):
    lease = {
        "metadata": {"name": "kube-controller-manager"},
        "spec": {"holderIdentity": "me", "leaseDurationSeconds": 100, "renewTime": timestamp(0)[:-1] + ".000000Z"},
    }
    made = (await api("POST", LEASES, lease)).body
    gone = (await api("GET", f"{PATH}/controller-manager")).body["conditions"][0]
    assert gone["status"] == "False"
    assert gone["error"].startswith("me last renewed its lease ")
    made["spec"]["renewTime"] = timestamp(time.time())[:-1] + ".000000Z"
    assert (await api("PUT", f"{LEASES}/kube-controller-manager", made)).status == 200
    found = (await api("GET", f"{PATH}/controller-manager")).body
    assert found["conditions"] == [{"type": "Healthy", "status": "True", "message": "ok"}]
    assert found["kind"] == "ComponentStatus"


async def test_they_are_only_read_and_selected_by_name(server, api):
    assert (await api("GET", f"{PATH}/kubelet")).message == 'componentstatuses "kubelet" not found'
    assert states((await api("GET", PATH, fieldSelector="metadata.name!=etcd-0")).body).keys() == {
        "controller-manager",
        "scheduler",
    }
    assert (await api("GET", PATH, labelSelector="a=b")).body["items"] == []
    assert (await api("GET", PATH, fieldSelector="spec.a=b")).status == 400
    assert (await api("DELETE", f"{PATH}/etcd-0")).status == 405
    resources = (await api("GET", "/api/v1")).body["resources"]
    [found] = [each for each in resources if each["name"] == "componentstatuses"]
    assert (found["shortNames"], found["verbs"], found["namespaced"]) == (["cs"], ["get", "list"], False)
    whole = orjson.loads((await server.kubectl("get", "cs", "-o", "json"))[1])
    assert whole["items"][1]["kind"] == "ComponentStatus"
