"""Probes in virtual time, and statuses that are written behind the loop's back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from agent.pods.handlers import Handlers
from agent.pods.outcome import Outcome, Target, UnknownPort, port_of
from agent.pods.probes import ContainerProbes, Streak, advance
from agent.pods.writer import HELD_BACK_SECONDS, NOTHING_BEGUN_SECONDS, StatusWriter
from pyk.api.status import ApiError
from pyk.client.client import ClientUnavailable
from pyk.reconcile.clock import VirtualClock, settle


def test_thresholds_turn_the_verdict() -> None:
    probe = {"failureThreshold": 2, "successThreshold": 2}
    streak = Streak()
    verdicts = []
    for ok in (True, True, False, True, False, False, True, True):
        streak = advance(streak, ok, probe)
        verdicts.append(streak.verdict)
    assert verdicts == [None, True, True, True, True, False, False, True]


def test_the_default_is_three_failures_and_one_success() -> None:
    streak = Streak()
    for expected in (None, None, False):
        streak = advance(streak, False, {})
        assert streak.verdict is expected
    assert advance(streak, True, {}).verdict is True


class Answers:
    """Handlers whose probes answer what `ok` says for their kind, and are counted."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.ok: dict[str, bool] = {}
        self.at: list[tuple[str, float]] = []

    async def run(self, handler: Any, target: Target, timeout: float | None) -> Outcome:
        self.at.append((handler["id"], self.clock.time()))
        return Outcome(self.ok.get(handler["id"], True), "said no")


@asynccontextmanager
async def probing(container: Any, clock: VirtualClock, answers: Answers, **more: Any) -> AsyncIterator[Any]:
    told: list[str] = []
    probes = ContainerProbes(
        Target({"name": "c", **container}, "id", "10.0.0.1"),
        clock.time(),
        answers,  # type: ignore[arg-type]
        clock,
        changed=lambda: None,
        told=lambda _, text: told.append(text),
        **{"was_started": False, "was_ready": False, **more},
    )
    task = asyncio.create_task(probes.run())
    try:
        yield probes, told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_readiness_follows_the_probe() -> None:
    clock = VirtualClock()
    answers = Answers(clock)
    readiness = {"id": "r", "periodSeconds": 5, "initialDelaySeconds": 3, "failureThreshold": 2}
    async with probing({"readinessProbe": readiness}, clock, answers) as (probes, told):
        await clock.advance(2.9)
        assert not probes.health.ready
        assert answers.at == []
        await clock.advance(0.2)
        assert probes.health.ready
        answers.ok["r"] = False
        await clock.advance(5)
        assert probes.health.ready
        await clock.advance(5)
        assert not probes.health.ready
        assert told == ["Readiness probe failed: said no"] * 2


async def test_a_failing_liveness_probe_asks_for_a_restart_once() -> None:
    clock = VirtualClock()
    answers = Answers(clock)
    answers.ok["l"] = False
    liveness = {"id": "l", "periodSeconds": 1, "failureThreshold": 3, "terminationGracePeriodSeconds": 4}
    async with probing({"livenessProbe": liveness}, clock, answers) as (probes, _):
        await clock.advance(1.5)
        assert probes.health.unhealthy == ""
        await clock.advance(1)
        assert probes.health.unhealthy == "Container c failed liveness probe, will be restarted"
        assert probes.health.grace == 4
        await clock.advance(60)
        assert len(answers.at) == 3


async def test_the_startup_probe_holds_the_others_back() -> None:
    clock = VirtualClock()
    answers = Answers(clock)
    answers.ok["s"] = False
    container = {
        "startupProbe": {"id": "s", "periodSeconds": 1, "failureThreshold": 100},
        "readinessProbe": {"id": "r", "periodSeconds": 1},
    }
    async with probing(container, clock, answers) as (probes, _):
        await clock.advance(10)
        assert {kind for kind, _ in answers.at} == {"s"}
        assert not probes.health.started
        answers.ok["s"] = True
        await clock.advance(2)
        assert probes.health.started
        assert probes.health.ready
        count = len([kind for kind, _ in answers.at if kind == "s"])
        await clock.advance(10)
        assert len([kind for kind, _ in answers.at if kind == "s"]) == count


async def test_a_startup_probe_that_never_succeeds_asks_for_a_restart() -> None:
    clock = VirtualClock()
    answers = Answers(clock)
    answers.ok["s"] = False
    startup = {"id": "s", "periodSeconds": 1, "failureThreshold": 3}
    async with probing({"startupProbe": startup}, clock, answers) as (probes, _):
        await clock.advance(5)
        assert "failed startup probe" in probes.health.unhealthy


