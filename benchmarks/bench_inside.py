"""The same work inside a container and outside: how much a container costs that runs.

    python -m benchmarks.bench_inside [--rounds 15]

Three programs, each a few tenths of a second long: arithmetic and hashing; writing, reading and removing files; sending
over the loopback interface. Each measures itself, by the processor time that it and the kernel took for it, which
neighbours disturb less than the clock. Rounds alternate between inside and outside, and what is claimed is the ratio of
the least, which disturbances do not reach; that of the medians stands beside it. The container is one as a pod gets it:
namespaces, cgroups, default capabilities and seccomp filter. Files are on a volume, and then on the container's own
root, an overlay whose writable side is on the same file system.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from agent.runtime import cgroups
from agent.runtime.contract import ContainerConfig, Phase, RootFilesystem, SandboxConfig
from agent.runtime.native import NativeRuntime
from benchmarks.bench_runtime import document

_PYTHON = "/usr/bin/python3"
_PROGRAM = r"""
import hashlib, json, os, socket, sys, threading, time

def compute():
    total = 0
    for number in range(3_000_000):
        total = (total * 31 + number) & 0xFFFFFFFF
    data = bytes(1 << 20)
    for _ in range(100):
        data = hashlib.sha256(data).digest() + data[32:]

def files(folder):
    chunk = os.urandom(1 << 16)
    for number in range(3000):
        path = f"{folder}/{number}"
        with open(path, "wb") as out:
            out.write(chunk)
        with open(path, "rb") as back:
            assert len(back.read()) == len(chunk)
        os.stat(path)
        os.unlink(path)

def loopback():
    server = socket.create_server(("127.0.0.1", 0))
    def serve():
        peer, _ = server.accept()
        while data := peer.recv(1 << 16):
            peer.sendall(data[:64])
    thread = threading.Thread(target=serve)
    thread.start()
    client = socket.create_connection(server.getsockname())
    for size, count in ((64, 15000), (1 << 15, 6000)):
        message = bytes(size)
        for _ in range(count):
            client.sendall(message)
            client.recv(1 << 16)
    client.close()
    thread.join()
    server.close()

found = {}
for name, work in (
    ("processor", compute),
    ("files on a volume", lambda: files(sys.argv[1])),
    ("files on its own root", lambda: files(sys.argv[2])),
    ("loopback", loopback),
):
    before = time.process_time()
    work()
    found[name] = time.process_time() - before
print(json.dumps(found))
"""


class Inside:
    """Containers in one sandbox, on the host's programs."""

    def __init__(self, directory: Path, group: str) -> None:
        self._directory = directory
        self._group = group
        self._runtime = NativeRuntime(directory / "state", cgroups=cgroups.detect())
        self._root = directory / "root"
        for name in ("usr", "tmp", "proc", "sys", "dev", "etc", "volume"):
            (self._root / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            (self._root / name).symlink_to(f"usr/{name}")
        self._number = 0

    async def start(self) -> None:
        await self._runtime.start()
        self._sandbox = await self._runtime.run_sandbox(SandboxConfig("inside", "inside", f"{self._group}/inside"))

    async def once(self) -> dict[str, float]:
        self._number += 1
        identifier = f"c{self._number}"
        spec = document(f"{self._group}/inside/{identifier}")
        spec["process"]["args"] = [_PYTHON, "-c", _PROGRAM, "/volume", "/tmp"]
        spec["linux"]["resources"].pop("cpu")
        spec["linux"]["resources"]["memory"] = {"limit": 1 << 30}
        kinds = (("network", "net"), ("ipc", "ipc"), ("uts", "uts"))
        spec["linux"]["namespaces"] += [
            {"type": kind, "path": f"/proc/{self._sandbox.pid}/ns/{name}"} for kind, name in kinds
        ]
        volume = str(self._directory / "volume")
        spec["mounts"].append({"destination": "/volume", "type": "bind", "source": volume, "options": ["rbind", "rw"]})
        rootfs = RootFilesystem([self._root], self._directory / "writable" / identifier, {"/usr": "/usr"})
        log = self._directory / f"{identifier}.log"
        await self._runtime.create_container(ContainerConfig(identifier, "inside", spec, rootfs, log))
        await self._runtime.start_container(identifier)
        async for event in self._runtime.events():
            if event.id == identifier and event.kind == "exited":
                break
        state = await self._runtime.container(identifier)
        assert state is not None
        text = log.read_text()
        if state.phase is not Phase.EXITED or state.exit_code:
            raise SystemExit(f"the container failed: {state}\n{text}")
        await self._runtime.remove_container(identifier)
        found: dict[str, float] = json.loads(text.split(" ", 3)[3])
        return found

    async def close(self) -> None:
        await self._runtime.remove_sandbox("inside")
        await self._runtime.shutdown()


def outside(directory: Path) -> dict[str, float]:
    words = [_PYTHON, "-c", _PROGRAM, str(directory / "volume"), str(directory / "plain")]
    found: dict[str, float] = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    return found


async def measure(rounds: int, directory: Path, group: str) -> None:
    for name in ("volume", "plain"):
        (directory / name).mkdir()
    inside = Inside(directory, group)
    await inside.start()
    samples: dict[str, list[tuple[float, float]]] = {}
    try:
        for number in range(rounds + 1):
            apart, within = await asyncio.to_thread(outside, directory), await inside.once()
            if number:  # the first warms caches
                for name, seconds in within.items():
                    samples.setdefault(name, []).append((seconds, apart[name]))
    finally:
        await inside.close()
    head = f"processor time inside and outside, the least of {rounds}, ms"
    print(f"{head:<70} {'inside':>8} {'outside':>8}   ratio  of the medians")
    for name, pairs in samples.items():
        columns = list(zip(*pairs, strict=True))
        least = [min(column) * 1000 for column in columns]
        middle = [statistics.median(column) for column in columns]
        ratios = f"{least[0] / least[1]:5.3f}  {middle[0] / middle[1]:5.3f}"
        print(f"{name:<70} {least[0]:8.0f} {least[1]:8.0f}   {ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="What work costs inside a container.")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    if os.geteuid():
        parser.error("this needs root")
    group = f"/pyk-bench-{os.getpid()}"
    directory = Path(tempfile.mkdtemp(prefix="pyk-bench-"))
    control = cgroups.detect()
    control.create(f"{group}/inside")
    try:
        asyncio.run(measure(arguments.rounds, directory, group))
    finally:
        control.remove(group)
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
