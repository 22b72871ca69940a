"""`pyk up`, `pyk node`, `pyk down` on the kernel: what they make, survive, refuse, and leave behind (nothing)."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyk.lab.cgroups import LabCgroups
from pyk.lab.layout import Layout, Options
from pyk.lab.state import ClusterState, Process
from pyk.netlink import Netlink
from tests.ports import free_port

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

PATIENCE_SECONDS = 60.0


def wait_for(what: str, check: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if found := check():
            return found
        select.select([], [], [], 0.05)
    return pytest.fail(f"still not so: {what}")


class Lab:
    """One cluster of the test's own, by way of the command line."""

    def __init__(self, folder: Path) -> None:
        self.name = f"lab{uuid.uuid4().hex[:6]}"
        self.folder = folder
        self.data_dir = folder / "data"
        self.kubeconfig = folder / "kubeconfig"
        self.port = free_port(4)  # the API server's, and those of the others' metrics
        self.layout = Layout(Options(name=self.name, data_dir=str(self.data_dir)))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "pyk.cli.main", *words]

    def up_words(self, *more: str, nodes: int = 1) -> list[str]:
        words = ["up", "--nodes", str(nodes), "--port", str(self.port), *self.names(), *more]
        return self.command(*words)

    def names(self) -> list[str]:
        return [
            *("--name", self.name, "--data-dir", str(self.data_dir)),
            *("--kubeconfig", str(self.kubeconfig)),
        ]

    def run(self, words: list[str], *, expect: int = 0) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == expect, f"{words}: {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result

    def up(self, *more: str, nodes: int = 1, expect: int = 0) -> subprocess.CompletedProcess[str]:
        return self.run(self.up_words("--detach", *more, nodes=nodes), expect=expect)

    def down(self) -> subprocess.CompletedProcess[str]:
        return self.run(self.command("down", *self.names()))

    def node(self, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        return self.run(self.command("node", *words, "--data-dir", str(self.data_dir)), expect=expect)

    def get(self, *words: str) -> Any:
        words = ("get", *words, "-o", "json", "--kubeconfig", str(self.kubeconfig))
        return json.loads(self.run(self.command(*words)).stdout)

    def is_ready(self, node: str) -> bool:
        conditions = self.get("node", node)["status"]["conditions"]
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    @property
    def processes(self) -> dict[str, Process]:
        state = ClusterState.load(self.data_dir)
        assert state is not None
        return state.processes

    def traces(self) -> list[str]:
        """Everything on the machine that bears the cluster's name, lies in its folder or uses its addresses."""
        found = [str(path) for path in (self.data_dir, self.kubeconfig) if path.exists()]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found += [f"mount {line}" for line in mounts if self.name in line or str(self.folder) in line]
        for root in Path("/sys/fs/cgroup").iterdir():
            found += [f"cgroup {path}" for path in (root / self.layout.prefix,) if path.exists()]
        links = [name for _, name in socket.if_nameindex()]
        found += [f"link {name}" for name in links if self.layout.is_link(name)]
        if Path("/run/netns").is_dir():
            found += [f"netns {file.name}" for file in Path("/run/netns").iterdir() if self.name in file.name]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    groups = (entry / "cgroup").read_text()
                except OSError:
                    continue
                if str(self.folder) in command or f"/{self.layout.prefix}/" in groups:
                    found.append(f"process {entry.name} {command}")
        return found


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    try:
        yield made
    finally:
        made.down()


def network_of(lab: Lab) -> tuple[str, str]:
    state = ClusterState.load(lab.data_dir)
    assert state is not None
    return str(state.layout.node_subnet), str(state.layout.cluster_cidr)


def routes() -> set[str]:
    with Netlink() as link:
        return {str(route.destination) for route in link.routes()}


def test_a_cluster_comes_up_answers_and_goes_without_a_trace(lab: Lab) -> None:
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    output = lab.up(nodes=2).stdout
    assert "nodes: 2/2 ready" in output
    assert lab.kubeconfig.stat().st_mode & 0o077 == 0
    assert {each["metadata"]["name"] for each in lab.get("nodes")["items"]} == {"node-1", "node-2"}
    node = lab.get("node", "node-1")
    state = ClusterState.load(lab.data_dir)
    assert state is not None
    assert node["status"]["addresses"][0] == {"type": "InternalIP", "address": state.layout.node_address("node-1")}
    assert node["status"]["capacity"]["memory"] == "2Gi"
    subnet, pods = network_of(lab)
    assert {subnet, pods} <= routes()
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == forwarding

    assert "is down" in lab.down().stdout
    assert lab.traces() == []
    assert not {subnet, pods} & routes()
    assert "there is no cluster" in lab.down().stdout


def test_a_second_up_says_that_it_runs_and_refuses_to_change_it(lab: Lab) -> None:
    lab.up()
    before = lab.processes
    assert "runs already" in lab.up().stdout
    refused = lab.up(nodes=2, expect=1)
    assert re.fullmatch(r"pyk: cluster \S+ runs with other options: .*\n", refused.stderr)
    assert lab.processes == before


def test_two_clusters_run_side_by_side(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Lab(tmp_path / "other")
    try:
        lab.up()
        other.up()
        assert network_of(lab) != network_of(other)
        other.down()
        assert lab.is_ready("node-1")
    finally:
        other.down()
    assert other.traces() == []


def test_a_node_is_powered_off_and_on(lab: Lab) -> None:
    lab.up(nodes=2)
    cgroups = LabCgroups.detect()
    group = lab.layout.node_cgroup("node-2")
    assert cgroups.processes(group)
    lab.node("stop", "node-2")
    assert cgroups.processes(group) == []
    assert "agent-node-2" not in lab.processes
    assert "node-2  off" in lab.node("list").stdout
    wait_for("the node is not ready", lambda: not lab.is_ready("node-2"))
    assert lab.is_ready("node-1")
    lab.node("start", "node-2")
    wait_for("the node is ready again", lambda: lab.is_ready("node-2"))
    assert "there is no node 'node-7'" in lab.node("stop", "node-7", expect=1).stderr


def test_a_killed_agent_comes_back_and_a_killed_node_stays_off(lab: Lab) -> None:
    lab.up()
    agent = lab.processes["agent-node-1"]
    os.kill(agent.pid, signal.SIGKILL)
    wait_for("another agent", lambda: lab.processes.get("agent-node-1", agent) != agent)
    group, another = lab.layout.node_cgroup("node-1"), lab.processes["agent-node-1"].pid
    wait_for("it is on its node", lambda: f"{group}/" in Path(f"/proc/{another}/cgroup").read_text())
    LabCgroups.detect().kill(lab.layout.node_cgroup("node-1"))
    wait_for("the node is off", lambda: "node-1  off" in lab.node("list").stdout)
    assert not Path(lab.layout.namespace("node-1")).exists()
    lab.node("start", "node-1")
    wait_for("the agent runs again", lambda: "agent-node-1" in lab.processes)


def test_a_killed_control_plane_process_is_started_again(lab: Lab) -> None:
    lab.up()
    killed = lab.processes["apiserver"]
    os.kill(killed.pid, signal.SIGKILL)
    wait_for("another API server", lambda: lab.processes.get("apiserver", killed) != killed)
    wait_for("it answers", lambda: lab.kubeconfig.exists() and answers(lab))


def answers(lab: Lab) -> bool:
    words = lab.command("get", "nodes", "--kubeconfig", str(lab.kubeconfig))
    return subprocess.run(words, capture_output=True, timeout=60, check=False).returncode == 0


def test_containers_live_on_when_the_supervisor_is_killed_and_up_takes_them_over(lab: Lab) -> None:
    lab.up()
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "steady", "namespace": "default"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "pyk.local/host", "command": ["sleep", "100000"]}],
        },
    }
    apply = lab.command("apply", "-f", "-", "--kubeconfig", str(lab.kubeconfig))
    subprocess.run(apply, input=json.dumps(pod), text=True, check=True, capture_output=True, timeout=60)

    def container() -> str:
        statuses = lab.get("pod", "steady")["status"].get("containerStatuses") or [{}]
        return str(statuses[0].get("containerID", "")) if statuses[0].get("ready") else ""

    before = wait_for("the pod runs", container)
    supervisor = lab.processes["supervisor"]
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_for("the supervisor is gone", lambda: not supervisor.is_alive)
    lab.up()
    assert lab.processes["supervisor"] != supervisor
    wait_for("the pod is ready", container)
    assert container() == before
    assert lab.get("pod", "steady")["status"]["containerStatuses"][0]["restartCount"] == 0


