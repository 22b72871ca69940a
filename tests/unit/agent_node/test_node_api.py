"""The node API over real TLS and WebSockets, with a runtime that runs plain processes."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.access import Access
from agent.api import NodeAPI
from agent.capacity import Capacity
from agent.measuring import Meter
from agent.metricspages import MetricsPages
from agent.runtime.cgroups import detect
from agent.runtime.contract import ContainerState, ExecConfig, Phase, RuntimeFailure
from agent.stats import Stats
from agent.volumes.local import LocalVolumes
from pyk import pki
from pyk.api.kinds import Kind
from pyk.reconcile.clock import RealClock

POD = {
    "metadata": {"namespace": "default", "name": "web", "uid": "u1"},
    "spec": {"containers": [{"name": "main"}, {"name": "waiting"}]},
}


class PlainSession:
    """A process without a container, with pipes or a terminal as an exec session has them."""

    def __init__(self, process: asyncio.subprocess.Process, fds: list[int | None]) -> None:
        self.process = process
        self.stdin_fd, self.stdout_fd, self.stderr_fd = fds
        self.sizes: list[tuple[int, int]] = []
        self.is_closed = False

    async def wait(self) -> int:
        return await self.process.wait()

    async def resize(self, columns: int, rows: int) -> None:
        self.sizes.append((columns, rows))

    async def close_stdin(self) -> None:
        if self.stdin_fd is not None:
            os.close(self.stdin_fd)
            self.stdin_fd = None

    async def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            for fd in {self.stdin_fd, self.stdout_fd, self.stderr_fd} - {None}:
                os.close(fd)  # type: ignore[arg-type]
            if self.process.returncode is None:
                self.process.kill()
            await self.process.wait()


class PlainRuntime:
    """Runs what is asked for as a process of the test's own."""

    def __init__(self) -> None:
        self.sessions: list[PlainSession] = []

    async def exec(self, container_id: str, config: ExecConfig) -> PlainSession:
        if config.command[0] == "missing":
            raise RuntimeFailure('exec: "missing": executable file not found in $PATH', exit_code=127)
        ours: list[int | None] = [None, None, None]
        theirs: list[int] = [-1, -1, -1]
        if config.terminal:
            master, slave = pty.openpty()
            ours, theirs = [master, master, None], [slave, slave, slave]
        else:
            for number, wanted in enumerate((config.stdin, config.stdout, config.stderr)):
                reader, writer = os.pipe()
                ours[number], theirs[number] = (writer, reader) if number == 0 else (reader, writer)
                if not wanted:
                    os.close(ours[number] or -1)
                    ours[number] = None
        process = await asyncio.create_subprocess_exec(
            *config.command, stdin=theirs[0], stdout=theirs[1], stderr=theirs[2]
        )
        for fd in set(theirs):
            os.close(fd)
        for own in {*ours} - {None}:
            os.set_blocking(own, False)  # type: ignore[arg-type]
        session = PlainSession(process, ours)
        self.sessions.append(session)
        return session

    async def container(self, container_id: str) -> ContainerState | None:
        return None


class Reviewer:
    """An API server that knows the token `good`, whose user may read metrics and nothing else."""

    async def create(self, kind: Kind, review: dict[str, Any]) -> dict[str, Any]:
        spec = review["spec"]
        if kind.kind == "TokenReview":
            is_good = spec["token"] == "good"
            return {"status": {"authenticated": is_good, "user": {"username": "prometheus"} if is_good else {}}}
        allowed = (spec["user"], spec["resourceAttributes"]["subresource"]) == ("prometheus", "metrics")
        return {"status": {"allowed": allowed}}


class OnePod:
    """A node with one pod, whose container `main` runs and wrote a log."""

    def __init__(self, log_path: Path) -> None:
        self.log_path = log_path

    def pods(self) -> list[dict[str, Any]]:
        return [POD]

    def find(self, namespace: str, name: str) -> dict[str, Any] | None:
        return POD if (namespace, name) == ("default", "web") else None

    def container(self, namespace: str, pod: str, container: str, *, previous: bool = False) -> ContainerState | None:
        if container != "main" or previous:
            return None
        return ContainerState(
            id="c1",
            sandbox_id="u1",
            phase=Phase.RUNNING,
            pid=7,
            created_at=1.0,
            started_at=2.0,
            finished_at=0.0,
            exit_code=None,
            signal=0,
            oom_killed=False,
            log_path=self.log_path,
            labels={},
        )


