"""The whole loop against an API in memory, in virtual time, with everything that goes wrong with a network."""

from __future__ import annotations

import asyncio
import copy
import random
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from pyk.api.kinds import EVENT, NODE, POD, Kind
from pyk.api.objects import key_of
from pyk.api.quantity import millicores
from pyk.api.status import ApiError, conflict, not_found
from pyk.client.client import ClientUnavailable, ObjectList, WatchEvent
from pyk.reconcile.clock import VirtualClock, settle
from scheduler.loop import Scheduler

Json = dict[str, Any]


class FakeApi:
    """As much of the API server as the scheduler uses. `on_bind` may raise, before or after the binding is done."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Json]] = defaultdict(dict)
        self.watchers: list[tuple[str, asyncio.Queue[WatchEvent | None]]] = []
        self.revision = 0
        self.before_bind: Callable[[str], None] = lambda key: None
        self.after_bind: Callable[[str], None] = lambda key: None
        self.is_away = False
        self.muted = False
        self.binds = 0
        self.patched_pods = 0
        self.binding_allowed = asyncio.Event()
        self.binding_allowed.set()

    # For tests

    def put(self, kind: Kind, obj: Json) -> None:
        self.revision += 1
        key = key_of(obj)
        known = key in self.objects[kind.plural]
        obj["metadata"]["resourceVersion"] = str(self.revision)
        self.objects[kind.plural][key] = obj
        finished = obj.get("status", {}).get("phase") in ("Succeeded", "Failed")
        self._tell(kind, "DELETED" if finished else "MODIFIED" if known else "ADDED", obj)

    def drop(self, kind: Kind, key: str) -> None:
        obj = self.objects[kind.plural].pop(key)
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        self._tell(kind, "DELETED", obj)

    def break_watches(self) -> None:
        for _, queue in self.watchers:
            queue.put_nowait(None)
        self.watchers = []

    def pod(self, name: str) -> Json:
        return self.objects["pods"][f"default/{name}"]

    def node_of(self, name: str) -> str | None:
        found: str | None = self.pod(name)["spec"].get("nodeName")
        return found

    def told(self, reason: str) -> list[str]:
        return [event["message"] for event in self.objects["events"].values() if event["reason"] == reason]

    def condition(self, name: str) -> Json:
        conditions = self.pod(name).get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == "PodScheduled"), {})

    def _tell(self, kind: Kind, type: str, obj: Json) -> None:
        for plural, queue in self.watchers:
            if plural == kind.plural and not self.muted:
                queue.put_nowait(WatchEvent(type, copy.deepcopy(obj)))

    def _reach(self) -> None:
        if self.is_away:
            raise ClientUnavailable("the API server is away")

    # What the client offers

    async def list(self, kind: Kind, namespace: str = "", **_: Any) -> ObjectList:
        self._reach()
        items = [
            copy.deepcopy(obj)
            for obj in self.objects[kind.plural].values()
            if obj.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        ]
        return ObjectList(items, str(self.revision))

    async def watch(
        self, kind: Kind, namespace: str = "", *, resource_version: str = "", **_: Any
    ) -> AsyncGenerator[WatchEvent, None]:
        self._reach()
        if int(resource_version) != self.revision:
            raise ApiError(410, "Expired", "too old")
        queue: asyncio.Queue[WatchEvent | None] = asyncio.Queue()
        self.watchers.append((kind.plural, queue))
        while (event := await queue.get()) is not None:
            yield event

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Json:
        self._reach()
        key = f"{namespace}/{name}" if namespace else name
        if key not in self.objects[kind.plural]:
            raise not_found("", kind.plural, name)
        return copy.deepcopy(self.objects[kind.plural][key])

    async def create(
        self, kind: Kind, obj: Json, *, namespace: str = "", name: str = "", subresource: str = ""
    ) -> Json:
        await asyncio.sleep(0)
        self._reach()
        if subresource == "binding":
            return await self._bind(f"{namespace}/{name}", obj)
        self.objects[kind.plural][key_of(obj)] = copy.deepcopy(obj)
        return copy.deepcopy(obj)

    async def _bind(self, key: str, binding: Json) -> Json:
        self.binds += 1
        await self.binding_allowed.wait()
        self.before_bind(key)
        pod = self.objects["pods"].get(key)
        if pod is None:
            raise not_found("", "pods", key)
        if pod["spec"].get("nodeName") or pod["metadata"]["uid"] != binding["metadata"]["uid"]:
            raise conflict("", "pods/binding", key, "already assigned")
        pod = copy.deepcopy(pod)
        pod["spec"]["nodeName"] = binding["target"]["name"]
        pod.setdefault("status", {})["conditions"] = [{"type": "PodScheduled", "status": "True"}]
        self.put(POD, pod)
        self.after_bind(key)
        return {}

    async def delete(self, kind: Kind, name: str, namespace: str = "", *, uid: str | None = None) -> Json:
        await asyncio.sleep(0)
        self._reach()
        key = f"{namespace}/{name}"
        found = self.objects[kind.plural].get(key)
        if found is None or (uid and found["metadata"]["uid"] != uid):
            raise not_found("", kind.plural, name)
        if found["spec"].get("terminationGracePeriodSeconds"):
            gone = copy.deepcopy(found)
            gone["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            self.put(kind, gone)
        else:
            self.drop(kind, key)
        return {}

    async def patch(self, kind: Kind, name: str, namespace: str, patch: Any, **options: Any) -> Json:
        await asyncio.sleep(0)
        self._reach()
        key = f"{namespace}/{name}"
        if key not in self.objects[kind.plural]:
            raise not_found("", kind.plural, name)
        obj = copy.deepcopy(self.objects[kind.plural][key])
        if kind is EVENT:
            obj.update(patch)
            self.objects["events"][key] = obj
            return obj
        self.patched_pods += 1
        assert options == {"content_type": "application/strategic-merge-patch+json", "subresource": "status"}
        conditions = {each["type"]: each for each in obj.setdefault("status", {}).get("conditions", [])}
        if "nominatedNodeName" in patch["status"]:
            obj["status"]["nominatedNodeName"] = patch["status"]["nominatedNodeName"]
        for each in patch["status"].get("conditions", []):
            conditions[each["type"]] = {**conditions.get(each["type"], {}), **each}
        obj["status"]["conditions"] = list(conditions.values())
        self.put(kind, obj)
        return obj


def pod(name: str, cpu: str = "1", uid: str = "", **spec: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": uid or f"uid-{name}"},
        "spec": {
            "schedulerName": "default-scheduler",
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}],
            **spec,
        },
        "status": {"phase": "Pending"},
    }


def no_victims(nodes: int) -> str:
    return f"preemption: 0/{nodes} nodes are available: {nodes} No preemption victims found for incoming pod."


def not_helpful(nodes: int) -> str:
    return f"preemption: 0/{nodes} nodes are available: {nodes} Preemption is not helpful for scheduling."


def node(name: str, cpu: str = "2", **labels: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels},
        "spec": {},
        "status": {"allocatable": {"cpu": cpu, "memory": "64Gi", "pods": "110"}},
    }


class World:
    """The API, the clock and the scheduler that runs on them."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.clock = VirtualClock(seed=1)
        self.scheduler = Scheduler(self.api, self.clock)  # type: ignore[arg-type]

    async def quiet(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(10):
            await settle()

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        await self.quiet()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.scheduler.run())
        try:
            await self.quiet()
            yield
            assert not task.done(), task.exception()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.running():
        yield world


