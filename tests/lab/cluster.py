"""A cluster on virtual machines, provisioned by the scripts that people use, and how the checks talk to it.

`Lab.up` boots the machines, has `vagrant/provision.sh` make them control planes and nodes, and returns when all nodes
are ready. kubectl runs on this machine, through a port of loopback that leads to the first control plane.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.lab import repository
from tests.lab.image import ROOT, Image, LabError, run
from tests.lab.machine import Done, Machine
from tests.patience import patient, patient_word
from tests.ports import free_port

T = TypeVar("T")
SUBNET = "192.168.156"
API_PORT = 6443
KUBECTL = Path(sys.executable).parent / "kubectl"
READY_SECONDS = 400.0
TESTER_MEGABYTES = 3072
_IMAGE = "pyk.local/host"


def wheel(folder: Path) -> Path:
    """A folder with pyk's wheel. Raises `LabError`."""
    target = folder / "wheels"
    if not target.exists():
        pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps"]
        source = folder / "source"
        names = ("pyk", "controlplane", "scheduler", "agent", "ingress", "pyproject.toml", "README.md", "LICENSE")
        source.mkdir()
        for name in names:  # a copy: building leaves files behind
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif (ROOT / name).exists():
                shutil.copy(ROOT / name, source / name)
        run(*pip, "-w", target, source)
        shutil.rmtree(source)
    return target


