"""Start-to-exit of a container: the native runtime against crun and runc on the same document and root.

    python benchmarks/bench_runtime.py [--containers 100]

Run as root. Each container runs /bin/true with new PID, mount, network, IPC, UTS and cgroup namespaces, cpu, memory
and pids limits, capabilities and a seccomp filter. For crun and runc it is `RUNTIME run`, which creates, starts, waits
and deletes; their root is an overlay that is mounted once, outside of the timing. For ours every container mounts its
own overlay, and a sandbox with the network, IPC and UTS namespaces is made for each, all within the timing:
`sandbox + container` is the figure to compare. Rounds of the three alternate, so that a noisy machine treats all alike;
a ratio of medians within one run is the claim, no absolute figure is.

crun does not work where /sys/fs/cgroup/unified is mounted beside cgroup v1: it runs in a mount namespace without it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from agent.runtime import cgroups
from agent.runtime.contract import ContainerConfig, RootFilesystem, SandboxConfig
from agent.runtime.native import NativeRuntime
from agent.runtime.seccomp_default import runtime_default
from agent.runtime.spec import DEFAULT_CAPABILITIES, default_spec

_HIDE_UNIFIED = 'mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified; exec "$@"'
_AGAIN = "PYK_BENCH_HAS_OWN_MOUNTS"
_ROUND = 5


def make_root(directory: Path) -> Path:
    """A root file system with one static program, Debian's busybox."""
    (directory / "bin").mkdir(parents=True)
    for name in ("proc", "sys", "dev", "tmp", "etc"):
        (directory / name).mkdir()
    shutil.copy(shutil.which("busybox") or "/bin/busybox", directory / "bin/busybox")
    for name in ("true", "sh", "sleep"):
        (directory / "bin" / name).symlink_to("busybox")
    return directory


def document(cgroup: str) -> dict[str, Any]:
    spec = default_spec()
    spec["process"]["args"] = ["/bin/true"]
    spec["hostname"] = "bench"
    spec["linux"]["cgroupsPath"] = cgroup
    spec["linux"]["seccomp"] = runtime_default(DEFAULT_CAPABILITIES)
    spec["linux"]["resources"] |= {
        "cpu": {"shares": 512, "quota": 100000, "period": 100000},
        "memory": {"limit": 64 << 20},
        "pids": {"limit": 100},
    }
    return spec


def with_own_mounts() -> None:
    """Run this program again in a mount namespace where crun works, and end with it; return in that one."""
    if os.environ.pop(_AGAIN, None):
        return
    command = ["unshare", "-m", "sh", "-c", _HIDE_UNIFIED, "sh", *sys.orig_argv]
    raise SystemExit(subprocess.call(command, env={**os.environ, _AGAIN: "yes"}))


class Native:
    """The native runtime, driven as the agent does."""

    name = "pyk"

    def __init__(self, directory: Path, group: str) -> None:
        self._directory = directory
        self._group = group
        self._cgroups = cgroups.detect()
        self._runtime = NativeRuntime(directory / "state", cgroups=self._cgroups)
        self._root = make_root(directory / "native-root")
        self._numbers = itertools.count()
        self.sandbox_ms: list[float] = []
        self.container_ms: list[float] = []

    async def start(self) -> None:
        await self._runtime.start()
        self._events = self._runtime.events()

    async def once(self) -> float:
        identifier = f"b{next(self._numbers)}"
        pod = f"{self._group}/{identifier}"
        self._cgroups.create(pod)
        began = time.perf_counter()
        sandbox = await self._runtime.run_sandbox(SandboxConfig(identifier, "bench", pod))
        made = time.perf_counter()
        spec = document(f"{pod}/container")
        kinds = (("network", "net"), ("ipc", "ipc"), ("uts", "uts"))
        spec["linux"]["namespaces"] += [
            {"type": kind, "path": f"/proc/{sandbox.pid}/ns/{name}"} for kind, name in kinds
        ]
        rootfs = RootFilesystem([self._root], self._directory / "writable" / identifier)
        log = self._directory / "logs" / f"{identifier}.log"
        await self._runtime.create_container(ContainerConfig(identifier, identifier, spec, rootfs, log))
        await self._runtime.start_container(identifier)
        async for event in self._events:
            if event.id == identifier:
                break
        ended = time.perf_counter()
        state = await self._runtime.container(identifier)
        if state is None or state.exit_code != 0:
            raise SystemExit(f"the container failed: {state}")
        await self._runtime.remove_sandbox(identifier)
        self._cgroups.remove(pod)
        self.sandbox_ms.append((made - began) * 1000)
        self.container_ms.append((ended - made) * 1000)
        return (ended - began) * 1000

    async def close(self) -> None:
        await self._runtime.shutdown()