async def test_a_pod_is_bound_and_told_of(world: World) -> None:
    world.api.put(NODE, node("n1"))
    world.api.put(POD, pod("p"))
    await world.quiet()
    assert world.api.node_of("p") == "n1"
    assert world.api.told("Scheduled") == ["Successfully assigned default/p to n1"]
    assert world.api.told("FailedScheduling") == []


async def test_a_pod_without_a_node_says_why_and_is_bound_when_a_node_comes(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="500m"))
    world.api.put(POD, pod("p"))
    await world.quiet()
    message = f"0/1 nodes are available: 1 Insufficient cpu. {not_helpful(1)}"
    condition = world.api.condition("p")
    assert (condition["status"], condition["reason"], condition["message"]) == ("False", "Unschedulable", message)
    assert condition["lastTransitionTime"]
    assert world.api.told("FailedScheduling") == [message]
    world.api.put(NODE, node("n2"))
    await world.quiet()
    assert world.api.node_of("p") == "n2"


async def test_a_change_that_cannot_help_does_not_bring_a_pod_back(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="500m", zone="a"))
    world.api.put(POD, pod("p", nodeSelector={"zone": "b"}))
    await world.quiet()
    for number in range(5):
        world.api.put(NODE, node("n1", cpu=f"{number}", zone="a"))
        world.api.put(NODE, node(f"more-{number}", zone="c"))
        await world.pass_time(15)
    assert len(world.api.told("FailedScheduling")) == 1
    world.api.put(NODE, node("n1", cpu="4", zone="b"))
    await world.quiet()
    assert world.api.node_of("p") == "n1"