@dataclass
class Lab:
    """The machines of one cluster; `servers` and `workers` are in the order of their numbers.

    Without a control plane it is one machine, `tester`, with the repository's tests on it and nothing else.
    """

    folder: Path
    image: Image
    control_planes: int = 1
    worker_count: int = 2
    servers: list[Machine] = field(default_factory=list)
    workers: list[Machine] = field(default_factory=list)
    testers: list[Machine] = field(default_factory=list)

    def __post_init__(self) -> None:
        segment = free_port()
        for number in range(1, self.control_planes + 1):
            machine = self._machine(f"server-{number}", number, 10 + number, segment)
            machine.forwards = (API_PORT,)
            self.servers.append(machine)
        for number in range(1, self.worker_count + 1):
            self.workers.append(self._machine(f"worker-{number}", 100 + number, 20 + number, segment))
        if not self.control_planes:
            self.testers.append(self._machine("tester", 201, 31, segment))
            self.testers[0].memory_megabytes = TESTER_MEGABYTES

    def _machine(self, name: str, number: int, host: int, segment: int) -> Machine:
        return Machine(name, number, f"{SUBNET}.{host}", self.image, self.folder, segment)

    @property
    def machines(self) -> list[Machine]:
        return [*self.servers, *self.workers, *self.testers]

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    def up(self, *agent_options: str) -> None:
        """Boot, provision, and wait until all nodes are ready. Raises `LabError`."""
        for machine in self.machines:
            machine.start()
        wheels = wheel(self.folder)
        together(self.machines, lambda machine: machine.wait())
        if self.testers:
            together(self.testers, lambda machine: repository.install(machine, wheels))
            return
        together(self.machines, lambda machine: self._copy(machine, wheels))
        first, *others = self.servers
        # An emulated machine may be silent for longer than a real one that is well.
        store = ["--node-monitor-grace-seconds", "20", *(["--store", "etcd"] if others else [])]
        self.provision(first, "server", "--advertise-address", first.address, "--tls-san", "127.0.0.1", *store)
        self.wait_for_api(first)
        if others:
            token = self.token(first, "--server")
            for other in others:
                joining = ("--join", self.url(first), "--token", token, *store)
                self.provision(
                    other, "server", "--advertise-address", other.address, "--tls-san", "127.0.0.1", *joining
                )
        token = self.token(first)
        joining = ("--server", ",".join(map(self.url, self.servers)), "--token", token)
        together(
            self.workers,
            lambda each: self.provision(each, "agent", "--node-ip", each.address, *joining, *agent_options),
        )
        self.write_kubeconfig(first)
        self.wait_ready(*(worker.name for worker in self.workers))

    def _copy(self, machine: Machine, wheels: Path) -> None:
        machine.tell("rm -rf /srv/pyk && mkdir -p /srv/pyk")
        machine.put(wheels, "/srv/pyk/wheels")
        machine.put(ROOT / "vagrant", "/srv/pyk/vagrant")

    def provision(self, machine: Machine, kind: str, *options: str) -> str:
        """Run the script that Vagrant runs. Raises `LabError` with its words."""
        words = " ".join(f"'{word}'" for word in (kind, *options))
        return machine.tell(
            f"PYK_WHEEL=/srv/pyk/wheels sh /srv/pyk/vagrant/provision.sh {words}", seconds=READY_SECONDS
        )

    def token(self, server: Machine, *options: str) -> str:
        return server.tell(f"pyk token create {' '.join(options)}").strip()

    def url(self, server: Machine) -> str:
        return f"https://{server.address}:{API_PORT}"

    def wait_for_api(self, server: Machine) -> None:
        """Return when the API server answers."""
        command = f"curl -ks https://127.0.0.1:{API_PORT}/readyz || python3 -c '{_PROBE}'"
        wait_until(f"{server.name} serves the API", lambda: server.ask(command).code == 0, READY_SECONDS)

    def write_kubeconfig(self, server: Machine) -> None:
        """The administrator's kubeconfig, with this machine's port that leads to the server."""
        text = server.tell("cat /etc/pyk/admin.kubeconfig")
        lines = []
        for line in text.splitlines():
            head, found, _ = line.partition("server: https://")
            lines.append(f"{head}{found}127.0.0.1:{server.ports[API_PORT]}" if found else line)
        self.kubeconfig.write_text("\n".join(lines) + "\n")
        self.kubeconfig.chmod(0o600)

    def kubectl(self, *words: str, text: str | None = None, seconds: float = 120.0) -> Done:
        """What kubectl says; a code of 124 when time is up."""
        try:
            done = subprocess.run(
                [str(KUBECTL), *map(patient_word, words)],
                env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
                input=text,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=patient(seconds),
            )
        except subprocess.TimeoutExpired:
            return Done(124, f"no answer for {patient(seconds):.0f} s")
        return Done(done.returncode, done.stdout)

    def do(self, *words: str, text: str | None = None) -> str:
        """The output of a kubectl that must succeed. Raises `LabError`."""
        done = self.kubectl(*words, text=text)
        if done.code:
            raise LabError(f"kubectl {' '.join(words)}: {done.out.strip()}")
        return done.out

    def get(self, *words: str) -> Any:
        """Objects as documents."""
        return json.loads(self.do("get", *words, "-o", "json"))

    def apply(self, *documents: dict[str, Any]) -> None:
        """Apply documents."""
        self.do("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)}))

    def inside(self, pod: str, command: str, seconds: float = 60.0) -> Done:
        """Run a shell command in a pod's first container."""
        return self.kubectl("exec", pod, "--", "sh", "-c", command, seconds=seconds)

    def is_ready(self, node: str) -> bool:
        done = self.kubectl("get", "node", node, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}")
        return done.code == 0 and done.out.strip() == "True"

    def wait_ready(self, *nodes: str, seconds: float = READY_SECONDS) -> None:
        """Return when the nodes are ready."""
        for node in nodes:
            wait_until(f"{node} is ready", lambda node=node: self.is_ready(node), seconds)  # type: ignore[misc]

    def pod(self, name: str, node: str = "", command: str = "exec sleep 1000000", **spec: Any) -> dict[str, Any]:
        """A pod that runs a shell command, on a node when one is named."""
        container = {"name": "main", "image": _IMAGE, "command": ["sh", "-c", command], **spec.pop("container", {})}
        placed = {"nodeName": node} if node else {}
        body = {"containers": [container], "terminationGracePeriodSeconds": 1, **placed, **spec}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": body}

    def run_pods(self, *pods: dict[str, Any]) -> list[dict[str, Any]]:
        """Create pods; the documents once all are ready."""
        self.apply(*pods)
        names = [f"pod/{pod['metadata']['name']}" for pod in pods]
        self.do("wait", "--for=condition=Ready", "--timeout=100s", *names)
        return [self.get(name) for name in names]

    def delete(self, *names: str) -> None:
        self.do("delete", "--wait=true", "--ignore-not-found", *names)

    def down(self) -> None:
        """End all machines. Idempotent."""
        for machine in self.machines:
            machine.stop()


_PROBE = (
    "import ssl,urllib.request as u;c=ssl._create_unverified_context();"
    f'u.urlopen("https://127.0.0.1:{API_PORT}/readyz",context=c,timeout=5)'
)


def together(items: Sequence[Machine], work: Callable[[Machine], T]) -> list[T]:
    """Do the same with all machines at once. Raises the first error as soon as it is there: the others' work ends when
    their machines do."""
    threads = ThreadPoolExecutor(max(len(items), 1))
    futures = [threads.submit(work, item) for item in items]
    try:
        ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in ended:
            future.result()
        return [future.result() for future in futures]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def wait_until(what: str, holds: Callable[[], object], seconds: float, every: float = 0.5) -> float:
    """How long it took until something held. Raises `LabError` when it does not."""
    started = time.monotonic()
    while time.monotonic() - started < patient(seconds):
        if holds():
            return time.monotonic() - started
        time.sleep(every)
    raise LabError(f"after {patient(seconds):.0f} s still not so: {what}")


@contextmanager
def running(lab: Lab, *agent_options: str) -> Iterator[Lab]:
    """A lab that is up, and ended afterwards."""
    try:
        lab.up(*agent_options)
        yield lab
    finally:
        lab.down()