async def test_what_was_ready_before_the_agent_returned_stays_so() -> None:
    clock = VirtualClock()
    container = {"startupProbe": {"id": "s"}, "readinessProbe": {"id": "r", "initialDelaySeconds": 100}}
    async with probing(container, clock, Answers(clock), was_started=True, was_ready=True) as (probes, _):
        await clock.advance(1)
        assert probes.health.ready
        assert probes.health.started


def test_ports_by_name_and_number() -> None:
    container = {"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}
    assert [port_of(container, port) for port in ("web", 80, "81")] == [8080, 80, 81]
    with pytest.raises(UnknownPort, match="couldn't find port 'nope'"):
        port_of(container, "nope")


@asynccontextmanager
async def listening(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server on loopback that gives every connection the same answer."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(4096))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        server.close()


async def attempt(handler: Any) -> Outcome:
    handlers = Handlers(None, VirtualClock())  # type: ignore[arg-type]
    try:
        return await handlers.run(handler, Target({"name": "c"}, "id", "127.0.0.1"), 10.0)
    finally:
        await handlers.close()


@pytest.mark.parametrize(("status", "ok"), [(200, True), (302, True), (399, True), (404, False), (500, False)])
async def test_an_http_probe_judges_by_the_status(status: int, ok: bool) -> None:
    answer = f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\nLocation: http://elsewhere/x\r\n\r\nhi".encode()
    async with listening(answer) as (port, heard):
        get = {"port": port, "path": "/healthz?a=b", "httpHeaders": [{"name": "X-Mine", "value": "1"}]}
        outcome = await attempt({"httpGet": get})
    assert outcome.ok == ok
    assert ok or outcome.output == f"HTTP probe failed with statuscode: {status}"
    assert heard[0].startswith(b"GET /healthz?a=b HTTP/1.1\r\n")
    assert b"X-Mine: 1\r\n" in heard[0]
    assert b"User-Agent: kube-probe/" in heard[0]


async def test_a_hook_has_only_to_be_heard() -> None:
    async with listening(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n") as (port, heard):
        handlers = Handlers(None, VirtualClock())  # type: ignore[arg-type]
        hook = {"httpGet": {"port": port, "scheme": "HTTPS"}}  # of a server that speaks no TLS
        outcome = await handlers.run_hook(hook, Target({"name": "c"}, "id", "127.0.0.1"), 10.0)
        await handlers.close()
    assert outcome.ok
    assert b"User-Agent: kube-lifecycle/" in heard[-1]


async def test_a_tcp_probe_only_connects() -> None:
    async with listening(b"") as (port, _):
        assert (await attempt({"tcpSocket": {"port": port}})).ok
    refused = await attempt({"tcpSocket": {"port": port}})
    assert not refused.ok
    assert "dial tcp 127.0.0.1" in refused.output
    assert not (await attempt({"httpGet": {"port": port}})).ok
    assert (await attempt({"httpGet": {"port": "nameless"}})).output == "couldn't find port 'nameless' in container c"


async def test_a_redirect_is_followed_on_the_same_host_and_warned_of_elsewhere() -> None:
    async with listening(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi") as (there, heard):
        location = f"http://127.0.0.1:{there}/there".encode()
        redirect = b"HTTP/1.1 302 X\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"
        async with listening(redirect) as (port, _):
            followed = await attempt({"httpGet": {"port": port}})
    assert (followed.ok, followed.output, followed.warning) == (True, "hi", "")
    assert heard[0].startswith(b"GET /there ")
    async with listening(b"HTTP/1.1 302 X\r\nContent-Length: 2\r\nLocation: http://other/\r\n\r\nno") as (port, _):
        ended = await attempt({"httpGet": {"port": port}})
    assert (ended.ok, ended.warning) == (True, "Probe terminated redirects, Response body: no")


@asynccontextmanager
async def health_server(status: int | None, service: str = "") -> AsyncIterator[int]:
    """A gRPC server on loopback that says this of `service`; with None one that has no health service."""

    class Health(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            if status is None or details.method != "/grpc.health.v1.Health/Check":
                return None
            return grpc.unary_unary_rpc_method_handler(self.check)

        async def check(self, request: bytes, context: Any) -> bytes:
            if request != (b"\x0a" + bytes([len(service)]) + service.encode() if service else b""):
                await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
            return bytes([0x08, status or 0])

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Health(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    ("status", "asked", "words"),
    [
        (1, "", "service healthy"),
        (2, "", 'service unhealthy (responded with "NOT_SERVING")'),
        (1, "other", "error: health rpc probe failed: rpc error: code = NOT_FOUND desc = unknown service"),
        (None, "", "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): "),
    ],
)
async def test_a_grpc_probe_asks_for_the_health_of_a_service(status: int | None, asked: str, words: str) -> None:
    async with health_server(status) as port:
        outcome = await attempt({"grpc": {"port": port, "service": asked}})
    assert outcome.output.startswith(words)
    assert outcome.ok == (words == "service healthy")


async def test_a_grpc_probe_of_nobody_fails() -> None:
    async with listening(b"") as (port, _):
        pass
    outcome = await attempt({"grpc": {"port": port}})
    assert outcome.output.startswith(f'error: failed to connect service at "127.0.0.1:{port}": ')


# Writing statuses


class Api:
    """The pods that there are; patches are put into them and remembered."""

    def __init__(self, pod: Any) -> None:
        self.pod = pod
        self.patches: list[Any] = []
        self.errors: list[Exception] = []

    async def patch(self, kind: Any, name: str, namespace: str, patch: Any, **options: Any) -> Any:
        assert options["subresource"] == "status"
        if self.errors:
            raise self.errors.pop(0)
        self.patches.append(patch["status"])
        version = str(int(self.pod["metadata"]["resourceVersion"]) + 1)
        metadata = {**self.pod["metadata"], "resourceVersion": version}
        self.pod = {**self.pod, "metadata": metadata, "status": {**self.pod["status"], **patch["status"]}}
        return self.pod


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def api(pod: Any) -> Api:
    return Api(pod(metadata={"resourceVersion": "5"}))


def state(phase: str) -> Any:
    return {"phase": phase, "conditions": [], "containerStatuses": []}


async def test_a_step_on_the_way_is_held_back_and_the_last_status_wins(clock: VirtualClock, api: Api) -> None:
    writer = StatusWriter(api, clock, lambda uid: api.pod)  # type: ignore[arg-type]
    uid = api.pod["metadata"]["uid"]
    writer.set(uid, state("Pending"), urgent=False)
    await settle()
    assert api.patches == []
    writer.set(uid, state("Running"), urgent=True)
    await settle()
    assert api.patches == [{"phase": "Running"}]
    assert writer.newest(api.pod)["status"]["phase"] == "Running"


async def test_a_pod_that_stays_on_its_way_is_shown_soon(clock: VirtualClock, api: Api) -> None:
    writer = StatusWriter(api, clock, lambda uid: api.pod)  # type: ignore[arg-type]
    writer.set(api.pod["metadata"]["uid"], state("Pending"), urgent=False)
    await clock.advance(NOTHING_BEGUN_SECONDS)
    assert api.patches == [{"phase": "Pending"}]


async def test_what_has_begun_is_shown_sooner_than_what_has_not(clock: VirtualClock, api: Api) -> None:
    writer = StatusWriter(api, clock, lambda uid: api.pod)  # type: ignore[arg-type]
    uid = api.pod["metadata"]["uid"]
    begun = {**state("Pending"), "initContainerStatuses": [{"name": "first", "state": {"running": {}}}]}
    writer.set(uid, state("Pending"), urgent=False)
    await clock.advance(HELD_BACK_SECONDS)
    assert api.patches == []
    writer.set(uid, begun, urgent=False)
    await clock.advance(HELD_BACK_SECONDS)
    assert [patch["initContainerStatuses"] for patch in api.patches] == [begun["initContainerStatuses"]]


async def test_a_server_that_is_away_is_waited_for(clock: VirtualClock, api: Api) -> None:
    writer = StatusWriter(api, clock, lambda uid: api.pod)  # type: ignore[arg-type]
    uid = api.pod["metadata"]["uid"]
    api.errors = [ClientUnavailable("away"), ApiError(500, "InternalError", "ill")]
    writer.set(uid, state("Running"), urgent=True)
    flushed = asyncio.create_task(writer.flush(uid))
    await settle()
    assert not flushed.done()
    await clock.advance(1)
    assert api.patches == [{"phase": "Running"}]
    await flushed


@pytest.mark.parametrize("code", [404, 409])
async def test_a_pod_that_is_gone_is_not_written_to_again(clock: VirtualClock, api: Api, code: int) -> None:
    writer = StatusWriter(api, clock, lambda uid: api.pod)  # type: ignore[arg-type]
    uid = api.pod["metadata"]["uid"]
    api.errors = [ApiError(code, "", "no")] * 2
    writer.set(uid, state("Running"), urgent=True)
    await clock.advance(60)
    assert len(api.errors) == 1
    await writer.flush(uid)


async def test_a_lagging_cache_does_not_bring_back_an_old_status(clock: VirtualClock, api: Api) -> None:
    stale = api.pod
    writer = StatusWriter(api, clock, lambda uid: stale)  # type: ignore[arg-type]
    uid = stale["metadata"]["uid"]
    writer.set(uid, {**state("Failed"), "reason": "Evicted"}, urgent=True)
    await settle()
    writer.set(uid, state("Failed"), urgent=True)
    await settle()
    assert api.patches == [{"phase": "Failed", "reason": "Evicted"}, {"reason": None}]