async def test_a_pod_comes_back_when_another_is_deleted_or_has_finished(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="2"))
    for name in ("a", "b", "c", "d"):
        world.api.put(POD, pod(name))
    await world.quiet()
    bound = [name for name in "abcd" if world.api.node_of(name)]
    assert len(bound) == 2
    world.api.drop(POD, f"default/{bound[0]}")
    await world.quiet()
    remaining = [name for name in "abcd" if name != bound[0] and world.api.node_of(name)]
    assert len(remaining) == 2
    finished = copy.deepcopy(world.api.pod(bound[1]))
    finished["status"]["phase"] = "Succeeded"
    world.api.put(POD, finished)
    await world.quiet()
    assert all(world.api.node_of(name) for name in "abcd" if name != bound[0])


async def test_without_any_helping_event_a_pod_is_looked_at_again_after_five_minutes(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="500m"))
    world.api.put(POD, pod("p"))
    await world.quiet()
    await world.pass_time(299)
    event = next(iter(world.api.objects["events"].values()))
    assert event["count"] == 1
    await world.pass_time(2)
    event = next(iter(world.api.objects["events"].values()))
    assert event["count"] == 2


async def test_pods_of_other_schedulers_and_pods_being_deleted_are_left_alone(world: World) -> None:
    world.api.put(NODE, node("n1"))
    world.api.put(POD, pod("other", schedulerName="mine"))
    deleting = pod("deleting")
    deleting["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.api.put(POD, deleting)
    await world.quiet()
    assert world.api.node_of("other") is None
    assert world.api.node_of("deleting") is None
    assert world.api.binds == 0


async def test_pods_bound_by_others_take_their_room(world: World) -> None:
    world.api.put(POD, pod("static", nodeName="n1"))
    world.api.put(NODE, node("n1", cpu="1"))
    world.api.put(POD, pod("p"))
    await world.quiet()
    assert world.api.condition("p")["message"] == f"0/1 nodes are available: 1 Insufficient cpu. {no_victims(1)}"


async def test_a_gated_pod_waits_and_says_so_until_its_gates_are_gone(world: World) -> None:
    world.api.put(NODE, node("n1"))
    world.api.put(POD, pod("p", schedulingGates=[{"name": "example.com/wait"}]))
    await world.quiet()
    assert world.api.node_of("p") is None
    assert world.api.condition("p")["reason"] == "SchedulingGated"
    assert world.api.told("FailedScheduling") == []
    opened = copy.deepcopy(world.api.pod("p"))
    opened["spec"]["schedulingGates"] = []
    world.api.put(POD, opened)
    await world.quiet()
    assert world.api.node_of("p") == "n1"


async def test_a_pod_deleted_while_it_waits_is_forgotten(world: World) -> None:
    world.api.put(POD, pod("p"))
    await world.quiet()
    assert world.api.told("FailedScheduling") == ["no nodes available to schedule pods"]
    world.api.drop(POD, "default/p")
    await world.quiet()
    world.api.put(NODE, node("n1"))
    await world.pass_time(1000)
    assert world.api.binds == 0
    assert world.scheduler.page("default/p") is None


async def test_higher_priority_pods_get_the_room_first() -> None:
    world = World()
    world.api.put(NODE, node("n1", cpu="2"))
    for name, priority in (("low", 0), ("lower", -5), ("high", 1000), ("higher", 2000)):
        world.api.put(POD, pod(name, priority=priority))
    async with world.running():
        await world.quiet()
        assert {name for name in ("low", "lower", "high", "higher") if world.api.node_of(name)} == {"high", "higher"}


async def test_a_pod_that_another_bound_meanwhile_is_counted_where_it_is(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="1", zone="a"))
    world.api.put(NODE, node("n2", cpu="1"))

    def snatch(key: str) -> None:
        if world.api.binds == 1:
            world.api.muted = True
            stolen = copy.deepcopy(world.api.objects["pods"][key])
            stolen["spec"]["nodeName"] = "n2"
            world.api.put(POD, stolen)

    world.api.before_bind = snatch
    world.api.put(POD, pod("p", nodeSelector={"zone": "a"}))
    await world.quiet()
    assert world.api.node_of("p") == "n2"
    world.api.muted = False
    world.api.put(POD, pod("q"))
    await world.quiet()
    assert world.api.node_of("q") == "n1"
    world.api.put(POD, pod("r"))
    await world.quiet()
    assert world.api.condition("r")["message"] == f"0/2 nodes are available: 2 Insufficient cpu. {no_victims(2)}"


