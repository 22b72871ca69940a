"""Agent and spawner come and go; containers stay, and nothing leaks."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import launch
from agent.runtime.contract import ContainerState, ExecConfig, Phase, RuntimeFailure
from agent.runtime.native import NativeRuntime
from agent.runtime.records import RecordFile, start_time
from tests.integration.runtime.runtime_node import Node, eventually

pytestmark = pytest.mark.root


def knows_its_end(state: ContainerState, code: int) -> bool:
    return (state.exit_code, state.exit_unknown) == (code, False)


_TICKING = "echo up; i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.01; done"


async def test_another_client_finds_everything(node: Node) -> None:
    sandbox = await node.sandbox(labels={"pod": "name"})
    running = await node.start("r", ["/bin/sleep", "100"], sandbox, labels={"a": "b"})
    await node.start("e", ["/bin/sh", "-c", "exit 3"], sandbox)
    await node.exited("e")
    await node.runtime.close()
    other = NativeRuntime(node.state_dir, cgroups=node.cgroups)
    await other.start()
    assert await other.list_sandboxes() == [sandbox]
    states = {state.id: state for state in await other.list_containers()}
    assert states["r"] == running
    assert (states["e"].phase, states["e"].exit_code) == (Phase.EXITED, 3)
    assert other._spawner_pid == node.spawner_pid()
    await other.close()


async def test_containers_survive_the_spawner_and_are_adopted(node: Node) -> None:
    sandbox = await node.sandbox()
    script = _TICKING.replace("while :", "while [ ! -e /tmp/stop ]") + "; exit 11"
    before = await node.start("c", ["/bin/sh", "-c", script], sandbox)
    await eventually(lambda: "tick 3" in node.log_path("c").read_text())
    old = node.spawner_pid()
    await node.kill_spawner()
    async for event in node.runtime.events():
        if event.kind == "lost-connection":
            break
    assert node.spawner_pid() != old
    after = await node.container("c")
    assert (after.phase, after.pid, after.started_at) == (Phase.RUNNING, before.pid, before.started_at)
    assert await node.runtime.list_sandboxes() == [sandbox]
    code, out, _ = await node.execute("c", ["/bin/hostname"])
    assert (code, out) == (0, "pod\n")
    await node.execute("c", ["/bin/touch", "/tmp/stop"])  # ends the container, which may end this before it says so
    ended = await node.exited("c")
    assert knows_its_end(ended, 11)
    ticks = [line for line in node.output("c").splitlines() if line.startswith("tick")]
    assert ticks == [f"tick {number}" for number in range(1, len(ticks) + 1)]  # no line is missing


async def test_a_full_pipe_does_not_kill_a_container_without_a_spawner(node: Node) -> None:
    await node.start("c", ["/bin/sh", "-c", "while [ ! -e /tmp/stop ]; do echo 0123456789; done"], await node.sandbox())
    await eventually(lambda: node.log_path("c").stat().st_size > 100_000)
    await node.runtime.close()
    await node.kill_spawner()
    size = node.log_path("c").stat().st_size
    await node.runtime.start()
    await eventually(lambda: node.log_path("c").stat().st_size > size + 200_000)
    assert (await node.container("c")).phase is Phase.RUNNING
    assert {text for _, _, text in node.log("c")} <= {"0123456789", "0123456789"[:5]} | _fragments("0123456789")


async def test_how_a_container_ended_without_a_spawner_is_known_to_the_next(node: Node) -> None:
    sandbox = await node.sandbox()
    script = "while [ ! -e /tmp/stop ]; do sleep 0.01; done; exit {code}"
    for code in (0, 7):
        state = await node.start(f"c{code}", ["/bin/sh", "-c", script.format(code=code)], sandbox)
        await node.runtime.close()
        await node.kill_spawner()
        Path(f"/proc/{state.pid}/root/tmp/stop").touch()
        await eventually(lambda pid=state.pid: not start_time(pid))
        await node.runtime.start()
        found = await node.container(f"c{code}")
        assert found.phase is Phase.EXITED
        assert knows_its_end(found, code)


async def test_a_keeper_that_is_killed_is_replaced_at_once(node: Node) -> None:
    state = await node.start(
        "c", ["/bin/sh", "-c", "while [ ! -e /tmp/stop ]; do sleep 0.01; done; exit 7"], await node.sandbox()
    )
    for _ in range(3):
        before = node.keeper_pid()
        await node.kill_keeper()
        await eventually(lambda before=before: start_time(node.keeper_pid()) and node.keeper_pid() != before)
    await node.runtime.list_containers()  # the record is written before the pidfds are given: the answer comes after
    await node.runtime.close()
    await node.kill_spawner()
    Path(f"/proc/{state.pid}/root/tmp/stop").touch()
    await eventually(lambda: not start_time(state.pid))
    await node.runtime.start()
    found = await node.container("c")
    assert knows_its_end(found, 7)


async def test_an_end_that_nobody_saw_is_recorded_as_unknown(node: Node) -> None:
    state = await node.start("c", ["/bin/sleep", "100"], await node.sandbox())
    await node.runtime.close()
    await node.kill_spawner()
    await node.kill_keeper()
    os.kill(state.pid, signal.SIGKILL)
    await eventually(lambda: not start_time(state.pid))
    await node.runtime.start()
    found = await node.container("c")
    assert (found.phase, found.exit_code, found.exit_unknown) == (Phase.EXITED, 137, True)


async def test_a_container_that_was_not_started_ends_with_its_spawner(node: Node) -> None:
    state = await node.runtime.create_container(node.config("c", ["/bin/touch", "/ran"], await node.sandbox()))
    await node.runtime.close()
    await node.kill_spawner()
    await eventually(lambda: not start_time(state.pid))
    await node.runtime.start()
    assert (await node.container("c")).phase is Phase.EXITED
    assert not (node.directory / "writable/c/upper/ran").exists()


async def test_what_waits_to_be_executed_when_its_spawner_dies_is_not_adopted(node: Node) -> None:
    config = node.config("c", ["/bin/sleep", "1000"], await node.sandbox())
    state = await node.runtime.create_container(config)
    os.kill(state.pid, signal.SIGSTOP)  # it will see the death of its spawner late
    spawner = node.spawner_pid()
    await node.runtime.close()
    await node.kill_spawner()
    record = RecordFile(str(node.state_dir / "containers/c"))
    said, _ = record.read() or ({}, {})
    record.update({**said, "phase": "running", "started_at": 1.0})  # the spawner died before it could say go
    coming = asyncio.create_task(node.runtime.start())
    await eventually(lambda: node.spawner_pid() != spawner)
    os.kill(state.pid, signal.SIGCONT)
    await coming
    found = await node.container("c")
    assert (found.phase, found.started_at, found.exit_unknown) == (Phase.EXITED, 0.0, True)


async def test_an_exec_ends_with_its_client_and_with_the_spawner(node: Node) -> None:
    await node.start("c", ["/bin/sleep", "100"], await node.sandbox())
    group = f"{node.group}/pod/c"
    for end in (node.runtime.close, node.kill_spawner):
        await node.runtime.exec("c", ExecConfig(["/bin/sleep", "99"]))
        await eventually(lambda: len(node.cgroups.processes(group)) == 2)
        await end()
        await eventually(lambda: len(node.cgroups.processes(group)) == 1)
        await node.runtime.start()


async def test_a_spawner_killed_at_any_moment_leaks_nothing(node: Node) -> None:
    """Kill it after a growing while into a container's life; whatever it had made, the next one cleans up."""
    for step in range(12):
        await node.runtime.start()
        sandbox = await node.sandbox(f"p{step}")
        config = node.config(f"c{step}", ["/bin/sleep", "100"], sandbox)
        work = asyncio.gather(
            node.runtime.create_container(config), node.runtime.start_container(config.id), return_exceptions=True
        )
        await asyncio.sleep(step * 0.0015)
        os.kill(node.spawner_pid(), signal.SIGKILL)
        await work
        await node.runtime.close()
    await node.runtime.start()
    for sandbox in await node.runtime.list_sandboxes():
        await node.runtime.remove_sandbox(sandbox.id)
    assert await node.runtime.list_containers() == []
    assert node.cgroups.processes(node.group) == []
    left = [path for directory in node.cgroups.directories(node.group) for path in Path(directory).glob("*/*/")]
    assert left == []
    written = node.directory / "writable"
    assert not written.exists() or list(written.iterdir()) == []
    for kind in ("sandboxes", "containers"):
        assert list((node.state_dir / kind).iterdir()) == []


