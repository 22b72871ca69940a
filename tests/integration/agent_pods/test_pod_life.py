"""The life of real pods on one node: started, restarted, stopped, adopted, removed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from pyk.api.kinds import POD
from pyk.api.objects import condition_of

pytestmark = pytest.mark.root


_NOTHING = {"state": {"waiting": {"reason": ""}}, "restartCount": 0, "ready": False}


def status_of(pod: Any, container: int = 0) -> Any:
    statuses = pod["status"].get("containerStatuses")
    return statuses[container] if statuses else _NOTHING


def state_of(pod: Any, container: int = 0) -> Any:
    return status_of(pod, container)["state"]


async def test_a_pod_runs_to_completion_and_keeps_its_log(node: Any, shell_pod: Any) -> None:
    async with node.agent() as pods:
        pod = await node.finished(shell_pod("job", "echo hello; echo bye >/dev/termination-log"))
        assert pod["status"]["phase"] == "Succeeded"
        terminated = state_of(pod)["terminated"]
        assert (terminated["exitCode"], terminated["reason"]) == (0, "Completed")
        assert terminated["message"] == "bye\n"
        assert node.log(pod) == "hello\n"
        path = pods.log_path("default", "job", "main")
        assert path is not None
        assert path.exists()
        assert pods.log_path("default", "job", "main", previous=True) is None


async def test_a_running_pod_shows_what_kubernetes_shows(node: Any, shell_pod: Any) -> None:
    async with node.agent() as pods:
        pod = await node.running(shell_pod("web", "sleep 1000", restartPolicy="Always"))
        status = pod["status"]
        assert status["phase"] == "Running"
        assert status["podIP"] == "198.51.100.1"
        assert status["podIPs"] == [{"ip": "198.51.100.1"}]
        assert status["hostIP"] == "127.0.0.1"
        assert status["qosClass"] == "BestEffort"
        assert status["observedGeneration"] == pod["metadata"]["generation"]
        assert "startTime" in status
        for condition in ("PodScheduled", "Initialized", "ContainersReady", "Ready", "PodReadyToStartContainers"):
            assert condition_of(pod, condition)["status"] == "True", condition
        shown = status_of(pod)
        assert shown["containerID"].startswith("pyk://")
        assert shown["image"] == "pyk.local/busybox:latest"
        assert shown["imageID"].startswith("pyk.local/busybox@sha256:")
        assert (shown["ready"], shown["started"], shown["restartCount"]) == (True, True, 0)
        assert "running" in shown["state"]
        assert pods.find("default", "web")["status"]["phase"] == "Running"
        assert [p["metadata"]["name"] for p in pods.pods()] == ["web"]
        state = pods.container("default", "web", "main")
        assert state is not None
        assert state.pid > 0
        told = [text.split(":")[0] for text in await _settled_events(node, "web", "Started")]
        assert {"Pulled", "Created", "Started"} <= set(told)


async def _settled_events(node: Any, name: str, last: str) -> list[str]:
    await node.until_event(name, last)
    found: list[str] = await node.events(name)
    return found


async def test_a_failing_command_restarts_with_back_off_and_shows_its_last_end(node: Any, shell_pod: Any) -> None:
    async with node.agent():
        await node.create(shell_pod("crash", "echo out of luck; exit 3", restartPolicy="OnFailure"))
        pod = await node.until("crash", lambda p: status_of(p)["restartCount"] >= 3)
        assert pod["status"]["phase"] == "Running"
        last = status_of(pod)["lastState"]["terminated"]
        assert (last["exitCode"], last["reason"]) == (3, "Error")
        pod = await node.until("crash", lambda p: waits_for(p) == "CrashLoopBackOff")
        waiting = state_of(pod)["waiting"]
        assert waiting["reason"] == "CrashLoopBackOff"
        uid = pod["metadata"]["uid"]
        assert waiting["message"] == f"back-off 0.4s restarting failed container=main pod=crash_default({uid})"
        text = await node.until_event("crash", "BackOff")
        assert text == f"BackOff: Back-off restarting failed container main in pod crash_default({uid})"


async def test_the_log_serves_as_termination_message_when_asked(node: Any, shell_pod: Any) -> None:
    container = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    async with node.agent():
        pod = await node.finished(shell_pod("words", "echo one; echo two >&2; exit 9", container=container))
    assert pod["status"]["phase"] == "Failed"
    assert set(state_of(pod)["terminated"]["message"].split()) == {"one", "two"}


async def test_a_command_that_does_not_exist_is_told(node: Any, shell_pod: Any) -> None:
    async with node.agent():
        pod = await node.finished(shell_pod("typo", container={"command": ["/no/such/program"]}))
        terminated = state_of(pod)["terminated"]
        assert terminated["exitCode"] == 128
        assert "/no/such/program" in terminated["message"]
        assert pod["status"]["phase"] == "Failed"


async def test_an_unknown_image_is_told_and_recovers_when_it_appears(node: Any, shell_pod: Any, tmp_path: Any) -> None:
    async with node.agent(image_backoff_base=60.0, image_backoff_max=60.0):
        await node.create(shell_pod("early", "echo here", container={"image": "team/app:1"}))
        pod = await node.until("early", lambda p: waits_for(p) == "ErrImagePull")
        assert "pyk image import team/app:1" in state_of(pod)["waiting"]["message"]
        await node.until("early", lambda p: waits_for(p) == "ImagePullBackOff")
        root = tmp_path / "rootfs"
        (root / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "bin/busybox")
        (root / "bin/sh").symlink_to("busybox")
        node.images.import_rootfs("team/app:1", root)
        pod = await node.until("early", lambda p: p["status"]["phase"] == "Succeeded")
        assert node.log(pod) == "here\n"
        assert status_of(pod)["image"] == "docker.io/team/app:1"


async def test_an_image_that_must_not_be_pulled(node: Any, shell_pod: Any) -> None:
    async with node.agent():
        await node.create(shell_pod("never", container={"image": "team/none", "imagePullPolicy": "Never"}))
        pod = await node.until("never", lambda p: waits_for(p) == "ErrImageNeverPull")
        assert pod["status"]["phase"] == "Pending"


async def test_deletion_sends_sigterm_and_waits_for_a_graceful_end(node: Any, shell_pod: Any) -> None:
    script = "trap 'echo caught; exit 7' TERM; while true; do sleep 0.05; done"
    async with node.agent():
        pod = await node.running(shell_pod("polite", script, terminationGracePeriodSeconds=20))
        task = asyncio.create_task(
            node.until("polite", lambda p: "terminated" in state_of(p) and "deletionTimestamp" in p["metadata"])
        )
        await node.client.delete(POD, "polite", "default")
        last = await task
        assert state_of(last)["terminated"]["exitCode"] == 7
        assert last["status"]["phase"] == "Failed"
        await node.until_gone("polite")
        await _until(lambda: not (node.settings.state_dir / "pods" / pod["metadata"]["uid"]).exists())
        await _until(lambda: not any(node.settings.log_root.iterdir()))
        assert await node.runtime.list_sandboxes() == []
        group = f"{node.settings.cgroup_root}/kubepods/besteffort/pod{pod['metadata']['uid']}"
        assert not any(map(exists, node.cgroups.directories(group)))
        assert node.network.attached == {}


def exists(path: str) -> bool:
    return Path(path).exists()


async def _until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


async def _until_sandboxes(node: Any, count: int) -> None:
    async with asyncio.timeout(20):
        while len(await node.runtime.list_sandboxes()) != count:
            await asyncio.sleep(0.01)


async def test_a_container_that_ignores_sigterm_is_killed_after_the_grace_period(node: Any, shell_pod: Any) -> None:
    async with node.agent():
        await node.running(shell_pod("rude", "trap '' TERM; while true; do sleep 0.05; done"))
        task = asyncio.create_task(node.until("rude", lambda p: "terminated" in state_of(p)))
        await node.client.delete(POD, "rude", "default")
        last = await task
        assert state_of(last)["terminated"]["exitCode"] == 137
        await node.until_gone("rude")


async def test_a_pod_deleted_by_force_is_ended_on_the_node(node: Any, shell_pod: Any) -> None:
    async with node.agent():
        await node.running(shell_pod("forced", "sleep 1000"))
        await node.client.delete(POD, "forced", "default", grace_period_seconds=0)
        await node.until_gone("forced")
        await _until_sandboxes(node, 0)


async def test_a_new_pod_of_the_same_name_takes_over_at_once(node: Any, shell_pod: Any) -> None:
    async with node.agent():
        first = await node.running(shell_pod("twin", "sleep 1000"))
        await node.client.delete(POD, "twin", "default", grace_period_seconds=0)
        second = await node.running(shell_pod("twin", "sleep 1000"))
        assert first["metadata"]["uid"] != second["metadata"]["uid"]


async def test_an_agent_that_returns_adopts_what_runs(node: Any, shell_pod: Any) -> None:
    async with node.agent():
        before = await node.running(shell_pod("keep", "sleep 1000", restartPolicy="Always"))
        pid = node.pods.container("default", "keep", "main").pid
    os.kill(pid, 0)
    async with node.agent() as pods:
        await node.running(shell_pod("after", "sleep 1000"))
        state = pods.container("default", "keep", "main")
        assert state.pid == pid
        after = await node.pod("keep")
        assert status_of(after)["restartCount"] == 0
        assert status_of(after)["containerID"] == status_of(before)["containerID"]
        assert after["status"]["podIP"] == before["status"]["podIP"]


async def test_what_ended_while_the_agent_was_away_is_told_and_restarted(node: Any, shell_pod: Any) -> None:
    async with node.agent() as pods:
        await node.running(shell_pod("lost", "sleep 1000", restartPolicy="Always"))
        pid = pods.container("default", "lost", "main").pid
    os.kill(pid, signal.SIGKILL)
    async with node.agent():
        pod = await node.until("lost", lambda p: status_of(p)["restartCount"] == 1 and "running" in state_of(p))
        assert status_of(pod)["lastState"]["terminated"]["exitCode"] == 137


async def test_a_node_whose_processes_were_all_killed_starts_its_pods_again(node: Any, shell_pod: Any) -> None:
    async with node.agent() as pods:
        await node.running(shell_pod("reborn", "sleep 1000", restartPolicy="Always"))
        await node.running(shell_pod("once", "sleep 1000"))
        killed = [pods.container("default", name, "main").pid for name in ("reborn", "once")]
        killed += [sandbox.pid for sandbox in await node.runtime.list_sandboxes()]
    await node.replace_spawner()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    async with node.agent():
        pod = await node.until("reborn", lambda p: status_of(p)["restartCount"] == 1 and is_running(p))
        assert status_of(pod)["lastState"]["terminated"]["exitCode"] == 137
        pod = await node.until("once", lambda p: p["status"]["phase"] == "Failed")
        assert status_of(pod)["restartCount"] == 0


async def test_containers_are_restarted_while_the_api_server_is_away(node: Any, shell_pod: Any) -> None:
    async with node.agent() as pods:
        await node.running(shell_pod("alone", "sleep 1000", restartPolicy="Always"))
        first = pods.container("default", "alone", "main")
        await node.stop_server()
        os.kill(first.pid, signal.SIGKILL)
        await _until(lambda: pods.container("default", "alone", "main").id != first.id)
        await _until(lambda: status_of(pods.find("default", "alone"))["restartCount"] == 1)
        await _until(lambda: is_running(pods.find("default", "alone")))


async def test_a_new_spawner_takes_over_without_a_restart(node: Any, shell_pod: Any) -> None:
    async with node.agent() as pods:
        await node.running(shell_pod("calm", "sleep 1000", restartPolicy="Always"))
        before = pods.container("default", "calm", "main")
        await node.replace_spawner()
        await node.running(shell_pod("later", "sleep 1000"))
        assert pods.container("default", "calm", "main").pid == before.pid
        os.kill(before.pid, signal.SIGKILL)
        await node.until("calm", lambda p: status_of(p)["restartCount"] == 1 and is_running(p))


async def test_a_pod_removed_while_the_agent_was_away_is_ended(node: Any, shell_pod: Any) -> None:
    async with node.agent():
        pod = await node.running(shell_pod("orphan", "sleep 1000"))
    await node.client.delete(POD, "orphan", "default", grace_period_seconds=0)
    async with node.agent():
        await node.running(shell_pod("other", "sleep 1000"))
        await _until_sandboxes(node, 1)
        await _until(lambda: not (node.settings.state_dir / "pods" / pod["metadata"]["uid"]).exists())


async def test_a_dead_sandbox_is_replaced_and_the_containers_restarted(node: Any, shell_pod: Any) -> None:
    async with node.agent():
        await node.running(shell_pod("box", "sleep 1000", restartPolicy="Always"))
        (sandbox,) = await node.runtime.list_sandboxes()
        os.kill(sandbox.pid, signal.SIGKILL)
        pod = await node.until("box", lambda p: status_of(p)["restartCount"] == 1 and is_running(p))
        assert "terminated" in status_of(pod)["lastState"]


def waits_for(pod: Any) -> str:
    return str((state_of(pod).get("waiting") or {}).get("reason"))


def init_restarts(pod: Any) -> int:
    statuses = pod["status"].get("initContainerStatuses") or [{"restartCount": 0}]
    return int(statuses[0]["restartCount"])


def is_running(pod: Any) -> bool:
    return "running" in state_of(pod)


async def test_a_pod_that_does_not_fit_is_rejected(node: Any, shell_pod: Any) -> None:
    node.node = {
        "metadata": {"name": "n1", "labels": {"disk": "ssd"}},
        "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}},
    }
    resources = {"resources": {"requests": {"cpu": "700m"}}}
    async with node.agent():
        await node.running(shell_pod("first", "sleep 1000", container=resources))
        pod = await node.finished(shell_pod("second", "sleep 1000", container=resources))
        assert pod["status"]["reason"] == "OutOfcpu"
        assert "requested: 700, used: 700, capacity: 1000" in pod["status"]["message"]
        pod = await node.finished(shell_pod("picky", "sleep 1000", nodeSelector={"disk": "hdd"}))
        assert pod["status"]["reason"] == "NodeAffinity"


async def test_a_pod_past_its_deadline_fails(node: Any, shell_pod: Any) -> None:
    async with node.agent():
        await node.create(shell_pod("late", "sleep 1000", activeDeadlineSeconds=1))
        pod = await node.until("late", lambda p: p["status"]["phase"] == "Failed")
        assert pod["status"]["reason"] == "DeadlineExceeded"
        await node.until("late", lambda p: "terminated" in state_of(p))


async def test_init_containers_and_sidecars_keep_their_order(node: Any, shell_pod: Any) -> None:
    def container(name: str, script: str, **more: Any) -> Any:
        image = {"image": "pyk.local/busybox:1", "volumeMounts": [{"name": "d", "mountPath": "/d"}]}
        return {"name": name, **image, "command": ["/bin/sh", "-c", script], **more}

    side = "echo side >>/d/order; trap 'echo side-end >>/d/order; exit 0' TERM; while true; do sleep 0.05; done"
    pod = shell_pod(
        "ordered",
        volumes=[{"name": "d", "emptyDir": {}}],
        initContainers=[
            container("one", "echo one >>/d/order"),
            container("side", side, restartPolicy="Always"),
            container("two", "sleep 0.2; echo two >>/d/order"),
        ],
        container=container("main", "echo main >>/d/order; sleep 0.2; cat /d/order"),
    )
    async with node.agent():
        done = await node.finished(pod)
        assert done["status"]["phase"] == "Succeeded"
        assert node.log(done).split() == ["one", "side", "two", "main"]
        inits = {s["name"]: s for s in done["status"]["initContainerStatuses"]}
        assert inits["one"]["state"]["terminated"]["reason"] == "Completed"
        assert inits["side"]["state"]["terminated"]["exitCode"] == 0


async def test_a_failing_init_container_is_retried_or_fails_the_pod(node: Any, shell_pod: Any) -> None:
    init = {"name": "init", "image": "pyk.local/busybox:1", "command": ["/bin/sh", "-c", "exit 5"]}
    async with node.agent():
        pod = await node.finished(shell_pod("fatal", "echo never", initContainers=[init]))
        assert pod["status"]["phase"] == "Failed"
        assert "waiting" in state_of(pod)
        await node.create(shell_pod("again", "echo never", initContainers=[init], restartPolicy="Always"))
        pod = await node.until("again", lambda p: init_restarts(p) >= 2)
        assert pod["status"]["phase"] == "Pending"
        assert condition_of(pod, "Initialized")["reason"] == "ContainersNotInitialized"
        assert state_of(pod)["waiting"]["reason"] == "PodInitializing"


async def test_probes_make_a_pod_ready_and_restart_it(node: Any, shell_pod: Any) -> None:
    script = "touch /alive; sleep 0.5; touch /ready; sleep 1000"
    container = {
        "readinessProbe": {"exec": {"command": ["cat", "/ready"]}, "periodSeconds": 1},
        "livenessProbe": {"exec": {"command": ["cat", "/alive"]}, "periodSeconds": 1, "failureThreshold": 1},
    }
    async with node.agent():
        await node.create(shell_pod("probed", script, container=container, restartPolicy="Always"))
        await node.until("probed", lambda p: is_running(p) and not status_of(p)["ready"])
        await node.until("probed", lambda p: status_of(p)["ready"])
        assert (await node.until_event("probed", "Unhealthy")).startswith("Unhealthy: Readiness probe failed: cat:")
        state = node.pods.container("default", "probed", "main")
        os.unlink(f"/proc/{state.pid}/root/alive")
        pod = await node.until("probed", lambda p: status_of(p)["restartCount"] == 1)
        assert status_of(pod)["lastState"]["terminated"]["exitCode"] in (137, 143)
        killing = await node.until_event("probed", "Killing")
        assert killing == "Killing: Container main failed liveness probe, will be restarted"


async def test_lifecycle_hooks_run_around_the_container(node: Any, shell_pod: Any) -> None:
    lifecycle = {
        "postStart": {"exec": {"command": ["/bin/sh", "-c", "sleep 0.2; echo begun >/proc/1/fd/1"]}},
        "preStop": {"exec": {"command": ["/bin/sh", "-c", "echo ending >/proc/1/fd/1"]}},
    }
    script = "trap 'echo ended; sleep 0.3; exit 0' TERM; while true; do sleep 0.05; done"
    async with node.agent():
        pod = await node.running(shell_pod("hooked", script, container={"lifecycle": lifecycle}))
        assert node.log(pod) == "begun\n"
        await node.client.delete(POD, "hooked", "default")
        await _until(lambda: "ended" in node.log(pod))
        assert node.log(pod) == "begun\nending\nended\n"
        await node.until_gone("hooked")


async def test_an_oom_kill_is_told(node: Any, shell_pod: Any) -> None:
    resources = {"resources": {"limits": {"memory": "16Mi"}, "requests": {"memory": "16Mi"}}}
    script = "x=a; while true; do x=$x$x; done"
    async with node.agent():
        pod = await node.finished(shell_pod("hungry", script, container=resources))
        terminated = state_of(pod)["terminated"]
        assert (terminated["reason"], terminated["exitCode"]) == ("OOMKilled", 137)


async def test_a_quick_pod_is_written_once(node: Any, shell_pod: Any) -> None:
    async with node.agent():
        await node.running(shell_pod("warm", "sleep 1000"))  # the reserved image is made once
        created = await node.create(shell_pod("quick", "sleep 1000"))
        seen = []
        events = node.client.watch(
            POD,
            "default",
            resource_version=created["metadata"]["resourceVersion"],
            field_selector="metadata.name=quick",
        )
        async with asyncio.timeout(20):
            async for event in events:
                if event.type == "MODIFIED":
                    seen.append(event.object["status"]["phase"])
                    if seen[-1] == "Running":
                        break
        await events.aclose()
        assert seen == ["Running"]
