"""The Node object: what is registered, when a status is posted, and what is left to others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agent.capacity import Capacity
from agent.heartbeat import LEASE_SECONDS, RENEW_SECONDS, Heartbeat, renewal
from agent.node import IMAGES_SHOWN, STATUS_PERIOD_SECONDS, Identity, Observed, desired_status, is_due, registration
from pyk.api.kinds import NODE
from pyk.api.objects import condition_of
from pyk.api.status import ApiError
from pyk.client.client import ClientUnavailable
from pyk.reconcile.clock import VirtualClock, micro_timestamp, settle

NOW = 1_700_000_000.0
IDENTITY = Identity(
    "n1", ["192.0.2.11"], 10250, {"disk": "ssd"}, {"architecture": "amd64", "kubeletVersion": "v1.36.0"}
)
SIZE = Capacity(cpu_millicores=2000, memory_bytes=2 << 30, pids=1000, disk_bytes=1 << 40, max_pods=110)
OBSERVED = Observed(SIZE, SIZE, (), "")


def posted(observed: Observed = OBSERVED, now: float = NOW) -> dict[str, Any]:
    return registration(IDENTITY, observed, now)


def test_a_node_registers_with_its_labels_addresses_and_capacity() -> None:
    node = posted()
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == "n1"
    assert node["metadata"]["labels"]["kubernetes.io/arch"] == "amd64"
    assert node["metadata"]["labels"]["disk"] == "ssd"
    assert node["status"]["addresses"] == [
        {"type": "InternalIP", "address": "192.0.2.11"},
        {"type": "Hostname", "address": "n1"},
    ]
    assert node["status"]["capacity"]["cpu"] == "2"
    assert node["status"]["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10250}}
    assert {c["type"]: c["status"] for c in node["status"]["conditions"]} == {
        "MemoryPressure": "False",
        "DiskPressure": "False",
        "PIDPressure": "False",
        "Ready": "True",
    }


def test_want_of_resources_is_told_in_the_kubelets_words() -> None:
    node = posted(replace(OBSERVED, pressures=("DiskPressure", "MemoryPressure")))
    told = {c["type"]: (c["status"], c["reason"], c["message"]) for c in node["status"]["conditions"]}
    assert told["MemoryPressure"] == (
        "True", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available"
    )  # fmt: skip
    assert told["DiskPressure"] == ("True", "KubeletHasDiskPressure", "kubelet has disk pressure")
    assert told["PIDPressure"] == ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available")


def test_ready_says_what_is_missing() -> None:
    ready = condition_of(posted(replace(OBSERVED, not_ready="pod network: is starting")), "Ready")
    assert ready is not None
    assert (ready["status"], ready["reason"]) == ("False", "KubeletNotReady")
    assert ready["message"] == "pod network: is starting"


def test_a_condition_keeps_its_transition_time_until_it_changes() -> None:
    node = posted()
    same = desired_status(IDENTITY, OBSERVED, node, NOW + 30)
    changed = desired_status(IDENTITY, replace(OBSERVED, not_ready="gone"), node, NOW + 30)
    times = [condition_of({"status": status}, "Ready") for status in (node["status"], same, changed)]
    before, kept, moved = (str(time and time["lastTransitionTime"]) for time in times)
    assert before == kept != moved


def test_conditions_and_fields_of_others_stay() -> None:
    node = posted()
    node["status"]["conditions"].append({"type": "NetworkUnavailable", "status": "False"})
    node["status"]["volumesAttached"] = [{"name": "v"}]
    status = desired_status(IDENTITY, OBSERVED, node, NOW)
    assert condition_of({"status": status}, "NetworkUnavailable") == {"type": "NetworkUnavailable", "status": "False"}
    assert status["volumesAttached"] == [{"name": "v"}]


@pytest.mark.parametrize(
    ("observed", "after", "due"),
    [
        pytest.param(OBSERVED, 10.0, False, id="nothing changed"),
        pytest.param(OBSERVED, STATUS_PERIOD_SECONDS, True, id="the period is over"),
        pytest.param(replace(OBSERVED, not_ready="gone"), 1.0, True, id="readiness changed"),
        pytest.param(replace(OBSERVED, pressures=("MemoryPressure",)), 1.0, True, id="pressure began"),
        pytest.param(replace(OBSERVED, capacity=replace(SIZE, memory_bytes=1 << 30)), 1.0, True, id="a limit changed"),
    ],
)
def test_a_status_is_posted_on_change_and_each_period(observed: Observed, after: float, due: bool) -> None:
    node = posted()
    assert is_due(node, desired_status(IDENTITY, observed, node, NOW + after), NOW + after) is due


def test_a_status_that_the_node_controller_overwrote_is_posted_again() -> None:
    node = posted()
    for condition in node["status"]["conditions"]:
        condition["status"] = "Unknown"
    assert is_due(node, desired_status(IDENTITY, OBSERVED, node, NOW + 1), NOW + 1)


def test_extended_resources_that_others_tell_stay_and_can_be_allocated() -> None:
    node = posted()
    node["status"]["capacity"] |= {"example.com/gpu": "4", "cpu": "99", "old": "1"}
    node["status"]["allocatable"] |= {"example.com/gpu": "1", "example.com/gone": "3", "node.kubernetes.io/x": "1"}
    status = desired_status(IDENTITY, OBSERVED, node, NOW)
    ours = SIZE.quantities()
    assert status["capacity"] == {**ours, "example.com/gpu": "4"}
    assert status["allocatable"] == {**ours, "example.com/gpu": "4"}


def test_only_the_largest_images_are_listed() -> None:
    images = tuple({"names": [f"image-{size}"], "sizeBytes": size} for size in range(200))
    status = posted(replace(OBSERVED, images=images))["status"]
    assert len(status["images"]) == IMAGES_SHOWN
    assert status["images"][0]["sizeBytes"] == 199


class Leases:
    """The lease API as a client sees it: one lease, and failures on demand."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.failure: Exception | None = None
        self.calls: list[str] = []

    async def get(self, kind: Any, name: str, namespace: str = "") -> dict[str, Any]:
        if kind is NODE:
            self.calls.append("get node")
            return {"metadata": {"name": name, "uid": "u1"}}
        return self._answer("get", None)

    async def create(self, kind: Any, obj: dict[str, Any]) -> dict[str, Any]:
        return self._answer("create", obj)

    async def update(self, kind: Any, obj: dict[str, Any]) -> dict[str, Any]:
        if self.lease is None:
            self.calls.append("update")
            raise ApiError(404, "NotFound", "no such lease")
        return self._answer("update", obj)

    def _answer(self, call: str, obj: dict[str, Any] | None) -> dict[str, Any]:
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure
        if obj is not None:
            self.lease = obj
        if self.lease is None:
            raise ApiError(404, "NotFound", "no such lease")
        return self.lease


