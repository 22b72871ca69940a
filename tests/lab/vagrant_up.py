"""`vagrant up` for real: Vagrant, its libvirt provider, libvirt's qemu driver on an emulated processor, our box.

`vagrant_up` makes the box and starts this module again as the first process of namespaces of its own: processes, mounts
and network. In there libvirt's daemons run with folders that are laid over the machine's, its bridges, name servers
and firewall rules are in a network that nobody else sees, and all of it, machines too, ends with that first process.
A copy of the checkout lies in there, so what people type is what is run: `vagrant up`, `vagrant halt`, kubectl with the
kubeconfig that it wrote.

Guarantees: nothing of the machine is changed. Fails with `LabError`, with the end of what Vagrant said.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tests.lab.box import make_box
from tests.lab.cluster import KUBECTL, READY_SECONDS, wait_until
from tests.lab.image import ROOT, Image, LabError, run

NAME = "vagrant up makes a cluster"
BOX = "pyk-lab"
NEEDED = ("vagrant", "libvirtd", "virtlogd", "virsh", "dnsmasq", "iptables", "rsync", "qemu-system-x86_64")
UP_SECONDS = 2400.0
_LAID_OVER = ("/etc", "/var")
_NOT_COPIED = (".git", ".venv", ".pyk", ".vagrant", "build", "*.egg-info", ".*_cache", ".hypothesis", "__pycache__")
_QEMU_CONF = """user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
"""
# Debian's libvirt-daemon-system makes them, and starts libvirt on the machine: it is not installed for this.
_USERS = {"passwd": "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin", "group": "libvirt-qemu:x:64055:"}
_LIBVIRTD_CONF = 'auth_unix_rw = "none"\nunix_sock_group = "root"\n'
_TOLERATIONS = [
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
    for key in ("not-ready", "unreachable")
]
PYK = KUBECTL.with_name("pyk")
_SETTINGS = {
    "PYK_BOX": BOX,
    "PYK_WORKERS": "2",
    "PYK_LIBVIRT_DRIVER": "qemu",
    "VAGRANT_DEFAULT_PROVIDER": "libvirt",
    "VAGRANT_CHECKPOINT_DISABLE": "1",
    "LC_ALL": "C.UTF-8",
}


def missing() -> list[str]:
    """The programs that it needs and that are not installed."""
    return [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]


def vagrant_up(image: Image, folder: Path) -> str:
    """Make a cluster with `vagrant up` and walk through the first five steps of README.md's lesson: what each took.
    Raises `LabError`."""
    lacking = missing()
    if lacking:
        raise LabError(f"`vagrant up` needs {', '.join(lacking)}: run tests/debian-packages")
    box = make_box(image, folder / "box.tar")
    unshare = ("unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")
    inside = (sys.executable, "-m", "tests.lab.vagrant_up", str(folder), str(box))
    with (folder / "vagrant-up.log").open("wb") as log:
        done = subprocess.run(
            [*unshare, *inside], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
        )
    said = done.stdout.strip().splitlines()
    if done.returncode:
        raise LabError("\n".join(said[-40:]) or (folder / "vagrant-up.log").read_text(errors="replace")[-3000:])
    return said[-1]


class Host:
    """The inside: a machine on which libvirt runs and somebody types commands."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.checkout = folder / "checkout"
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PYK_", "VAGRANT_"))},
            **_SETTINGS,
            "HOME": str(folder / "home"),
            "VAGRANT_HOME": str(folder / "home" / ".vagrant.d"),
            "KUBECONFIG": str(self.checkout / "vagrant" / ".pyk" / "kubeconfig"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        }

    def prepare(self) -> None:
        """Folders of its own, libvirt's daemons, and the checkout. Raises `LabError`."""
        (self._folder / "home").mkdir()
        for place in _LAID_OVER:
            upper, work = (self._folder / f"{place[1:]}.{part}" for part in ("upper", "work"))
            upper.mkdir()
            work.mkdir()
            layers = f"lowerdir={place},upperdir={upper},workdir={work}"
            run("mount", "-t", "overlay", "-o", layers, "overlay", place)
        run("mount", "-t", "tmpfs", "tmpfs", "/run")
        run("umount", "--recursive", "--lazy", "/sys")
        run("mount", "-t", "sysfs", "sysfs", "/sys")  # of this network; libvirt finds no control groups to use
        run("ip", "link", "set", "lo", "up")
        for name, text in (("qemu.conf", _QEMU_CONF), ("libvirtd.conf", _LIBVIRTD_CONF)):
            Path("/etc/libvirt").mkdir(exist_ok=True)
            Path("/etc/libvirt", name).write_text(text)
        for file, line in _USERS.items():
            known = Path("/etc", file).read_text()
            if "libvirt-qemu:" not in known:
                Path("/etc", file).write_text(f"{known.rstrip()}\n{line}\n")
        shutil.copytree(ROOT, self.checkout, ignore=shutil.ignore_patterns(*_NOT_COPIED))
        self.start("virtlogd")
        self.start("libvirtd")
        wait_until("libvirtd answers", lambda: self.run("virsh", "-c", "qemu:///system", "list").returncode == 0, 60)

    def start(self, program: str) -> None:
        """A daemon in the background, with its words in a file; it ends with the namespace."""
        with (self._folder / f"{program}.log").open("ab") as log:
            subprocess.Popen([program], env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def run(self, *command: str | Path, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        """A command in the checkout's `vagrant` folder. Raises `LabError` when it does not end in time."""
        words = [str(word) for word in command]
        with (self._folder / "said").open("w+b") as said:  # a file: it can be read while the command runs
            try:
                done = subprocess.run(
                    words,
                    cwd=self.checkout / "vagrant",
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    timeout=seconds,
                )
            except subprocess.TimeoutExpired:
                raise LabError(f"{' '.join(words)} takes longer than {seconds:.0f} s:\n{_end_of(said)}") from None
            said.seek(0)
            return subprocess.CompletedProcess(words, done.returncode, said.read().decode(errors="replace"))

    def do(self, *command: str | Path, seconds: float = 120.0) -> str:
        """The output of a command that must succeed. Raises `LabError`."""
        print("$", *command, file=sys.stderr, flush=True)
        done = self.run(*command, seconds=seconds)
        print(done.stdout, file=sys.stderr, flush=True)
        if done.returncode:
            raise LabError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-3000:]}")
        return done.stdout

    def is_ready(self, node: str) -> str:
        """The status of the node's condition Ready; empty when the API does not answer."""
        path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        done = self.run(KUBECTL, "--request-timeout=20s", "get", "node", node, "-o", path)
        return done.stdout.strip() if done.returncode == 0 else ""

    def pods(self, node: str) -> dict[str, int]:
        """The lesson's ready pods on the node that are to stay, and how often the container of each has started."""
        done = self.run(KUBECTL, "--request-timeout=20s", "get", "pods", "-l", "app=hello", "-o", "json")
        items = json.loads(done.stdout)["items"] if done.returncode == 0 else []
        return {
            pod["metadata"]["name"]: status["restartCount"]
            for pod in items
            for status in pod["status"].get("containerStatuses") or ()
            if status["ready"] and pod["spec"]["nodeName"] == node and "deletionTimestamp" not in pod["metadata"]
        }


