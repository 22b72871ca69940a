"""Three control planes with an etcd member each: any may be killed or cut off, and no acknowledged write is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pyk.api.kinds import CONFIG_MAP
from pyk.api.status import ApiError
from pyk.client.blocking import BlockingClient, ServerUnreachable
from pyk.client.config import load_kubeconfig
from pyk.netlink import in_namespace
from tests.e2e.harness import deployment_document, wait_for
from tests.e2e.machines import Machine, Machines

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(shutil.which("etcd") is None, reason="the etcd binary is missing: apt-get install etcd-server"),
    pytest.mark.timeout(300),
]
LONGEST_PAUSE_SECONDS = 20.0
"""Of a writer through a node's balancer: less than it takes until a node counts as gone."""


@dataclass
class Writer:
    """Writes ConfigMaps one after another through a node's balancer, each until it is acknowledged."""

    node: Machine
    admin: Path
    acknowledged: list[str] = field(default_factory=list)
    longest_pause: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._thread = threading.Thread(target=in_namespace, args=(f"/run/netns/{self.node.namespace}", self._write))
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(30)

    def _write(self) -> None:
        config = replace(load_kubeconfig(self.admin), server="https://127.0.0.1:6444")
        client = BlockingClient(config)
        last = time.monotonic()
        while not self._over.is_set():
            name = f"write-{len(self.acknowledged)}"
            document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
            try:
                client.json("POST", CONFIG_MAP.path("default"), body=document)
            except ServerUnreachable:
                self._over.wait(0.1)
                continue
            except ApiError as error:
                if error.code != 409:  # it happened, and its answer was lost
                    self._over.wait(0.1)
                    continue
            self.acknowledged.append(name)
            self.longest_pause = max(self.longest_pause, time.monotonic() - last)
            last = time.monotonic()
            self._over.wait(0.05)

    def goes_on(self) -> None:
        """Wait until more is written."""
        before = len(self.acknowledged)
        wait_for("writes go on", lambda: len(self.acknowledged) >= before + 5)


@pytest.fixture
def machines() -> Iterator[Machines]:
    made = Machines()
    yield made
    made.close()


def used_by(node: Machine, planes: list[Machine]) -> Machine:
    """The control plane that the node's balancer uses."""
    url = re.findall(r"using the API server (\S+)", node.log("agent"))[-1]
    return next(each for each in planes if each.url == url)


def pid_of(machine: Machine, program: str) -> int:
    """A program of the machine's control plane."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            of_this_machine = any(str(machine.folder) in word for word in words)
            if of_this_machine and (Path(words[0]).name == program or (words[1:2] == ["-m"] and words[2] == program)):
                return int(entry.name)
    raise AssertionError(f"{machine.name} runs no {program}")


def leader(planes: list[Machine], asked: Machine) -> Machine:
    """The machine whose controllers lead."""
    path = "jsonpath={.spec.holderIdentity}"
    holder = asked.kubectl("get", "lease", "kube-controller-manager", "-n", "kube-system", "-o", path)
    return next(each for each in planes if f"leads as {holder}" in each.log("server"))


def running(asked: Machine, count: int) -> bool:
    pods = json.loads(asked.kubectl("get", "pods", "-l", "app=web", "-o", "json"))["items"]
    return len(pods) == count and all(pod["status"]["phase"] == "Running" for pod in pods)


def test_any_of_three_control_planes_may_go(machines: Machines) -> None:
    planes = [machines.add(f"plane-{number}") for number in (1, 2, 3)]
    nodes = [machines.add(f"worker-{number}") for number in (1, 2)]
    first = planes[0]
    first.server("--store", "etcd", "--node-monitor-grace-seconds", "20")
    for plane in planes[1:]:
        token = first.token("--server", "--data-dir", str(first.folder / "server"))
        plane.server("--join", first.url, "--token", token, "--node-monitor-grace-seconds", "20")
    token = planes[1].token()
    for node, plane in zip(nodes, planes, strict=False):
        node.agent("--server", plane.url, "--token", token)
    for node in nodes:
        wait_for(f"{node.name} is ready", lambda node=node: first.is_ready(node.name))
    uids = {node.name: first.kubectl("get", "node", node.name, "-o", "jsonpath={.metadata.uid}") for node in nodes}
    watched = nodes[0]
    writer = Writer(watched, first.kubeconfig)
    writer.start()
    try:
        writer.goes_on()

        killed = used_by(watched, planes)
        os.kill(pid_of(killed, "controlplane.apiserver"), signal.SIGKILL)
        writer.goes_on()
        wait_for("the API server is there again", lambda: killed.kubectl("get", "nodes", check=False).count("worker"))

        cut = leader(planes, first)
        others = [plane for plane in planes if plane is not cut]
        machines.cut(cut)
        others[0].kubectl("apply", "-f", str(manifest(machines, 4)))
        writer.goes_on()
        wait_for("another leads", lambda: leader(planes, others[0]) is not cut)
        wait_for("the pods run", lambda: running(others[1], 4))
        machines.mend(cut)
        wait_for("the one that was cut off is back", lambda: running(cut, 4))
        wait_for("and caught up", lambda: cut.kubectl("get", "--raw", "/readyz", check=False).strip() == "ok")

        off = others[0]
        off.stop("server", signal.SIGKILL)
        os.kill(pid_of(off, "etcd"), signal.SIGKILL)
        others[1].kubectl("scale", "deployment/web", "--replicas=6")
        writer.goes_on()
        wait_for("the pods run", lambda: running(cut, 6))
        off.server("--join", first.url, "--token", token)
    finally:
        writer.stop()
    for plane in planes:
        found = plane.kubectl("get", "configmaps", "-o", "name").split()
        missing = {f"configmap/{name}" for name in writer.acknowledged} - set(found)
        assert not missing, f"{plane.name} lost acknowledged writes"
        for node in nodes:
            assert plane.is_ready(node.name)
    for node in nodes:
        uid = first.kubectl("get", "node", node.name, "-o", "jsonpath={.metadata.uid}")
        assert uid == uids[node.name]
    made = first.kubectl("get", "events", "--field-selector=reason=SuccessfulCreate", "-o", "json")
    created = sum(event.get("count", 1) for event in json.loads(made)["items"])
    assert created == 6, "two leaders at a time would have made too many"
    print(f"{len(writer.acknowledged)} writes, the longest pause {writer.longest_pause:.1f} s")
    assert writer.longest_pause < LONGEST_PAUSE_SECONDS
    leave = f"from pathlib import Path; from pyk.machine.server import leave; leave(Path('{off.folder}/server'), print)"
    assert "has left its cluster" in off.run(sys.executable, "-c", leave).stdout
    off.stop("server")
    first.kubectl("create", "configmap", "two-are-enough")


def manifest(machines: Machines, replicas: int) -> Path:
    file = machines.folder / "web.json"
    file.write_text(json.dumps(deployment_document("web", replicas)))
    return file