def test_down_finds_everything_by_name_when_supervisor_and_records_are_gone(lab: Lab) -> None:
    lab.up()
    subnet, pods = network_of(lab)
    supervisor = lab.processes["supervisor"]
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_for("the supervisor is gone", lambda: not supervisor.is_alive)
    (lab.data_dir / "cluster.json").unlink()
    lab.down()
    assert lab.traces() == []
    assert not {subnet, pods} & routes()


def test_in_the_foreground_ctrl_c_stops_everything_and_keeps_the_data(lab: Lab) -> None:
    with subprocess.Popen(lab.up_words(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Ctrl-C"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == 0
    assert "continues with the data" in rest
    assert sorted(lab.traces()) == sorted([str(lab.data_dir), str(lab.kubeconfig)])
    assert (lab.data_dir / "store.db").exists()
    lab.up()
    assert [each["metadata"]["name"] for each in lab.get("nodes")["items"]] == ["node-1"]


def test_the_cluster_ends_with_a_foreground_command_that_is_killed(lab: Lab) -> None:
    with subprocess.Popen(lab.up_words(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Ctrl-C"):
                break
        process.kill()
    left = sorted([str(lab.data_dir), str(lab.kubeconfig)])
    wait_for("all has ended", lambda: sorted(lab.traces()) == left)


@pytest.mark.etcd
@pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd-server is not installed")
def test_the_state_is_kept_in_an_etcd_of_its_own(lab: Lab) -> None:
    lab.up("--store", "etcd")
    assert "etcd" in lab.processes
    assert lab.is_ready("node-1")
    lab.down()
    assert lab.traces() == []


def test_a_port_in_use_is_one_line_and_nothing_is_made(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", lab.port)):
        refused = lab.up(expect=1)
    assert refused.stderr == f"pyk: port {lab.port} is in use: choose another with --port\n"
    assert lab.traces() == []


def test_folders_and_files_of_others_are_refused_and_kept(lab: Lab) -> None:
    lab.data_dir.mkdir()
    (lab.data_dir / "precious").write_text("mine")
    assert "not a pyk data folder" in lab.up(expect=1).stderr
    down = lab.run(lab.command("down", *lab.names()), expect=1)
    assert "nothing was removed" in down.stderr
    assert (lab.data_dir / "precious").read_text() == "mine"
    shutil.rmtree(lab.data_dir)
    lab.kubeconfig.write_text("apiVersion: v1\n")
    assert "was not written by 'pyk up'" in lab.up(expect=1).stderr
    lab.down()
    assert lab.kubeconfig.read_text() == "apiVersion: v1\n"


def test_without_root_it_is_one_line(lab: Lab) -> None:
    # Another user may not be able to read this interpreter, so only the answer to who we are is changed.
    source = Path(sys.modules["pyk"].__file__ or "").parent.parent
    script = "import os, sys; os.geteuid = lambda: 1000; from pyk.cli.main import main; sys.exit(main(['up']))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, cwd=source
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(r"pyk: pyk up needs root: .*\n", result.stderr)


def test_a_namespace_goes_although_something_was_mounted_over_its_folder(tmp_path: Path) -> None:
    """`ip netns add` mounts the folder over itself when first used, and hides what was mounted there."""
    code = """
import subprocess, sys
from pathlib import Path
from pyk.lab.network import _make_namespace, _remove_namespace
place = Path(sys.argv[1]) / "netns" / "node"
assert _make_namespace(place)
subprocess.run(["mount", "--bind", place.parent, place.parent], check=True)
_remove_namespace(place)
assert not place.exists()
"""
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, timeout=30)
