"""One real node in namespaces of its own: API server in this process, the agent and spawner as processes to be killed.

The test's thread enters a mount namespace and a network namespace, so that what is compared before and after is all
of the mounts, links, addresses, routes and packet filter there are, and nothing of anybody else's.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from agent.runtime.cgroups import Cgroups, detect
from controlplane.apiserver.server import ServerOptions, running_server
from controlplane.store.sqlite import SqliteStore
from pyk import netlink, pki
from pyk.api.kinds import BY_KIND, EVENT, NODE, POD
from pyk.api.objects import Object
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.config import load_kubeconfig
from pyk.netlink import Netlink
from pyk.network.names import BRIDGE
from pyk.reconcile.clock import RealClock
from tests.integration.survival import steps

ADDRESS = "192.0.2.11"
PATIENCE_SECONDS = 40.0
_REPOSITORY = Path(__file__).parents[3]
_CLONE_FS, _CLONE_NEWNS, _CLONE_NEWNET = 0x200, 0x20000, 0x40000000
_MS_REC_PRIVATE, _MNT_DETACH = 0x4000 | 1 << 18, 2
_libc = ctypes.CDLL(None, use_errno=True)

Snapshot = dict[str, Any]


@contextmanager
def namespaces() -> Iterator[None]:
    """This thread, and whatever it starts, in a mount and a network namespace of their own, with the node's address."""
    home = [os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("mnt", "net")]
    _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET))
    try:
        libc_mount("none", Path("/"), "", _MS_REC_PRIVATE, "")
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        with Netlink() as link:
            link.execute(
                netlink.bring_up("lo"),
                netlink.add_veth("uplink", "far", peer_namespace=here, mtu=1500),
                netlink.bring_up("uplink"),
                netlink.bring_up("far"),
            )
            link.execute(netlink.add_address(link.index_of("uplink"), f"{ADDRESS}/24"))
        os.close(here)
        yield
    finally:
        _check(_libc.unshare(_CLONE_FS))  # threads that were started in here share it, and then setns refuses
        for fd, kind in zip(home, (_CLONE_NEWNS, _CLONE_NEWNET), strict=True):
            _check(_libc.setns(fd, kind))
            os.close(fd)


def libc_mount(source: str, target: Path, kind: str, flags: int, options: str) -> None:
    """mount(2). Raises OSError."""
    words = [os.fsencode(word) if word else None for word in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None))


def libc_unmount(target: Path) -> None:
    """Unmount lazily. Raises OSError."""
    _check(_libc.umount2(os.fsencode(target), _MNT_DETACH))


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Server:
    """The API server, which can be away."""

    def __init__(self, root: Path, pki_dir: Path) -> None:
        self._root, self._pki = root, pki_dir
        self._stack = AsyncExitStack()
        self.port = 0

    async def start(self) -> None:
        """On the port of before, if there was one."""
        clock = RealClock()
        store = SqliteStore(self._root / "store.db", clock=clock)
        options = ServerOptions(self._pki, port=self.port)
        self.port = await self._stack.enter_async_context(running_server(store, options, clock))

    async def stop(self) -> None:
        await self._stack.aclose()