async def test_an_interrupted_removal_is_completed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.start("c", ["/bin/sleep", "100"], await node.sandbox())

    async def fail(identifier: str, writable: str) -> None:
        raise RuntimeFailure("the agent died here")

    with monkeypatch.context() as patch:
        patch.setattr(node.runtime, "_finish_removal", fail)
        with pytest.raises(RuntimeFailure):
            await node.runtime.remove_container("c")
    assert (node.directory / "writable/c").exists()
    await node.runtime.close()
    await node.kill_spawner()
    await node.runtime.start()
    assert not (node.directory / "writable/c").exists()
    assert list((node.state_dir / "containers").iterdir()) == []


async def test_requests_under_way_fail_when_the_spawner_dies(node: Node) -> None:
    sandbox = await node.sandbox()
    os.kill(node.spawner_pid(), signal.SIGSTOP)
    waiting = asyncio.create_task(node.start("c", ["/bin/true"], sandbox))
    await asyncio.sleep(0)
    await node.kill_spawner()
    with pytest.raises(RuntimeFailure, match="connection to the spawner was lost"):
        await waiting


async def test_a_removal_under_way_fails_as_one_failure_when_the_spawner_dies(node: Node) -> None:
    sandbox = await node.sandbox()
    for name in ("a", "b"):
        await node.start(name, ["/bin/sleep", "1000"], sandbox)
    for step in ("containers_of", "remove_container"):
        original = node.runtime._call

        async def dies(op: str, step: str = step, original: Any = original, **arguments: Any) -> Any:
            if op == step:
                await node.kill_spawner()
            return await original(op, **arguments)

        node.runtime._call = dies  # type: ignore[method-assign]
        with pytest.raises(RuntimeFailure):
            await node.runtime.remove_sandbox(sandbox.id)
        node.runtime._call = original  # type: ignore[method-assign]
        await node.runtime.start()
    await node.runtime.remove_sandbox(sandbox.id)
    assert await node.runtime.list_containers() == []


