"""The same work inside a container and outside: how much a container costs that runs.

    python -m benchmarks.bench_inside [--rounds 25] [--work WORD ...]

A worker (`bench_inside_work`) is started outside of all containers, in one of ours as a pod gets it (namespaces,
cgroups, memory limit, default capabilities and seccomp filter), and in one of crun and of runc from the same document
where they are installed. Each does the same pieces of work in two places:

- outside: on a disk, and on an overlay of that disk, mounted by hand over the root that the containers have;
- inside: on a volume, which is the same folder of the disk, and on the container's own root, such an overlay.

So a container's root is compared to overlayfs itself, than which no runtime can be better, and that to the file system
below it: what the kernel's overlayfs costs and what the container costs stand apart. The disk is a new ext4 in a file,
as one that others use is busy with their files, and one without a journal looks at every file removed in the last five
seconds for each that it makes.

What counts is the processor time of the program and of the kernel for it, which neighbours disturb less than the clock.
The places take turns piece by piece, a few tens of milliseconds each and every round in another order. A cell is the
ratio of the least times, which disturbances do not reach, and that of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import select
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from agent.runtime import cgroups
from agent.runtime.contract import ContainerConfig, RootFilesystem, SandboxConfig
from agent.runtime.native import NativeRuntime
from benchmarks import bench_inside_work
from benchmarks.bench_runtime import document, remove_groups, with_own_mounts

_PYTHON = "/usr/bin/python3"
_DISK = 4 << 30  # bytes, of which the file takes what is used
_PATIENCE = 120.0  # seconds for one piece of work
_PEERS = ("crun", "runc")
_IDENTIFIER = "worker"


class Worker:
    """One end of the pipes to a worker. `folder` is where they are, `seen_as` where the worker sees that folder."""

    def __init__(self, name: str, folder: Path, seen_as: str) -> None:
        self.name = name
        paths = [folder / f"{name}.{direction}" for direction in ("ask", "answer")]
        for path in paths:
            os.mkfifo(path)
        # For reading and writing: opening does not wait for the worker.
        self._ask, self._answer = (os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in paths)
        self.command = [_PYTHON, "-I", f"{seen_as}/work.py", *(f"{seen_as}/{path.name}" for path in paths)]

    def measure(self, work: str, place: str) -> float:
        """Seconds of processor time for a piece of work."""
        os.write(self._ask, f"{work}\t{place}\n".encode())
        if not select.select([self._answer], [], [], _PATIENCE)[0]:
            raise SystemExit(f"the worker of {self.name} does not answer")
        return float(os.read(self._answer, 100))

    def close(self) -> None:
        os.close(self._ask)
        os.close(self._answer)


def make_folder(directory: Path) -> None:
    """The root of the containers and the volume, each with a library to read."""
    root, volume = directory / "root", directory / "volume"
    for name in ("usr", "tmp", "proc", "sys", "dev", "etc", "volume"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    library = Path("/usr/lib", Path(_PYTHON).resolve().name)
    left_out = shutil.ignore_patterns("test", "lib-dynload", "config-*")
    for place in (root / "data", volume):
        shutil.copytree(library, place / "library", ignore=left_out)
    shutil.copy(bench_inside_work.__file__, volume / "work.py")


def specification(directory: Path, group: str, command: list[str]) -> dict[str, Any]:
    spec = document(group)
    spec["process"]["args"] = command
    del spec["linux"]["resources"]["cpu"]
    spec["linux"]["resources"]["memory"] = {"limit": 1 << 30}
    spec["mounts"] += [
        {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
        {"destination": "/volume", "type": "bind", "source": str(directory / "volume"), "options": ["rbind", "rw"]},
    ]
    return spec


@contextlib.contextmanager
def process(command: list[str], environment: dict[str, str] | None = None) -> Iterator[None]:
    """A process that ends by itself, its worker having been let go of."""
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
    try:
        yield
        running.wait(_PATIENCE)
    finally:
        running.kill()
        running.wait()


@contextlib.contextmanager
def disk(directory: Path) -> Iterator[Path]:
    """A new ext4 file system with a journal, mounted."""
    image, mounted = directory / "disk.image", directory / "disk"
    with image.open("wb") as file:
        file.truncate(_DISK)
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True)
    mounted.mkdir()
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)


@contextlib.contextmanager
def overlay(directory: Path, root: Path) -> Iterator[Path]:
    """An overlay over the root, with the kernel's own defaults."""
    upper, work, mounted = (directory / name for name in ("upper", "work", "rootfs"))
    for path in (upper, work, mounted):
        path.mkdir(parents=True)
    options = f"lowerdir={root},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)


@contextlib.contextmanager
def oci_container(name: str, directory: Path, group: str, worker: Worker) -> Iterator[None]:
    """The worker in a container of crun or runc."""
    spec = specification(directory, f"{group}/{name}", worker.command) | {"ociVersion": "1.0.2"}
    spec["linux"]["namespaces"] += [{"type": kind} for kind in ("network", "ipc", "uts")]
    bundle = directory / name
    with overlay(bundle, directory / "root"):
        (bundle / "config.json").write_text(json.dumps(spec))
        command = [name, "--root", str(bundle / "state"), "run", "--bundle", str(bundle)]
        with process([*command, f"pyk-bench-{os.getpid()}"]):
            yield


