"""The loop when bindings fail, watches break, the server goes away and objects cannot be read."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from pyk.api.kinds import NODE, POD
from pyk.api.objects import key_of
from pyk.api.quantity import millicores
from pyk.api.status import ApiError
from pyk.client.client import ClientUnavailable
from tests.unit.scheduler.loop_world import World, no_victims, node, pod


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

    def fail_for_one(key: str, *rest: Any, **options: Any) -> Any:
        if key == "default/bad":
            raise ZeroDivisionError("a fault in a rule")
        return decide_one(key, *rest, **options)

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
