"""`python -m scheduler`, as its own user, against a real API server over TLS."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

import aiohttp

from pyk import pki
from pyk.api.kinds import CONFIG_MAP, POD
from tests.integration.scheduler.lab import Lab
from tests.ports import free_port


async def test_pods_are_bound_told_of_and_explained(lab: Lab) -> None:
    port = free_port()
    async with lab.api_server(), lab.scheduler("--metrics-port", str(port), *lab.secure_port()):
        taint = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}
        await lab.add_node("tainted", taints=[taint])
        await lab.add_node("small", cpu="500m")
        await lab.add_pod("p")
        message = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {dedicated: gpu}."
        await lab.until(lambda: lab.scheduled("p").get("reason") == "Unschedulable")
        message += " preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
        assert lab.scheduled("p")["message"] == message
        await lab.until(lambda: message in lab.messages("FailedScheduling"))
        _, page = await lab.decision("default/p", user="admin")
        assert page["reasons"]["Insufficient cpu"] == ["small"]
        assert "  1 node needs 500m more cpu: small" in page["text"]

        await lab.add_node("large")
        await lab.until(lambda: lab.node_of("p") == "large")
        assert lab.scheduled("p")["status"] == "True"
        await lab.until(lambda: "Successfully assigned default/p to large" in lab.messages("Scheduled"))
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            text = await answer.text()
        assert 'scheduler_schedule_attempts_total{result="scheduled"} 1.0' in text
        assert 'scheduler_pending_pods{queue="unschedulable"} 0.0' in text


async def test_the_record_of_decisions_is_for_those_who_may_get_the_pod(lab: Lab) -> None:
    async with lab.api_server(), lab.scheduler(*lab.secure_port()):
        await lab.add_node("n")
        await lab.add_node("tainted", taints=[{"key": "dedicated", "effect": "NoSchedule"}])
        await lab.add_pod("p")
        await lab.until(lambda: lab.node_of("p") == "n")
        status, page = await lab.decision("default/p", user="admin")
        assert (status, page["node"], page["feasibleNodes"]) == (200, "n", 1)
        head, empty, titles, row = page["text"]
        assert "default/p was placed on n; 1 node would have done, its score was" in head
        assert (empty, titles.split()[:2], row.split()[:2]) == ("", ["NODE", "TOTAL"], ["n", "*"])
        pki.issue(lab.pki_dir, "nobody", path_prefix=lab.pki_dir / "nobody")
        assert await lab.decision("default/p", user="nobody") == (
            403,
            'pods "p" is forbidden: User "nobody" cannot get resource "pods" in the namespace "default"',
        )
        token = (lab.pki_dir / "tokens.csv").read_text().partition(",")[0]
        assert (await lab.decision("default/p", token=token))[0] == 200
        assert await lab.decision("default/p", token="x") == (401, "the bearer token is not valid")
        assert await lab.decision("default/p") == (401, "show a client certificate or a bearer token")
        assert await lab.decision("default/q", user="admin") == (404, "nothing is recorded of pod default/q")
        told = await lab.client.get(CONFIG_MAP, "kube-scheduler", "kube-public")
        assert told["data"] == {"address": lab.secure_url}

        env = {**os.environ, "KUBECONFIG": str(lab.kubeconfig("admin"))}
        for arguments, first in (
            (("p",), "As the scheduler recorded it:"),
            (("p", "--anew"), "default/p was placed on n at"),
        ):
            command = (sys.executable, "-m", "pyk.cli.main", "why", *arguments)
            process = await asyncio.create_subprocess_exec(*command, env=env, stdout=asyncio.subprocess.PIPE)
            text = (await process.communicate())[0].decode()
            assert (process.returncode, first in text.splitlines()[0]) == (0, True), text


async def test_many_pods_fill_the_nodes_and_never_more(lab: Lab) -> None:
    async with lab.api_server(), lab.scheduler():
        for number in range(5):
            await lab.add_node(f"n{number}", cpu="8")
        await asyncio.gather(*(lab.add_pod(f"p{number}", cpu="500m") for number in range(90)))
        await lab.until(lambda: sum(lab.node_of(f"p{number}") is not None for number in range(90)) == 80)
        await lab.until(lambda: sum(lab.scheduled(f"p{n}").get("reason") == "Unschedulable" for n in range(90)) == 10)
        on_node = Counter(lab.node_of(f"p{number}") for number in range(90))
        assert on_node == {**{f"n{number}": 16 for number in range(5)}, None: 10}
        bound = next(f"p{number}" for number in range(90) if lab.node_of(f"p{number}"))
        await lab.client.delete(POD, bound, "default", grace_period_seconds=0)
        await lab.until(lambda: sum(pod["spec"].get("nodeName") is not None for pod in lab.pods.values()) == 80)


async def test_a_gated_pod_waits_for_its_gates(lab: Lab) -> None:
    async with lab.api_server(), lab.scheduler():
        await lab.add_node("n")
        await lab.add_pod("gated", schedulingGates=[{"name": "example.com/wait"}])
        await lab.add_pod("free")
        await lab.until(lambda: lab.node_of("free") == "n")
        await lab.until(lambda: lab.scheduled("gated").get("reason") == "SchedulingGated")
        await lab.client.patch(POD, "gated", "default", {"spec": {"schedulingGates": None}})
        await lab.until(lambda: lab.node_of("gated") == "n")


async def test_scheduling_goes_on_after_the_api_server_was_away(lab: Lab) -> None:
    async with lab.scheduler() as process:
        async with lab.api_server():
            await lab.add_node("n", cpu="2")
            await lab.add_pod("before")
            await lab.until(lambda: lab.node_of("before") == "n")
        async with lab.api_server():
            await lab.add_pod("after")
            await lab.add_pod("too-many")
            await lab.until(lambda: {lab.node_of("after"), lab.node_of("too-many")} == {"n", None})
            await lab.until(
                lambda: (
                    "Unschedulable" in (lab.scheduled("after").get("reason"), lab.scheduled("too-many").get("reason"))
                )
            )
        assert process.returncode is None


async def test_a_kubeconfig_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scheduler", "--kubeconfig", str(tmp_path / "none"), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().count("\n") == 1
    assert str(tmp_path / "none") in errors.decode()
