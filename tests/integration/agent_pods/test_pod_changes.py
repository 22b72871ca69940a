"""What happens to pods that run already: containers for debugging, resizes in place, and a start over by rule."""

from __future__ import annotations

from typing import Any

import pytest

from pyk.api.kinds import POD
from pyk.client.client import STRATEGIC_MERGE_PATCH

pytestmark = pytest.mark.root


def amounts(cpu: str, memory: str) -> dict[str, Any]:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}}


def by_name(pod: Any, field: str = "containerStatuses") -> dict[str, Any]:
    return {status["name"]: status for status in pod["status"].get(field) or ()}


async def change(node: Any, name: str, subresource: str, spec: Any) -> None:
    content = STRATEGIC_MERGE_PATCH
    await node.client.patch(POD, name, "default", {"spec": spec}, content_type=content, subresource=subresource)


async def test_containers_are_resized_live_or_by_a_restart_as_they_want_it(node: Any, shell_pod: Any) -> None:
    made = shell_pod("p", "exec sleep 1000", container={"resources": amounts("100m", "32Mi")}, restartPolicy="Always")
    [live] = made["spec"]["containers"]
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    made["spec"]["containers"].append({**live, "name": "again", "resizePolicy": policy})
    wanted = {"main": amounts("200m", "48Mi"), "again": amounts("100m", "48Mi")}
    async with node.agent():
        before = await node.running(made)
        containers = [{"name": name, "resources": resources} for name, resources in wanted.items()]
        await change(node, "p", "resize", {"containers": containers})

        def is_done(pod: Any) -> bool:
            shown = by_name(pod)
            restarts = [shown[name]["restartCount"] for name in wanted]
            same = all(shown[name].get("resources") == wanted[name] and shown[name]["ready"] for name in wanted)
            return same and restarts == [0, 1]

        after = await node.until("p", is_done)
        for name, cpu in (("main", 200), ("again", 100)):
            identifier = by_name(after)[name]["containerID"].partition("://")[2]
            cgroup = f"{node.settings.cgroup_root}/kubepods/pod{after['metadata']['uid']}/{identifier}"
            limits = node.cgroups.limits(cgroup)
            assert (limits.cpu_millicores, limits.memory_bytes) == (cpu, 48 << 20)
        assert by_name(before)["main"]["containerID"] == by_name(after)["main"]["containerID"]
        assert {"ResizeStarted", "ResizeCompleted"} <= {text.split(":")[0] for text in await node.events("p")}


async def test_a_resize_waits_for_room_also_over_a_restart_of_the_agent(node: Any, shell_pod: Any) -> None:
    node.node = {"metadata": {"name": "n1"}, "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "9"}}}
    first = shell_pod("first", "exec sleep 1000", container={"resources": amounts("400m", "32Mi")})
    other = shell_pod("other", "exec sleep 1000", container={"resources": amounts("400m", "32Mi")})

    def pending(pod: Any) -> str:
        kinds = {each["type"]: each.get("reason", "") for each in pod["status"]["conditions"]}
        return kinds.get("PodResizePending", "")

    async with node.agent():
        await node.running(first)
        await node.running(other)
        await change(node, "first", "resize", {"containers": [{"name": "main", "resources": amounts("700m", "32Mi")}]})
        waiting = await node.until("first", lambda pod: pending(pod) == "Deferred")
        assert by_name(waiting)["main"]["allocatedResources"]["cpu"] == "400m"
    async with node.agent():
        await node.client.delete(POD, "other", "default", grace_period_seconds=0)
        granted = await node.until("first", lambda pod: by_name(pod)["main"]["resources"] == amounts("700m", "32Mi"))
        assert by_name(granted)["main"]["restartCount"] == 0
        await node.until("first", lambda pod: not pending(pod))
        await change(node, "first", "resize", {"containers": [{"name": "main", "resources": amounts("8", "32Mi")}]})
        await node.until("first", lambda pod: pending(pod) == "Infeasible")


async def test_a_debug_container_sees_the_processes_of_its_target(node: Any, shell_pod: Any) -> None:
    async with node.agent():
        await node.running(shell_pod("p", "exec sleep 1234", restartPolicy="Always"))
        debug = {
            "name": "debug",
            "image": "pyk.local/busybox:latest",
            "imagePullPolicy": "IfNotPresent",
            "targetContainerName": "main",
            "command": ["/bin/sh", "-c", "tr '\\0' ' ' </proc/1/cmdline"],
        }
        await change(node, "p", "ephemeralcontainers", {"ephemeralContainers": [debug]})
        ended = await node.until("p", lambda pod: "terminated" in debug_state(pod, "debug"))
        assert node.log(ended, "debug") == "sleep 1234 "
        assert by_name(ended)["main"]["ready"]
        lost = {**debug, "name": "lost", "targetContainerName": "main", "image": "pyk.local/nothing:1"}
        await change(node, "p", "ephemeralcontainers", {"ephemeralContainers": [debug, lost]})
        await node.until("p", lambda pod: "waiting" in debug_state(pod, "lost"))


def debug_state(pod: Any, name: str) -> Any:
    return by_name(pod, "ephemeralContainerStatuses").get(name, {}).get("state", {})


async def test_an_exit_by_rule_starts_all_containers_over_in_the_same_sandbox(node: Any, shell_pod: Any) -> None:
    rules = [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]
    mounts = {"volumeMounts": [{"name": "d", "mountPath": "/d"}]}
    made = shell_pod("p", "exec sleep 1000", container=mounts, volumes=[{"name": "d", "emptyDir": {}}])
    [main] = made["spec"]["containers"]
    script = "test $(wc -l </d/log) -ge 2 && exec sleep 1000; exit 88"
    made["spec"]["initContainers"] = [
        {**main, "name": "setup", "command": ["/bin/sh", "-c", "echo setup >>/d/log"]},
        {
            **main,
            "name": "side",
            "restartPolicy": "Always",
            "restartPolicyRules": rules,
            "command": ["/bin/sh", "-c", script],
        },
    ]
    async with node.agent():
        await node.create(made)
        over = await node.until("p", lambda pod: by_name(pod).get("main", {}).get("restartCount") == 1 and ready(pod))
        statuses = by_name(over, "initContainerStatuses")
        assert {name: status["restartCount"] for name, status in statuses.items()} == {"setup": 1, "side": 1}
        assert len(node.network.attached) == 1
        kinds = {each["type"]: each["status"] for each in over["status"]["conditions"]}
        assert kinds["AllContainersRestarting"] == "False"


def ready(pod: Any) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"]["conditions"])