async def test_a_pod_gone_at_binding_frees_its_room(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="1"))

    def vanish(key: str) -> None:
        if key == "default/p":
            world.api.objects["pods"].pop(key)

    world.api.before_bind = vanish
    world.api.put(POD, pod("p"))
    await world.quiet()
    world.api.put(POD, pod("q"))
    await world.quiet()
    assert world.api.node_of("q") == "n1"


async def test_when_the_answer_to_a_binding_is_lost_the_room_stays_taken_until_the_outcome_is_known(
    world: World,
) -> None:
    world.api.put(NODE, node("n1", cpu="1"))

    def lose(key: str) -> None:
        world.api.is_away = True
        raise ClientUnavailable("the connection broke")

    world.api.after_bind = lose
    world.api.muted = True
    world.api.put(POD, pod("p"))
    world.api.muted = False
    world.api.break_watches()
    await world.quiet()
    await world.pass_time(3)
    assert world.api.node_of("p") is None or world.api.is_away
    world.api.is_away = False
    await world.pass_time(10)
    assert world.api.node_of("p") == "n1"
    world.api.put(POD, pod("q"))
    await world.quiet()
    assert world.api.node_of("q") is None
    assert world.api.binds == 1


async def test_a_pod_that_changes_while_it_is_being_bound_is_bound_once(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="8"))
    world.api.binding_allowed.clear()
    world.api.put(POD, pod("p"))
    await world.quiet()
    changed = copy.deepcopy(world.api.pod("p"))
    changed["metadata"]["labels"] = {"now": "labelled"}
    world.api.put(POD, changed)
    await world.quiet()
    world.api.binding_allowed.set()
    await world.pass_time(60)
    assert (world.api.binds, world.api.node_of("p")) == (1, "n1")


async def test_the_condition_is_written_only_when_it_says_something_new(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="500m"))
    world.api.put(POD, pod("p"))
    await world.pass_time(1000)
    assert world.api.patched_pods == 1
    world.api.put(NODE, node("n2", cpu="500m"))
    await world.pass_time(301)
    assert world.api.condition("p")["message"] == f"0/2 nodes are available: 2 Insufficient cpu. {not_helpful(2)}"
    assert world.api.patched_pods == 2


async def test_a_binding_that_failed_is_tried_again_after_a_while(world: World) -> None:
    world.api.put(NODE, node("n1"))

    def refuse(key: str) -> None:
        if world.api.binds < 3:
            raise ApiError(500, "InternalError", "the store is away")

    world.api.before_bind = refuse
    world.api.put(POD, pod("p"))
    await world.quiet()
    assert (world.api.binds, world.api.node_of("p")) == (1, None)
    await world.pass_time(1.1)
    assert (world.api.binds, world.api.node_of("p")) == (2, None)
    await world.pass_time(2.1)
    assert (world.api.binds, world.api.node_of("p")) == (3, "n1")