@contextlib.asynccontextmanager
async def own_container(directory: Path, group: str, worker: Worker) -> AsyncIterator[None]:
    """The worker in a container of ours."""
    runtime = NativeRuntime(directory / "state", cgroups=cgroups.detect())
    await runtime.start()
    sandbox = await runtime.run_sandbox(SandboxConfig("inside", "inside", f"{group}/inside"))
    try:
        spec = specification(directory, f"{group}/inside/{_IDENTIFIER}", worker.command)
        kinds = (("network", "net"), ("ipc", "ipc"), ("uts", "uts"))
        spec["linux"]["namespaces"] += [
            {"type": kind, "path": f"/proc/{sandbox.pid}/ns/{name}"} for kind, name in kinds
        ]
        rootfs = RootFilesystem([directory / "root"], directory / "writable")
        await runtime.create_container(ContainerConfig(_IDENTIFIER, "inside", spec, rootfs, directory / "log"))
        await runtime.start_container(_IDENTIFIER)
        yield
    finally:
        await runtime.remove_sandbox("inside")
        await runtime.shutdown()


Samples = dict[tuple[str, str, str], list[float]]
"""Seconds, by work, worker and kind of place (`disk` or `overlay`)."""


async def measure(rounds: int, works: list[str], directory: Path, group: str) -> Samples:
    make_folder(directory)
    volume = directory / "volume"
    peers = [name for name in _PEERS if shutil.which(name)]
    samples: Samples = {}
    async with contextlib.AsyncExitStack() as held:
        workers = {name: Worker(name, volume, "/volume") for name in ("pyk", *peers)}
        workers["outside"] = Worker("outside", volume, str(volume))
        by_hand = held.enter_context(overlay(directory / "by-hand", directory / "root"))
        environment = document("")["process"]["env"]  # as inside: it moves the stack, and by that the speed
        held.enter_context(process(workers["outside"].command, dict(word.split("=", 1) for word in environment)))
        await held.enter_async_context(own_container(directory, group, workers["pyk"]))
        for name in peers:
            held.enter_context(oci_container(name, directory, group, workers[name]))
        for worker in workers.values():
            held.callback(worker.close)
        places = {name: {"disk": "/volume", "overlay": "/data"} for name in workers}
        places["outside"] = {"disk": str(volume), "overlay": str(by_hand / "data")}
        for number in range(rounds + 1):
            for work in works:
                turns = [(name, kind) for name in workers for kind in kinds_of(work)]
                random.shuffle(turns)
                for name, kind in turns:
                    seconds = await asyncio.to_thread(workers[name].measure, work, places[name][kind])
                    if number:  # the first warms caches
                        samples.setdefault((work, name, kind), []).append(seconds)
    return samples


def kinds_of(work: str) -> tuple[str, ...]:
    return ("disk",) if work in bench_inside_work.OUT_OF_PLACE else ("disk", "overlay")


def report(samples: Samples, works: list[str]) -> None:
    names = [name for name in ("pyk", *_PEERS) if (works[0], name, "disk") in samples]
    rounds = len(samples[works[0], "outside", "disk"])
    print(f"processor time, ratios of the least of {rounds} rounds (of the medians)")
    titles = ["overlay/disk", *(f"{name}: volume" for name in names), *(f"{name}: root" for name in names)]
    print(f"{'':<40} {'outside':>8}  " + " ".join(f"{title:>13}" for title in titles))
    for work in works:
        disk = samples[work, "outside", "disk"]
        cells = [_ratio(samples[work, name, "disk"], disk) for name in names]
        if "overlay" in kinds_of(work):
            by_hand = samples[work, "outside", "overlay"]
            cells.insert(0, _ratio(by_hand, disk))
            cells += [_ratio(samples[work, name, "overlay"], by_hand) for name in names]
        else:
            cells.insert(0, "")
        print(f"{work:<40} {min(disk) * 1000:5.1f} ms  " + " ".join(f"{cell:>13}" for cell in cells), flush=True)
    print("volume: to the disk outside; root: to the overlay mounted by hand outside")


def _ratio(samples: list[float], base: list[float]) -> str:
    return f"{min(samples) / min(base):.3f} ({statistics.median(samples) / statistics.median(base):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="What work costs inside a container.")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--work", nargs="+", default=[""], help="words: only works with one of them in their name")
    arguments = parser.parse_args()
    if os.geteuid():
        parser.error("this needs root")
    with_own_mounts()
    works = [work for work in bench_inside_work.WORK if any(word in work for word in arguments.work)]
    group = f"/pyk-bench-{os.getpid()}"
    directory = Path(tempfile.mkdtemp(prefix="pyk-bench-"))
    control = cgroups.detect()
    control.create(f"{group}/inside")
    try:
        with disk(directory) as mounted:
            samples = asyncio.run(measure(arguments.rounds, works, mounted, group))
        report(samples, works)
    finally:
        control.remove(group)
        shutil.rmtree(directory)
        remove_groups(group)


if __name__ == "__main__":
    main()