class Node:
    """A served node API and clients of it."""

    def __init__(self, folder: Path, port: int, runtime: PlainRuntime) -> None:
        self.folder = folder
        self.url = f"https://127.0.0.1:{port}"
        self.runtime = runtime

    def client(self, user: str = "masters") -> aiohttp.ClientSession:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        if user:
            context.load_cert_chain(self.folder / f"{user}.crt", self.folder / f"{user}.key")
        return aiohttp.ClientSession(self.url, connector=aiohttp.TCPConnector(ssl=context))

    async def get(self, path: str, user: str = "masters", token: str = "") -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.client(user) as client, client.get(path, headers=headers) as response:
            return response.status, await response.text()

    @asynccontextmanager
    async def exec(
        self, *command: str, options: str = "output=1&error=1", protocol: str = "v5.channel.k8s.io"
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        query = "&".join([*(f"command={word}" for word in command), options])
        async with (
            self.client() as client,
            client.ws_connect(f"/exec/default/web/main?{query}", protocols=(protocol,)) as websocket,
        ):
            yield websocket


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    pki.create_ca(folder)
    pki.issue(folder, "n1", ip_addresses=["127.0.0.1"], usages=("server",), path_prefix=folder / "kubelet")
    pki.issue(folder, "apiserver", organizations=["system:masters"], path_prefix=folder / "masters")
    pki.issue(folder, "somebody", organizations=["people"], path_prefix=folder / "people")
    return folder


@pytest.fixture
async def node(certificates: Path, tmp_path: Path) -> AsyncIterator[Node]:
    log = tmp_path / "0.log"
    log.write_bytes(b"2026-01-02T03:04:05.0Z stdout F one\n2026-01-02T03:04:06.0Z stderr F two\n")
    runtime, clock = PlainRuntime(), RealClock()
    cgroups = detect()
    meter = Meter(cgroups, "/pyk-none", tmp_path, tmp_path, list, clock=clock)
    stats = Stats(meter, "n1", clock=clock)
    api = NodeAPI(
        OnePod(log),
        runtime,  # type: ignore[arg-type]
        stats,
        clock=clock,
        memory_capacity=lambda: 0,
        not_ready=lambda: "",
        local_volumes=LocalVolumes(tmp_path / "local-volumes"),
        access=Access(Reviewer(), "n1", clock=clock),  # type: ignore[arg-type]
        metrics_pages=MetricsPages(meter, lambda: Capacity(2000, 1 << 30, 100, 1, 110), "n1"),
        configuration={"maxPods": 110},
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pair = certificates / "kubelet.crt", certificates / "kubelet.key"
    serving = asyncio.create_task(api.serve(["127.0.0.1"], port, certificates, *pair))
    made = Node(certificates, port, runtime)
    async with asyncio.timeout(10):
        while True:
            try:
                await made.get("/healthz")
                break
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.01)
    yield made
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def frames(websocket: aiohttp.ClientWebSocketResponse) -> dict[int, bytes]:
    """All that comes until the end, by channel."""
    found: dict[int, bytes] = {}
    async with asyncio.timeout(20):
        async for message in websocket:
            assert isinstance(message.data, bytes)
            found[message.data[0]] = found.get(message.data[0], b"") + message.data[1:]
    return found


async def test_who_asks_is_authenticated_and_may_what_the_api_server_says(node: Node) -> None:
    refused = "Forbidden (user=somebody, verb=get, resource=nodes, subresource(s)=[pods proxy])"
    assert await node.get("/pods", "people") == (403, refused)
    assert await node.get("/pods", "") == (401, "Unauthorized")
    assert await node.get("/pods", "", token="bad") == (401, "Unauthorized")
    assert (await node.get("/pods", "", token="good"))[0] == 403
    assert (await node.get("/metrics/cadvisor", "", token="good"))[0] == 200
    status, text = await node.get("/pods")
    assert (status, json.loads(text)["items"]) == (200, [POD])


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/metrics", "kubelet_running_pods 0"),
        ("/metrics/cadvisor", "machine_memory_bytes 1073741824"),
        ("/metrics/resource", "resource_scrape_error 0"),
        ("/metrics/probes", ""),
        ("/configz", '{"kubeletconfig":{"maxPods":110}}'),
        ("/stats/summary", '"capacityBytes"'),
        ("/healthz", "ok"),
    ],
)
async def test_pages_for_those_who_look_after_the_node(node: Node, path: str, shown: str) -> None:
    status, text = await node.get(path)
    assert status == 200
    assert shown in text


async def test_metrics_are_prometheus_text(node: Node) -> None:
    status, text = await node.get("/metrics")
    assert status == 200
    assert "process_cpu_seconds_total" in text