class Oci:
    """`runc run` or `crun run`."""

    def __init__(self, name: str, directory: Path, group: str) -> None:
        self.name = name
        self._directory = directory / name
        root = make_root(self._directory / "lower")
        bundle = self._directory / "bundle"
        for path in (bundle / "rootfs", self._directory / "upper", self._directory / "work"):
            path.mkdir(parents=True)
        spec = document(f"{group}/{name}") | {"ociVersion": "1.0.2"}  # Debian 12's crun knows no later one
        spec["linux"]["namespaces"] += [{"type": kind} for kind in ("network", "ipc", "uts")]
        (bundle / "config.json").write_text(json.dumps(spec))
        options = f"lowerdir={root},upperdir={self._directory / 'upper'},workdir={self._directory / 'work'}"
        self._rootfs = bundle / "rootfs"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, self._rootfs], check=True)
        self._command = [name, "--root", str(self._directory / "state"), "run", "--bundle", str(bundle)]
        self._numbers = itertools.count()

    def once(self) -> float:
        began = time.perf_counter()
        subprocess.run([*self._command, f"pyk-bench-{os.getpid()}-{next(self._numbers)}"], check=True)
        return (time.perf_counter() - began) * 1000

    def close(self) -> None:
        subprocess.run(["umount", self._rootfs], check=True)


def line(name: str, samples: list[float], base: float | None) -> str:
    ordered = sorted(samples)
    median, p99 = statistics.median(ordered), ordered[int(len(ordered) * 0.99)]
    ratio = f"{median / base:5.2f} x" if base else ""
    return f"{name:24} {median:8.2f} {p99:8.2f}   {ratio}"


async def run(count: int, directory: Path, group: str) -> None:
    peers = [Oci(name, directory, group) for name in ("crun", "runc") if shutil.which(name)]
    native = Native(directory, group)
    samples: dict[str, list[float]] = {name: [] for name in (native.name, *(peer.name for peer in peers))}
    try:
        await native.start()
        for number in range(0, count + _ROUND, _ROUND):
            kept = number > 0  # the first round warms caches
            for _ in range(_ROUND):
                took = await native.once()
                if kept:
                    samples[native.name].append(took)
            for peer in peers:
                for _ in range(_ROUND):
                    took = await asyncio.to_thread(peer.once)
                    if kept:
                        samples[peer.name].append(took)
        resident = Path(f"/proc/{native._runtime._spawner_pid}/status").read_text()
    finally:
        await native.close()
        for peer in peers:
            peer.close()
    base = statistics.median(samples[native.name])
    print(f"start to exit of /bin/true, {count} each, ms {'p50':>18} {'p99':>8}   of ours")
    print(line("pyk: sandbox + container", samples[native.name], base))
    print(line("  the sandbox", native.sandbox_ms[_ROUND:], None))
    print(line("  the container", native.container_ms[_ROUND:], base))
    for peer in peers:
        print(line(peer.name, samples[peer.name], base))
    wanted = ("VmRSS", "RssAnon")
    print("spawner:", "; ".join(" ".join(row.split()) for row in resident.splitlines() if row.startswith(wanted)))


def remove_groups(group: str) -> None:
    """runc makes groups in every hierarchy, and plain directories and files where one was unmounted."""
    for path in Path("/sys/fs/cgroup").glob(f"*{group}"):
        for parent, _, files in os.walk(path, topdown=False):
            for name in files:
                with contextlib.suppress(PermissionError):  # a real group's own files go with it
                    os.unlink(Path(parent, name))
            os.rmdir(parent)


def main() -> None:
    parser = argparse.ArgumentParser(description="Container start-to-exit against crun and runc.")
    parser.add_argument("--containers", type=int, default=100, help="how many of each (default: 100)")
    arguments = parser.parse_args()
    if os.geteuid():
        parser.error("this needs root")
    with_own_mounts()
    group = f"/pyk-bench-{os.getpid()}"
    directory = Path(tempfile.mkdtemp(prefix="pyk-bench-"))
    control = cgroups.detect()
    control.create(group)
    try:
        asyncio.run(run(arguments.containers, directory, group))
    finally:
        control.remove(group)
        shutil.rmtree(directory)
        remove_groups(group)


if __name__ == "__main__":
    main()
