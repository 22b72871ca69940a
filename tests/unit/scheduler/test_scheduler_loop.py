"""The whole loop against an API in memory, in virtual time."""

from __future__ import annotations

import copy

from pyk.api.kinds import NODE, POD
from tests.unit.scheduler.loop_world import World, no_victims, node, not_helpful, pod


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


async def test_the_condition_is_written_only_when_it_says_something_new(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="500m"))
    world.api.put(POD, pod("p"))
    await world.pass_time(1000)
    assert world.api.patched_pods == 1
    world.api.put(NODE, node("n2", cpu="500m"))
    await world.pass_time(301)
    assert world.api.condition("p")["message"] == f"0/2 nodes are available: 2 Insufficient cpu. {not_helpful(2)}"
    assert world.api.patched_pods == 2


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
