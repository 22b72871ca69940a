"""Groups of pods that are scheduled together, all or none."""

from __future__ import annotations

from typing import Any

from pyk.api.kinds import NODE, POD, POD_GROUP
from tests.unit.scheduler.loop_world import Json, World, node, pod, pod_group


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


def grouped(name: str, group: str = "g", cpu: str = "1") -> Json:
    """A pod that names a PodGroup."""
    return pod(name, cpu, schedulingGroup={"podGroupName": group})


def told_of_group(world: World, name: str = "g") -> tuple[str, str, str]:
    status = world.api.objects["podgroups"][f"default/{name}"].get("status") or {}
    (condition,) = [each for each in status.get("conditions") or () if each["type"] == "PodGroupScheduled"]
    return condition["status"], condition["reason"], condition["message"]


async def test_a_pod_whose_pod_group_is_missing_says_so_and_comes_back_when_it_is_there(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="4"))
    world.api.put(POD, grouped("m0"))
    await world.quiet()
    assert world.api.node_of("m0") is None
    assert world.api.condition("m0")["message"] == 'waiting for pod\'s pod group "g" to appear in scheduling queue'
    world.api.put(POD_GROUP, pod_group("g", 0))
    await world.pass_time(11)
    assert world.api.node_of("m0") == "n1"


async def test_a_pod_group_is_placed_as_a_whole_and_its_condition_tells_what_became_of_it(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="2"))
    world.api.put(POD_GROUP, pod_group("g", 3))
    for number in range(3):
        world.api.put(POD, grouped(f"m{number}"))
    await world.pass_time(1)
    assert [world.api.node_of(f"m{number}") for number in range(3)] == [None, None, None]
    refused = "minCount (3) cannot be satisfied: 2 of 3 waiting pods would fit."
    assert told_of_group(world) == ("False", "Unschedulable", refused)
    world.api.put(NODE, node("n2", cpu="1"))
    await world.pass_time(11)
    assert sorted(str(world.api.node_of(f"m{number}")) for number in range(3)) == ["n1", "n1", "n2"]
    assert told_of_group(world)[:2] == ("True", "Scheduled")


async def test_pods_of_a_basic_group_are_scheduled_each_by_itself(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="1"))
    world.api.put(POD_GROUP, pod_group("g", 0))
    for number in range(2):
        world.api.put(POD, grouped(f"m{number}"))
    await world.pass_time(1)
    assert sorted(str(world.api.node_of(f"m{number}")) for number in range(2)) == ["None", "n1"]
    urgent = grouped("urgent")
    urgent["spec"]["priority"] = 9
    world.api.put(POD, urgent)  # others make way for it, as for a pod without a group
    await world.pass_time(11)
    assert world.api.node_of("urgent") == "n1"


async def test_a_pod_waits_when_the_group_of_placed_pods_is_gone(world: World) -> None:
    world.api.put(NODE, node("n1", cpu="4"))
    world.api.put(POD_GROUP, pod_group("g", 1))
    world.api.put(POD, grouped("m0"))
    await world.pass_time(1)
    assert world.api.node_of("m0") == "n1"
    world.api.drop(POD_GROUP, "default/g")
    await world.quiet()
    world.api.put(POD, grouped("m1"))
    await world.pass_time(1)
    assert world.api.node_of("m1") is None