async def test_a_binding_that_is_never_seen_is_looked_up_after_a_while(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="1"))

    def forget_it(key: str) -> None:
        if world.api.binds == 1:
            lost = copy.deepcopy(world.api.objects["pods"][key])
            del lost["spec"]["nodeName"]
            world.api.objects["pods"][key] = lost

    world.api.after_bind = forget_it
    world.api.put(POD, pod("p"))
    world.api.muted = True
    await world.quiet()
    await world.pass_time(29)
    assert world.api.binds == 1
    world.api.muted = False
    await world.pass_time(5)
    assert world.api.binds == 2
    assert world.api.node_of("p") == "n1"


async def test_a_pod_made_anew_under_the_same_name_is_scheduled_too(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="1"))
    world.api.put(POD, pod("p", uid="first"))
    await world.quiet()
    world.api.muted = True
    world.api.drop(POD, "default/p")
    world.api.put(POD, pod("p", uid="second"))
    world.api.muted = False
    world.api.break_watches()
    await world.pass_time(5)
    assert world.api.node_of("p") == "n1"
    assert world.api.binds == 2


async def test_a_server_restart_in_the_middle_loses_nothing(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="3"))
    world.api.put(POD, pod("a"))
    await world.quiet()
    world.api.is_away = True
    world.api.break_watches()
    await world.pass_time(20)
    world.api.put(POD, pod("b"))
    world.api.put(POD, pod("c"))
    world.api.drop(POD, "default/a")
    world.api.put(POD, pod("d"))
    world.api.is_away = False
    await world.pass_time(10)
    assert [world.api.node_of(name) for name in "bcd"] == ["n1", "n1", "n1"]


async def test_a_fault_in_a_rule_leaves_the_other_pods_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decide_one = world.scheduler._deciders["default-scheduler"].decide_one

    def fail_for_one(key: str, *rest: Any) -> Any:
        if key == "default/bad":
            raise ZeroDivisionError("a fault in a rule")
        return decide_one(key, *rest)

    monkeypatch.setattr(world.scheduler._deciders["default-scheduler"], "decide_one", fail_for_one)
    world.api.put(NODE, node("n1"))
    world.api.put(POD, pod("bad"))
    world.api.put(POD, pod("good"))
    await world.quiet()
    assert world.api.node_of("good") == "n1"
    assert "a fault in a rule" in caplog.text
    monkeypatch.undo()
    await world.pass_time(2)
    assert world.api.node_of("bad") == "n1"


async def test_an_object_that_cannot_be_read_is_left_out(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.api.put(NODE, node("bad", cpu="much"))
    world.api.put(NODE, node("n1"))
    world.api.put(POD, pod("bad", cpu="much"))
    world.api.put(POD, pod("good"))
    await world.quiet()
    assert world.api.node_of("good") == "n1"
    assert world.api.node_of("bad") is None
    assert "left out of account" in caplog.text


async def test_at_rest_nothing_waits_for_time(world: World) -> None:
    world.api.put(NODE, node("n1"))
    world.api.put(POD, pod("p"))
    await world.pass_time(100)
    assert [wake for _, _, wake in world.clock._sleepers if not wake.done()] == []


async def test_the_latest_decision_can_be_asked_for(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="500m"))
    world.api.put(NODE, node("n2", cpu="600m"))
    world.api.put(POD, pod("p"))
    await world.quiet()
    document = world.scheduler.decisions.document("default/p")
    assert document is not None
    assert document["reasons"] == {"Insufficient cpu": ["n1", "n2"]}
    assert document["refusedBy"] == ["NodeResourcesFit"]
    world.api.put(NODE, node("n2", cpu="2"))
    await world.quiet()
    page = world.scheduler.page("default/p")
    assert page is not None
    assert b'"node":"n2"' in page


