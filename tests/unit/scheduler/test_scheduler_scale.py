"""20,000 nodes in virtual time: the whole loop on an API in memory, through a roll-out, a failure and a recovery."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import Any

from pyk.api.kinds import NODE, POD
from tests.unit.scheduler.loop_world import Json, World, node, pod

NODES = 20_000
ZONES = 5
SSD = {"key": "disk", "operator": "In", "values": ["ssd"]}
ON_SSD = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [SSD]}]}
    }
}


def large_cluster(number: int) -> Json:
    """A tenth of the nodes is for others, half have an SSD, every fiftieth is cordoned."""
    name = f"n{number}"
    labels = {"kubernetes.io/hostname": name, "zone": f"z{number % ZONES}", "disk": "ssd" if number % 2 else "hdd"}
    made = node(name, cpu="4", **labels)
    if number % 10 == 3:
        made["spec"]["taints"] = [{"key": "team", "value": "other", "effect": "NoSchedule"}]
    if number % 50 == 1:
        made["spec"]["unschedulable"] = True
    return made


def group(name: str, count: int, cpu: str, **spec: Any) -> list[Json]:
    made = [pod(f"{name}-{number}", cpu, **spec) for number in range(count)]
    for each in made:
        each["metadata"]["labels"] = {"app": name}
    return made


def meant(app: str) -> Json:
    return {"matchLabels": {"app": app}}


def violations(world: World) -> list[str]:
    """What is wrong with where the pods are, by plain loops."""
    found = []
    nodes, used = world.api.objects["nodes"], Counter[str]()
    zones: dict[str, Counter[str]] = defaultdict(Counter)
    apart: Counter[tuple[str, str]] = Counter()
    for key, each in world.api.objects["pods"].items():
        name, app = each["spec"].get("nodeName"), each["metadata"]["labels"]["app"]
        if name is None:
            continue
        there = nodes[f"default/{name}" if f"default/{name}" in nodes else name]
        used[name] += int(each["spec"]["containers"][0]["resources"]["requests"]["cpu"].removesuffix("m"))
        zones[app][there["metadata"]["labels"]["zone"]] += 1
        apart[app, name] += 1
        if there["spec"].get("taints") or there["spec"].get("unschedulable"):
            found.append(f"{key} is on {name}, which takes none")
        if app == "ssd" and there["metadata"]["labels"]["disk"] != "ssd":
            found.append(f"{key} is on {name} without an SSD")
    found += [f"{name} has {amount}m" for name, amount in used.items() if amount > 4000]
    found += [
        f"{app} is {number} times on {name}" for (app, name), number in apart.items() if app == "apart" and number > 1
    ]
    spread = [zones["spread"][f"z{number}"] for number in range(ZONES)]
    if max(spread) - min(spread) > 1:
        found.append(f"spread is {spread}")
    return found


async def test_20_000_nodes_take_a_roll_out_lose_a_zone_s_worth_and_recover() -> None:
    world, rng = World(), random.Random(7)
    for number in range(NODES):
        world.api.put(NODE, large_cluster(number))
    constraint = {
        "maxSkew": 1,
        "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": meant("spread"),
    }
    alone = {"topologyKey": "kubernetes.io/hostname", "labelSelector": meant("apart")}
    keep_apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [alone]}}
    pods = [
        *group("equal", 1200, "500m"),
        *group("ssd", 400, "1500m", affinity=ON_SSD),
        *group("spread", 200, "100m", topologySpreadConstraints=[constraint]),
        *group("apart", 200, "100m", affinity=keep_apart),
        *group("never", 20, "100m", nodeSelector={"disk": "tape"}),
    ]
    rng.shuffle(pods)
    async with world.running():
        for each in pods:
            world.api.put(POD, each)
        await world.pass_time(5)
        placed = [each for each in world.api.objects["pods"].values() if each["spec"].get("nodeName")]
        assert (len(placed), violations(world)) == (2000, [])
        told = (
            "17600 node(s) didn't match Pod's node affinity/selector, 2000 node(s) had untolerated taint {team: other}"
        )
        assert f"0/20000 nodes are available: {told}, 400 " in world.api.condition("never-0")["message"]
        assert sum("never" in each["involvedObject"]["name"] for each in world.api.objects["events"].values()) == 20

        lost = {each["spec"]["nodeName"] for each in rng.sample(placed, 300)}
        for name in lost:
            world.api.drop(NODE, next(key for key in (name, f"default/{name}") if key in world.api.objects["nodes"]))
        for each in placed:
            if each["spec"]["nodeName"] in lost:
                world.api.drop(POD, f"default/{each['metadata']['name']}")
                again = {**each, "spec": {key: value for key, value in each["spec"].items() if key != "nodeName"}}
                again["metadata"] = {**each["metadata"], "uid": f"{each['metadata']['uid']}-again"}
                world.api.put(POD, {**again, "status": {"phase": "Pending"}})
        await world.pass_time(5)
        placed = [each for each in world.api.objects["pods"].values() if each["spec"].get("nodeName")]
        assert (len(placed), violations(world)) == (2000, [])

        tape = large_cluster(NODES)
        tape["metadata"]["labels"]["disk"] = "tape"
        world.api.put(NODE, tape)
        await world.pass_time(11)
        assert all(world.api.node_of(f"never-{number}") == f"n{NODES}" for number in range(20))
