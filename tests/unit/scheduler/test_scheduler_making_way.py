"""Preemption by the loop: victims, nominations, and who must not preempt."""

from __future__ import annotations

from pyk.api.kinds import NODE, POD
from tests.unit.scheduler.loop_world import World, node, pod


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