class SurvivalNode:
    """The node `n1`. `client` is an administrator's."""

    def __init__(
        self, root: Path, client: Client, factory: subprocess.Popen[bytes], cgroup: str, server: Server
    ) -> None:
        self.root = root
        self.state = root / "state"
        self.client = client
        self.cgroups: Cgroups = detect()
        self.cgroup = cgroup
        self.page = steps.Page(str(root / "steps"))
        self._factory = factory
        self._agent = -1
        self.agent_pid = 0
        self._server = server

    # Agent and spawner

    def start_agent(self) -> None:
        """Start one; the one before is to be dead."""
        assert self._factory.stdin is not None
        assert self._factory.stdout is not None
        self._factory.stdin.write(b"start\n")
        self._factory.stdin.flush()
        self.agent_pid = int(self._factory.stdout.readline())
        try:
            self._agent = os.pidfd_open(self.agent_pid)
        except ProcessLookupError:  # one that dies at its first steps can be gone already
            self._agent = -1

    def agent_has_died(self) -> bool:
        return self._agent < 0 or bool(select.select([self._agent], [], [], 0)[0])

    def kill_agent(self) -> None:
        """SIGKILL, and wait until it is gone. One that is gone already is fine."""
        if self._agent < 0:
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._agent, signal.SIGKILL)
        select.select([self._agent], [], [], PATIENCE_SECONDS)
        os.close(self._agent)
        self._agent = -1

    @property
    def spawner_pid(self) -> int:
        """As its file says; 0 while there is none."""
        try:
            return int((self.state / "runtime/spawner.pid").read_text() or 0)
        except FileNotFoundError:
            return 0

    def kill_spawner(self) -> None:
        pid = self.spawner_pid
        with suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [], PATIENCE_SECONDS)
            os.close(fd)

    @asynccontextmanager
    async def without_server(self) -> AsyncIterator[None]:
        """The API server is away while inside."""
        await self._server.stop()
        try:
            yield
        finally:
            await self._server.start()

    async def forget_rules(self, table: str) -> None:
        """The packet filter is empty, as after a boot."""
        await asyncio.to_thread(_lines, "nft", "delete", "table", "inet", table)

    def kill_keeper(self) -> None:
        """End the process that has the containers' pidfds, if there is one."""
        with suppress(FileNotFoundError, ProcessLookupError):
            state = (self.state / "runtime/keeper").read_text()[:4096]
            os.kill(json.loads(state)["pid"], signal.SIGKILL)

    # Objects

    async def create(self, obj: Object) -> Object:
        kind = BY_KIND[obj["apiVersion"], obj["kind"]]
        namespace = {"namespace": "default"} if kind.namespaced else {}
        return await self.client.create(kind, {**obj, "metadata": {**namespace, **obj["metadata"]}})

    async def pod(self, name: str) -> Object | None:
        try:
            return await self.client.get(POD, name, "default")
        except ApiError as error:
            if error.code != 404:
                raise
            return None

    async def until(self, what: str, check: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
        """What `check`, a function or coroutine function, returns as soon as that is true."""
        deadline = time.monotonic() + seconds
        while True:
            found = check()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            if self.page.wanted:  # a child of the spawner has come to its step
                self.kill_spawner()
                self.page.let_go()
            if time.monotonic() > deadline:
                raise AssertionError(f"not in {seconds:.0f} s: {what}\n{await self.told()}")
            await asyncio.sleep(0.01)

    async def until_pod(self, name: str, holds: Callable[[Object], Any]) -> Object:
        async def look() -> Object | None:
            pod = await self.pod(name)
            return pod if pod is not None and holds(pod) else None

        pod: Object = await self.until(f"what is awaited of pod {name}", look)
        return pod

    async def told(self) -> str:
        """For a test that failed: what pods, events and logs say."""
        pods = (await self.client.list(POD, "default")).items
        events = (await self.client.list(EVENT, "default")).items
        said = [f"{one['involvedObject'].get('name')}: {one['reason']}: {one['message']}" for one in events]
        logs = [self.root / "agent.log", self.state / "runtime/spawner.log"]
        written = [line for log in logs if log.exists() for line in log.read_text().splitlines()[-25:]]
        return "\n".join([*(json.dumps(pod.get("status")) for pod in pods), *said[-40:], *written])

    # What is on the node

    def snapshot(self) -> Snapshot:
        """All mounts, control groups, links, addresses, routes, neighbours, rules, processes and files."""
        mounts = [line.split(" ")[4] for line in Path("/proc/thread-self/mountinfo").read_text().splitlines()]
        secrets = self.state / "secrets"  # the node's one file system for them: unmounted when an agent comes
        unused = str(secrets) if secrets.exists() and not any(secrets.iterdir()) else ""
        groups = [
            f"{directory}: {found.relative_to(directory)}"
            for directory in self.cgroups.directories(self.cgroup)
            for found in _below(Path(directory))
            if found.is_dir()
        ]
        return {
            # Others' go with the folders that they are on, in whatever namespace those are removed.
            "mounts": Counter(point for point in mounts if point != unused and point.startswith(f"{self.root}/")),
            "cgroups": Counter(groups),
            "links": Counter(_words("ip", "-o", "link", "show", word=1)),
            "addresses": Counter(" ".join(line.split()[1:4]) for line in _lines("ip", "-4", "-o", "address", "show")),
            "routes": Counter(_routes()),
            "neighbours": Counter(_lines("ip", "neighbour", "show", "dev", BRIDGE)),
            "rules": Counter(_lines("nft", "list", "ruleset")),
            "processes": self._processes(),
            "files": Counter(str(path.relative_to(self.state)) for path in _below(self.state)),
        }

    def _processes(self) -> Counter[str]:
        inside = set(self.cgroups.processes(self.cgroup))
        found: Counter[str] = Counter()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with suppress(FileNotFoundError, ProcessLookupError):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if words and (int(entry.name) in inside or (str(self.state) in words and "spawner" in words)):
                    found[words[-60:] if "spawner" not in words else "the spawner"] += 1
        return found

    async def until_as(self, before: Snapshot, *, ignore: tuple[str, ...] = ()) -> None:
        """Wait until the node is as it was, and tell what differs where it never is."""
        differing: dict[str, Any] = {}

        def same() -> bool:
            now = self.snapshot()
            differing.clear()
            for kind in before.keys() - set(ignore):
                more, less = now[kind] - before[kind], before[kind] - now[kind]
                if more or less:
                    differing[kind] = {"more": list(more), "less": list(less)}
            return not differing

        try:
            await self.until("the node is as it was", same, seconds=10.0)
        except AssertionError as error:
            raise AssertionError(f"the node is not as it was: {json.dumps(differing, indent=1)}\n{error}") from None

    async def close(self) -> None:
        self.page.disarm()
        self.kill_agent()
        self._factory.kill()
        self._factory.wait()
        for end in (self._factory.stdin, self._factory.stdout):
            if end is not None:
                end.close()
        self.kill_spawner()
        self.kill_keeper()
        await asyncio.to_thread(self.cgroups.remove, self.cgroup)


def _below(folder: Path) -> list[Path]:
    """What is in a folder at any depth; what goes away meanwhile is not."""
    return [Path(parent, name) for parent, folders, files in os.walk(folder) for name in (*folders, *files)]


def _lines(program: str, *arguments: str) -> list[str]:
    path = shutil.which(program) or f"/usr/sbin/{program}"
    result = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    return [line.strip() for line in result.stdout.splitlines()]


def _routes() -> list[str]:
    """All routes; those that the kernel makes and unmakes with a link's carrier are not ours to compare."""
    lines = _lines("ip", "route", "show", "table", "all")
    return [line.removesuffix(" linkdown") for line in lines if "fe80:" not in line and "ff00:" not in line]


def _words(program: str, *arguments: str, word: int) -> list[str]:
    return [line.split()[word] for line in _lines(program, *arguments)]


@asynccontextmanager
async def survival_node(root: Path, *, state_options: str = "") -> AsyncIterator[SurvivalNode]:
    """A node whose agent has not been started. Call it within `namespaces`.

    `state_options` are those of a tmpfs to have the state on.
    """
    state = root / "state"
    state.mkdir()
    if state_options:
        libc_mount("state", state, "tmpfs", 0, state_options)
    folder = root / "pki"
    pki.ensure_cluster_pki(folder, server_addresses=["127.0.0.1"])
    pki.ensure_node_pki(folder, root / "node-pki", "n1", [ADDRESS, "127.0.0.1"])
    cgroup = f"/pyk-test-{uuid.uuid4().hex[:8]}"
    server = Server(root, folder)
    await server.start()
    try:
        for name, pair, user in (
            ("admin", folder / "admin", "admin"),
            ("kubeconfig", root / "node-pki/client", "node"),
            ("network-kubeconfig", root / "node-pki/network", "network"),
        ):
            certificate, key = pair.with_suffix(".crt"), pair.with_suffix(".key")
            pki.write_kubeconfig(
                root / name, f"https://127.0.0.1:{server.port}", folder / "ca.crt", certificate, key, user=user
            )
        flags: dict[str, Any] = {
            "--kubeconfig": root / "kubeconfig",
            "--network-kubeconfig": root / "network-kubeconfig",
            "--node-name": "n1",
            "--node-ip": ADDRESS,
            "--state-dir": state,
            "--image-dir": root / "images",
            "--cgroup-root": cgroup,
            "--pki-dir": root / "node-pki",
            "--cluster-cidr": "10.77.0.0/16",
            "--service-cidr": "10.78.0.0/16",
        }
        words = [str(word) for flag in flags.items() for word in flag]
        factory = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-m", "tests.integration.survival.agents", str(root / "agent.log"), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_REPOSITORY,
            env={**os.environ, steps.VARIABLE: str(root / "steps"), "PYTHONPATH": str(_REPOSITORY)},
        )
        async with Client(load_kubeconfig(root / "admin")) as client:
            made = SurvivalNode(root, client, factory, cgroup, server)
            await client.create(NODE, {**_NODE, "metadata": {"name": "n1"}})
            try:
                yield made
            finally:
                await made.close()
    finally:
        await server.stop()


_NODE: Object = {"apiVersion": "v1", "kind": "Node", "spec": {"podCIDR": "10.77.1.0/24", "podCIDRs": ["10.77.1.0/24"]}}