async def test_logs_are_shown_by_the_options(node: Node) -> None:
    path = "/containerLogs/default/web/main"
    assert await node.get(path) == (200, "one\ntwo\n")
    assert await node.get(f"{path}?tailLines=1&timestamps=true") == (200, "2026-01-02T03:04:06.0Z two\n")
    assert await node.get(f"{path}?sinceTime=2026-01-02T03:04:06Z&stream=Stderr") == (200, "two\n")
    assert await node.get(f"{path}?limitBytes=2&follow=true") == (200, "on")


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/containerLogs/default/nope/main", 404, 'pod "nope" not found'),
        ("/containerLogs/default/web/nope", 404, 'container "nope" not found'),
        ("/containerLogs/default/web/waiting", 400, "is waiting to start"),
        ("/containerLogs/default/web/main?previous=true", 400, "previous terminated container"),
        ("/containerLogs/default/web/main?tailLines=many", 400, "invalid literal"),
        ("/exec/default/web/main?output=1", 400, "at least one command"),
        ("/exec/default/web/main?command=true", 400, "at least 1 of stdin, stdout, stderr"),
        ("/exec/default/web/main?command=true&output=1", 400, "WebSockets only"),
        ("/exec/default/web/waiting?command=true&output=1", 400, "is not running"),
        ("/nothing", 404, "Not Found"),
    ],
)
async def test_what_is_wrong_is_said_in_one_line(node: Node, path: str, status: int, says: str) -> None:
    found, text = await node.get(path)
    assert found == status
    assert says in text


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
async def test_output_comes_on_its_channels_and_the_exit_code_last(node: Node, protocol: str) -> None:
    async with node.exec("sh", "-c", "echo out; echo err >%262; exit 3", protocol=protocol) as websocket:
        found = await frames(websocket)
        assert websocket.protocol == protocol
    assert (found[1], found[2]) == (b"out\n", b"err\n")
    status = json.loads(found[3])
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]


async def test_success_is_said_too(node: Node) -> None:
    async with node.exec("true") as websocket:
        assert json.loads((await frames(websocket))[3]) == {"metadata": {}, "status": "Success"}


async def test_a_command_that_cannot_run_is_told_on_the_error_channel(node: Node) -> None:
    async with node.exec("missing") as websocket:
        status = json.loads((await frames(websocket))[3])
    assert status["reason"] == "InternalError"
    assert "executable file not found" in status["message"]


async def test_input_reaches_the_process_and_its_end_too(node: Node) -> None:
    async with node.exec("cat", options="input=1&output=1") as websocket:
        await websocket.send_bytes(b"\0hello ")
        await websocket.send_bytes(b"\0world")
        await websocket.send_bytes(b"\xff\0")
        found = await frames(websocket)
    assert found[1] == b"hello world"
    assert json.loads(found[3])["status"] == "Success"


async def test_much_data_passes_both_ways_whole(node: Node) -> None:
    sent = os.urandom(1 << 20) * 4
    async with node.exec("cat", options="input=1&output=1") as websocket:

        async def send() -> None:
            for start in range(0, len(sent), 100_000):
                await websocket.send_bytes(b"\0" + sent[start : start + 100_000])
            await websocket.send_bytes(b"\xff\0")

        sending = asyncio.create_task(send())
        found = await frames(websocket)
        await sending
    assert found[1] == sent


async def test_a_terminal_is_one_stream_with_a_size(node: Node) -> None:
    async with node.exec("sh", "-c", "read line; echo got $line", options="input=1&output=1&tty=1") as websocket:
        await websocket.send_bytes(b'\4{"Width": 120, "Height": 40}')
        await websocket.send_bytes(b"\4nonsense")
        await websocket.send_bytes(b"\0hi\n")
        found = await frames(websocket)
    assert b"got hi" in found[1]
    assert node.runtime.sessions[0].sizes == [(120, 40)]


async def test_a_client_that_goes_away_ends_the_process(node: Node) -> None:
    async with node.exec("sleep", "100", options="output=1") as websocket:
        assert (await websocket.receive()).data == b"\1"
    session = node.runtime.sessions[0]
    async with asyncio.timeout(10):
        assert await session.process.wait() == -9
    assert session.is_closed


async def test_children_that_hold_the_output_open_do_not_hold_the_end_up(node: Node) -> None:
    async with node.exec("sh", "-c", "sleep 30 %26 echo done", options="output=1") as websocket:
        found = await frames(websocket)
    assert found[1] == b"done\n"
    assert json.loads(found[3])["status"] == "Success"