@pytest.mark.parametrize("seed", range(25))
async def test_under_faults_no_node_is_overcommitted_and_in_the_end_every_pod_that_fits_is_bound(seed: int) -> None:
    """On failure the test's name carries the seed."""
    rng = random.Random(seed)
    world = World()
    api = world.api
    capacity = {f"n{i}": rng.choice([1, 2, 3]) for i in range(4)}
    for name, cores in capacity.items():
        api.put(NODE, node(name, cpu=str(cores)))
    faulty = True

    def check_nodes() -> None:
        for name, cores in capacity.items():
            used = sum(
                millicores(each["spec"]["containers"][0]["resources"]["requests"]["cpu"])
                for each in api.objects["pods"].values()
                if each["spec"].get("nodeName") == name and each["status"].get("phase") != "Succeeded"
            )
            assert used <= cores * 1000, f"{name} is overcommitted"

    def may_fail(key: str) -> None:
        if faulty and rng.random() < 0.3:
            raise rng.choice([ClientUnavailable("broken"), ApiError(500, "InternalError", "no")])

    def after(key: str) -> None:
        check_nodes()
        may_fail(key)

    api.before_bind, api.after_bind = may_fail, after
    async with world.running():
        for step in range(120):
            match rng.randrange(8):
                case 0 | 1 | 2:
                    api.put(POD, pod(f"p{rng.randrange(10)}", cpu=rng.choice(["300m", "700m", "1"]), uid=f"u{step}"))
                case 3 if api.objects["pods"]:
                    api.drop(POD, rng.choice(sorted(api.objects["pods"])))
                case 4 if api.objects["pods"]:
                    finished = copy.deepcopy(api.objects["pods"][rng.choice(sorted(api.objects["pods"]))])
                    finished["status"]["phase"] = "Succeeded"
                    api.put(POD, finished)
                case 5:
                    api.break_watches()
                case 6:
                    api.is_away = not api.is_away
                case 7:
                    await world.pass_time(rng.choice([0.1, 1, 40]))
            if rng.random() < 0.6:
                await world.quiet()
        faulty, api.is_away = False, False
        await world.pass_time(700)
        check_nodes()
        free = dict(capacity)
        for each in api.objects["pods"].values():
            if each["spec"].get("nodeName") and each["status"]["phase"] != "Succeeded":
                free[each["spec"]["nodeName"]] -= (
                    millicores(each["spec"]["containers"][0]["resources"]["requests"]["cpu"]) / 1000
                )
        for each in api.objects["pods"].values():
            if not each["spec"].get("nodeName") and each["status"]["phase"] != "Succeeded":
                cpu = millicores(each["spec"]["containers"][0]["resources"]["requests"]["cpu"]) / 1000
                assert all(cpu > room + 1e-9 for room in free.values()), f"{key_of(each)} would fit"


# Preemption


async def test_a_pod_of_higher_priority_takes_the_place_of_a_lower_one(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="2"))
    world.api.put(POD, pod("low", cpu="2", priority=1))
    await world.quiet()
    world.api.put(POD, pod("high", cpu="2", priority=9))
    await world.quiet()
    await world.pass_time(1.0)
    assert "default/low" not in world.api.objects["pods"]
    assert world.api.node_of("high") == "n1"
    assert world.api.told("Preempted") == ["Preempted by pod uid-high on node n1"]


async def test_the_pod_waits_on_its_nominated_node_until_the_victim_has_ended(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="2"))
    world.api.put(POD, pod("low", cpu="2", priority=1, terminationGracePeriodSeconds=30))
    await world.quiet()
    world.api.put(POD, pod("high", cpu="2", priority=9))
    await world.quiet()
    assert world.api.pod("high")["status"]["nominatedNodeName"] == "n1"
    marked = {each["type"]: each for each in world.api.pod("low")["status"]["conditions"]}["DisruptionTarget"]
    assert (marked["status"], marked["reason"]) == ("True", "PreemptionByScheduler")
    assert marked["message"] == "default-scheduler: preempting to accommodate a higher priority pod"
    assert world.api.pod("low")["metadata"]["deletionTimestamp"]
    world.api.put(POD, pod("other", cpu="2", priority=9))  # of the same priority: the room is not for it
    await world.pass_time(20)
    world.api.drop(POD, "default/low")
    await world.quiet()
    await world.pass_time(11)
    assert world.api.node_of("high") == "n1"
    assert world.api.node_of("other") is None