async def beating(leases: Leases, clock: VirtualClock) -> asyncio.Task[None]:
    task = asyncio.create_task(Heartbeat(leases, "n1", clock=clock).run())  # type: ignore[arg-type]
    await settle()
    return task


async def test_the_lease_is_made_once_and_renewed_with_one_call_a_period() -> None:
    clock, leases = VirtualClock(NOW), Leases()
    task = await beating(leases, clock)
    assert leases.calls == ["get", "get node", "create"]
    await clock.advance(RENEW_SECONDS * 3)
    assert leases.calls == ["get", "get node", "create", "update", "update", "update"]
    assert leases.lease is not None
    assert leases.lease["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1"}
    ]
    assert leases.lease["spec"] == {
        "holderIdentity": "n1",
        "leaseDurationSeconds": LEASE_SECONDS,
        "renewTime": micro_timestamp(NOW + RENEW_SECONDS * 3),
    }
    task.cancel()


async def test_a_deleted_lease_is_made_again() -> None:
    clock, leases = VirtualClock(NOW), Leases()
    task = await beating(leases, clock)
    leases.lease = None
    await clock.advance(RENEW_SECONDS + 1)
    assert leases.lease is not None
    task.cancel()


async def test_an_outage_is_retried_sooner_than_the_next_renewal() -> None:
    clock, leases = VirtualClock(NOW), Leases()
    task = await beating(leases, clock)
    leases.failure = ClientUnavailable("away")
    await clock.advance(RENEW_SECONDS)
    leases.failure = None
    await clock.advance(1.0)
    assert leases.lease is not None
    assert leases.lease["spec"]["renewTime"] > micro_timestamp(NOW + RENEW_SECONDS)
    assert not task.done()
    task.cancel()


def test_a_renewal_says_who_and_when() -> None:
    assert renewal("n1", NOW)["renewTime"] == "2023-11-14T22:13:20.000000Z"
