"""Machines of a cluster, played by network namespaces: each has a link to a switch, an address and folders of its own.

Everything is in namespaces made here, the switch too, so nothing of the machine's own network is touched. A machine's
processes are started with `run` (to their end) and `start` (in the background); `close` ends and removes it all.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pyk.client.balancer import url_of
from pyk.lab.cgroups import LabCgroups, wait_for_death
from pyk.lab.teardown import end_spawners, unmount_below
from tests.e2e.harness import BIN, KUBECTL, wait_for
from tests.patience import patient

SUBNET, SUBNET_IPV6 = "10.77.0", "fd77::"
QUICK = ("--node-monitor-grace-seconds", "8", "--default-toleration-seconds", "5")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass
class Machine:
    """One machine. `address` is its own, `addresses` are one of each IP family that it has; `folder` plays its disk."""

    name: str
    address: str
    folder: Path
    namespace: str
    addresses: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(self, *command: str | Path, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end."""
        words = ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *map(str, command)]
        environment = {**os.environ, **self.environment}
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=patient(timeout), env=environment, check=False
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, what: str, *command: str | Path) -> subprocess.Popen[bytes]:
        """Run a command here in the background, its output in a file."""
        words = ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *map(str, command)]
        with (self.folder / f"{what}.log").open("ab") as log:
            self.processes[what] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **self.environment}
            )
        return self.processes[what]

    def log(self, what: str) -> str:
        return (self.folder / f"{what}.log").read_text(errors="replace")

    def stop(self, what: str, number: int = signal.SIGTERM) -> int:
        """End a background command: its status."""
        process = self.processes.pop(what)
        with suppress(ProcessLookupError):
            process.send_signal(number)
        return process.wait(patient(30))

    # What a machine may be

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    @property
    def cgroup(self) -> str:
        return f"/{self.namespace}"

    @property
    def url(self) -> str:
        return url_of((self.address, 6443))

    def server_options(self) -> list[str]:
        return [
            *("--config", str(self.folder / "server.yaml"), "--data-dir", str(self.folder / "server")),
            *("--kubeconfig", str(self.kubeconfig), "--advertise-address", self.address),
        ]

    def server(self, *options: str) -> None:
        """Be a control plane, and wait until it is up."""
        before = self.log("server").count("the control plane is up") if (self.folder / "server.log").exists() else 0
        process = self.start("server", BIN / "pyk", "server", *self.server_options(), *QUICK, *options)

        def is_up() -> bool:
            assert process.poll() is None, self.log("server")
            return self.log("server").count("the control plane is up") > before

        wait_for(f"the control plane of {self.name} is up", is_up)

    def agent_options(self) -> list[str]:
        return [
            *("--config", str(self.folder / "agent.yaml"), "--data-dir", str(self.folder / "agent")),
            *("--node-name", self.name, "--cgroup-root", self.cgroup),
            *("--node-ip", ",".join([self.address, *self.addresses[1:]])),
            *("--registries", str(self.folder / "registries.yaml")),
        ]

    def agent(self, *options: str) -> None:
        """Be a node, in the background."""
        self.start("agent", BIN / "pyk", "agent", *self.agent_options(), *options)

    def pyk(self, *words: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """A command of the administrator, on this machine."""
        return self.run(BIN / "pyk", *words, "--kubeconfig", str(self.kubeconfig), check=check, timeout=timeout)

    def kubectl(self, *words: str, check: bool = True) -> str:
        done = self.run(KUBECTL, "--kubeconfig", str(self.kubeconfig), *words, check=check)
        return done.stdout if check else done.stdout + done.stderr

    def token(self, *options: str) -> str:
        return self.pyk("token", "create", *options).stdout.strip()

    def is_ready(self, node: str) -> bool:
        """Whether a node is Ready, as this control plane tells."""
        path = '{.status.conditions[?(@.type=="Ready")].status}'
        return self.kubectl("get", "node", node, "-o", f"jsonpath={path}", check=False).strip() == "True"


class Machines:
    """The machines of one test, on one switch, with addresses of these IP families, the primary one first."""

    def __init__(self, families: Sequence[int] = (4,)) -> None:
        self._families = families
        self._name = f"m{os.getpid() % 10000}{uuid.uuid4().hex[:3]}"
        self.folder = Path(tempfile.mkdtemp(prefix="pyk-e2e-machines-"))
        self.all: list[Machine] = []
        self._switch = f"{self._name}-switch"
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")

    def add(self, name: str) -> Machine:
        """A machine with the next address."""
        number = len(self.all) + 1
        own = {4: f"{SUBNET}.{10 + number}", 6: f"{SUBNET_IPV6}{10 + number}"}
        addresses = [own[family] for family in self._families]
        machine = Machine(name, addresses[0], self.folder / name, f"{self._name}-{name}", addresses)
        machine.folder.mkdir()
        _ip("netns", "add", machine.namespace)
        self.all.append(machine)
        _ip("-n", self._switch, "link", "add", f"p{number}", "type", "veth", "peer", "eth0", "netns", machine.namespace)
        _ip("-n", self._switch, "link", "set", f"p{number}", "master", "br0", "up")
        _ip("-n", machine.namespace, "link", "set", "lo", "up")
        for address in addresses:
            bits = ("64", "nodad") if ":" in address else ("24",)
            _ip("-n", machine.namespace, "address", "add", f"{address}/{bits[0]}", "dev", "eth0", *bits[1:])
        _ip("-n", machine.namespace, "link", "set", "eth0", "up")
        return machine

    def cut(self, machine: Machine) -> None:
        """Pull the machine's cable."""
        _ip("-n", self._switch, "link", "set", f"p{self.all.index(machine) + 1}", "down")

    def mend(self, machine: Machine) -> None:
        _ip("-n", self._switch, "link", "set", f"p{self.all.index(machine) + 1}", "up")

    def close(self) -> None:
        """Leave nothing behind, and say what did not end by itself."""
        for machine in self.all:  # all at once: a control plane without the others' etcd takes its time
            for process in machine.processes.values():
                process.terminate()
        slow = []
        for machine in self.all:
            for what in list(machine.processes):
                process = machine.processes[what]
                try:
                    machine.stop(what)
                except subprocess.TimeoutExpired:
                    slow.append(f"{process.pid} {what} of {machine.name}\n{machine.log(what)}")
        cgroups = LabCgroups.detect()
        for machine in self.all:
            end_spawners(machine.folder)
            cgroups.kill(machine.cgroup)
            cgroups.remove(machine.cgroup)
        left = self._left()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for_death(list(left), 5)
        for machine in self.all:
            unmount_below(machine.folder)
        for name in [*(machine.namespace for machine in self.all), self._switch]:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not slow, "\n".join(slow)
        assert not left, left

    def _left(self) -> dict[int, list[str]]:
        """The processes that have to do with these machines, with their command lines."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    if any(str(self.folder) in word for word in words):
                        found[int(entry.name)] = words
        return found