async def test_a_pod_that_must_not_preempt_says_so(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="2"))
    world.api.put(POD, pod("low", cpu="2", priority=1))
    await world.quiet()
    world.api.put(POD, pod("high", cpu="2", priority=9, preemptionPolicy="Never"))
    await world.quiet()
    told = "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
    assert world.api.condition("high")["message"] == told
    assert world.api.node_of("low") == "n1"


async def test_a_nomination_is_found_again_after_a_restart() -> None:
    world = World()
    world.api.put(NODE, node("n1", cpu="2"))
    low = pod("low", cpu="2", priority=1, nodeName="n1")
    low["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    low["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]
    world.api.put(POD, low)
    high = pod("high", cpu="2", priority=9)
    high["status"]["nominatedNodeName"] = "n1"
    world.api.put(POD, high)
    async with world.running():
        world.api.put(POD, pod("other", cpu="2", priority=5))
        await world.quiet()
        assert "not eligible due to a terminating pod on the nominated node" in world.api.condition("high")["message"]
        world.api.drop(POD, "default/low")
        await world.pass_time(11)
        assert (world.api.node_of("high"), world.api.node_of("other")) == ("n1", None)


# Groups


def member(name: str, cpu: str = "1", least: int = 3, **spec: Any) -> Json:
    found = pod(name, cpu, **spec)
    prefix = "pod-group.scheduling.sigs.k8s.io"
    found["metadata"]["labels"] = {f"{prefix}/name": "g", f"{prefix}/min-available": str(least)}
    return found


async def test_a_group_gets_nodes_for_all_of_its_pods_or_for_none(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="2"))
    for number in range(3):
        world.api.put(POD, member(f"m{number}"))
    await world.quiet()
    assert [world.api.node_of(f"m{number}") for number in range(3)] == [None, None, None]
    message = world.api.condition("m0")["message"]
    assert "minCount (3) cannot be satisfied: 2 of 3 waiting pods would fit." in message
    world.api.put(POD, pod("single", cpu="2"))  # what does not fit the group is free for others
    await world.quiet()
    assert world.api.node_of("single") == "n1"
    world.api.put(NODE, node("n2", cpu="3"))
    await world.pass_time(11)
    assert [world.api.node_of(f"m{number}") for number in range(3)] == ["n2", "n2", "n2"]


async def test_a_group_waits_until_enough_of_its_pods_are_there(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="4"))
    world.api.put(POD, member("m0"))
    world.api.put(POD, member("m1"))
    await world.pass_time(5)
    assert world.api.node_of("m0") is None
    waiting = "waiting for minCount pods from a gang to appear in scheduling queue"
    assert world.api.condition("m0")["message"] == waiting
    world.api.put(POD, member("m2"))
    await world.pass_time(11)
    assert [world.api.node_of(f"m{number}") for number in range(3)] == ["n1", "n1", "n1"]
    world.api.put(POD, member("m3"))  # the group is complete: who comes later goes alone
    await world.quiet()
    assert world.api.node_of("m3") == "n1"


# Other pods


async def test_a_pod_comes_back_when_the_pod_that_it_wants_to_be_with_is_placed(world: World) -> None:
    world.api.put(NODE, node("n1", zone="a"))
    world.api.put(NODE, node("n2", zone="b"))
    term = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}}
    near = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    world.api.put(POD, pod("web", affinity=near))
    await world.quiet()
    assert "2 node(s) didn't match pod affinity rules" in world.api.condition("web")["message"]
    database = pod("db", nodeSelector={"zone": "b"})
    database["metadata"]["labels"] = {"app": "db"}
    world.api.put(POD, database)
    await world.pass_time(11)
    assert (world.api.node_of("db"), world.api.node_of("web")) == ("n2", "n2")