async def test_one_spawner_serves_a_directory(node: Node) -> None:
    runtimes = [NativeRuntime(node.directory / "fresh", cgroups=node.cgroups) for _ in range(3)]
    await asyncio.gather(*(runtime.start() for runtime in runtimes))
    assert len({runtime._spawner_pid for runtime in runtimes}) == 1
    for runtime in runtimes[1:]:
        await runtime.close()
    pid = runtimes[0]._spawner_pid
    await runtimes[0].shutdown()
    assert not start_time(pid)
    await runtimes[0].shutdown()  # nothing runs: fine


async def test_a_spawner_whose_socket_was_removed_is_found_by_the_next_agent(node: Node) -> None:
    state = await node.start("c", ["/bin/sleep", "1000"], await node.sandbox())
    spawner = node.spawner_pid()
    for _ in range(2):
        (node.state_dir / "spawner.sock").unlink()
        await node.runtime.close()
        await node.runtime.start()
        assert node.spawner_pid() == spawner
        assert (await node.container("c")).pid == state.pid


async def test_what_has_lost_its_records_can_be_removed(node: Node) -> None:
    sandbox = await node.sandbox()
    state = await node.start("runs", ["/bin/sleep", "1000"], sandbox)
    await node.start("ends", ["/bin/true"], sandbox)
    await node.exited("ends")
    for folder in ("containers", "sandboxes"):
        for record in (node.state_dir / folder).iterdir():
            record.unlink()
    await node.runtime.kill_container("runs", signal.SIGTERM)
    await node.runtime.remove_sandbox(sandbox.id)
    assert await node.runtime.list_containers() == []
    assert not start_time(state.pid)
    assert not list((node.directory / "writable").iterdir())


async def test_only_its_own_user_may_talk_to_the_spawner(node: Node) -> None:
    path = node.state_dir / "spawner.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    node.state_dir.chmod(0o755)
    # Even where the file's mode is wrong, the peer's credentials decide.
    path.chmod(0o666)
    directory = os.open(node.state_dir, os.O_PATH)
    code = f"""
import os, socket
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.connect("/proc/self/fd/{directory}/spawner.sock")
print(sock.recv(1))
"""
    try:
        result = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", code], capture_output=True, pass_fds=(directory,), timeout=20
        )
    finally:
        os.close(directory)
    assert result.stdout == b"b''\n", result.stderr


async def test_the_spawner_is_light_and_quiet(node: Node) -> None:
    status = Path(f"/proc/{node.spawner_pid()}/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0])
    assert resident < 20_000, f"the spawner has {resident} kB"
    assert "Name:\tpyk-spawner" in status
    await node.start("c", ["/bin/sleep", "100"], await node.sandbox())

    def switches() -> int:
        text = Path(f"/proc/{node.spawner_pid()}/status").read_text()
        return int(text.split("nonvoluntary_ctxt_switches")[0].split("voluntary_ctxt_switches:")[1])

    await eventually(lambda: (before := switches()) and not time.sleep(0.05) and switches() == before)
    before = switches()
    await asyncio.sleep(0.3)
    assert switches() == before  # at rest nothing wakes it


async def test_a_spawner_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(launch.LaunchError, match="did not start"):
        launch.start_spawner(str(tmp_path), str(tmp_path / "no/such/directory/socket"))


def _fragments(line: str) -> set[str]:
    """A killed spawner may lose the part of a line that it had read."""
    return {line[start:] for start in range(len(line))}