def _inside(folder: Path, box: Path) -> str:
    host = Host(folder)
    host.prepare()
    host.do("vagrant", "box", "add", "--name", BOX, box, seconds=300)
    took = _timed(lambda: host.do("vagrant", "up", seconds=UP_SECONDS))
    host.do(KUBECTL, "get", "nodes", "-o", "wide")
    said = _lesson(host)
    host.do("vagrant", "destroy", "--force", seconds=300)
    return f"up after {took:.0f} s; {said}"


def _lesson(host: Host) -> str:
    """What README.md has a class do, with pods that leave a lost machine after 5 s and not after 300."""
    host.do(KUBECTL, "apply", "-f", "../manifests/app.yaml")
    patch = json.dumps({"spec": {"template": {"spec": {"tolerations": _TOLERATIONS}}}})
    host.do(KUBECTL, "patch", "deployment", "hello", "-p", patch)
    host.do(KUBECTL, "scale", "deployment/hello", "--replicas=6")
    host.do(KUBECTL, "rollout", "status", "deployment/hello", "--timeout=280s", seconds=300)
    wait_until("pods on both machines", lambda: host.pods("worker-1") and host.pods("worker-2"), 60)
    first = next(iter(host.pods("worker-1")))
    if "worker-1" not in (why := host.do(PYK, "why", first)):
        raise LabError(f"pyk why names no machine:\n{why}")

    host.run("vagrant", "ssh", "worker-1", "-c", "sudo pkill -f '[h]ello number'")
    again = wait_until("its containers run again", lambda: sum(host.pods("worker-1").values()), 120)

    host.do("vagrant", "halt", "--force", "worker-1")
    lost = wait_until("the machine is lost", lambda: host.is_ready("worker-1") in ("False", "Unknown"), 120)
    moved = wait_until("its pods are on the other one", lambda: len(host.pods("worker-2")) == 6, 120)
    back = _timed(lambda: host.do("vagrant", "up", "worker-1", seconds=UP_SECONDS))
    wait_until("the machine is back", lambda: host.is_ready("worker-1") == "True", READY_SECONDS)
    wait_until("nothing of it is left over", lambda: not host.pods("worker-1") and len(host.pods("worker-2")) == 6, 60)
    host.do(KUBECTL, "scale", "deployment/hello", "--replicas=8")
    wait_until("it has pods again", lambda: host.pods("worker-1"), 120)
    return (
        f"containers that were killed ran again after {again:.0f} s; a machine that was halted was lost after "
        f"{lost:.0f} s, its pods elsewhere {moved:.0f} s later, and it was up again after {back:.0f} s"
    )


def _end_of(said: IO[bytes]) -> str:
    said.seek(0)
    return said.read().decode(errors="replace")[-3000:]


def _timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _first_process(work: Callable[[], int]) -> int:
    """Do the work in a child, and wait for every process that is left to us: libvirt waits until its qemu is gone."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = work()
        finally:
            sys.stdout.flush()
            os._exit(status)
    while True:
        ended, status = os.wait()
        if ended == child:
            return os.waitstatus_to_exitcode(status)


def _main() -> int:
    try:
        print(_inside(*map(Path, sys.argv[1:])))
    except LabError as failure:
        print(failure)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_first_process(_main))
