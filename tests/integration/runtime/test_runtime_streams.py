"""Logs, exec and attach, on the real kernel."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from typing import Any

import pytest

from agent.runtime.contract import ExecConfig, RuntimeFailure
from agent.runtime.logs import set_aside
from tests.integration.runtime.runtime_node import Node, eventually, read_all, read_some, read_until, type_into

pytestmark = pytest.mark.root


async def test_logs_are_in_the_cri_format(node: Node) -> None:
    state, _ = await node.run("echo out; sleep 0.02; echo err >&2; sleep 0.02; printf 'no newline'")
    lines = node.log_path(state.id).read_text().splitlines()
    pattern = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) (F|P) ")
    assert all(pattern.match(line) for line in lines)
    assert node.log(state.id) == [("stdout", "F", "out"), ("stderr", "F", "err"), ("stdout", "P", "no newline")]


async def test_long_lines_are_partial(node: Node) -> None:
    state, _ = await node.run("head -c 40000 /dev/zero | tr '\\0' x; echo; echo short")
    tags = [(tag, len(text)) for _, tag, text in node.log(state.id)]
    assert tags == [("P", 16384), ("P", 16384), ("F", 40000 - 2 * 16384), ("F", 5)]


async def test_all_that_was_written_is_in_the_log_when_the_exit_is_told(node: Node) -> None:
    _, output = await node.run("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done")
    assert output.splitlines() == [f"line {number}" for number in range(3000)]


async def test_a_user_other_than_root_can_open_its_streams_again(node: Node) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["process"]["user"]["uid"] = 1000

    state, output = await node.run("echo one > /dev/stdout; echo two > /proc/self/fd/2", change=change)
    assert (state.exit_code, output) == (0, "one\n")
    assert node.output(state.id, "stderr") == "two\n"


async def test_a_large_log_is_set_aside_and_told_of_also_by_a_spawner_that_takes_over(node: Node) -> None:
    script = "seq 0 99; while ! [ -e /tmp/go ]; do sleep 0.01; done; exec seq 100 199"
    options = {"log_max_bytes": 2000, "log_max_files": 100}
    await node.start("c", ["/bin/sh", "-c", script], await node.sandbox(), **options)
    path = node.log_path("c")

    def texts() -> list[str]:
        names = [*set_aside(str(path)), path.name]
        try:
            return [line.split(" ", 3)[3] for name in names for line in (path.parent / name).read_text().splitlines()]
        except FileNotFoundError:  # one is just being set aside, and the next not made yet
            return []

    await eventually(lambda: texts() == [str(number) for number in range(100)])
    before = len(set_aside(str(path)))
    assert before >= 1
    seen: list[str] = []
    async for event in node.runtime.events():
        seen.append(event.kind)
        if seen.count("log-rotated") == before:
            break
    await node.kill_spawner()
    async for event in node.runtime.events():
        if event.kind == "lost-connection":
            break
    await node.execute("c", ["/bin/touch", "/tmp/go"])
    await node.exited("c")
    assert texts() == [str(number) for number in range(200)]
    assert len(set_aside(str(path))) > before


async def test_exec_runs_in_the_container(node: Node) -> None:
    state = await node.start("c", ["/bin/sleep", "100"], await node.sandbox())
    code, out, err = await node.execute("c", ["/bin/sh", "-c", "hostname; pwd; echo oops >&2; exit 9"])
    assert (code, out, err) == (9, "pod\n/\n", "oops\n")
    script = "for kind in net ipc uts mnt pid cgroup; do readlink /proc/self/ns/$kind; done; cat /proc/1/comm"
    _, out, _ = await node.execute("c", ["/bin/sh", "-c", script])
    kinds = ("net", "ipc", "uts", "mnt", "pid", "cgroup")
    assert out.split() == [*(os.readlink(f"/proc/{state.pid}/ns/{kind}") for kind in kinds), "sleep"]


async def test_exec_has_the_container_s_limits_user_and_filter(node: Node) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["process"]["user"] = {"uid": 1000, "gid": 1000}
        spec["process"]["cwd"] = "/tmp"
        spec["process"]["env"] += ["FROM=document"]

    await node.start("c", ["/bin/sleep", "100"], await node.sandbox(), change=change)
    script = "id -u; pwd; echo $FROM $MORE; grep -E 'CapEff|NoNew|Seccomp:' /proc/self/status; ls /proc/self/fd | wc -l"
    _, out, _ = await node.execute("c", ["/bin/sh", "-c", script], environment={"MORE": "request"})
    expected = ["1000", "/tmp", "document", "request", "CapEff:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2", "4"]
    assert out.split() == expected
    session = await node.runtime.exec("c", ExecConfig(["/bin/sleep", "50"]))
    assert len(await _processes(node, "c", 2)) == 2
    await session.close()
    await _processes(node, "c", 1)


async def test_exec_reads_its_input_until_it_ends(node: Node) -> None:
    await node.start("c", ["/bin/sleep", "100"], await node.sandbox())
    session = await node.runtime.exec("c", ExecConfig(["/bin/sh", "-c", "cat; echo end"], stdin=True))
    assert session.stdin_fd is not None
    type_into(session, b"some input\n")
    await session.close_stdin()
    assert session.stdin_fd is None
    assert await read_all(session.stdout_fd) == "some input\nend\n"
    assert await session.wait() == 0
    await session.close()
    await session.close()


async def test_exec_of_a_missing_command_fails_with_127(node: Node) -> None:
    await node.start("c", ["/bin/sleep", "100"], await node.sandbox())
    with pytest.raises(RuntimeFailure, match="executable file not found") as failure:
        await node.runtime.exec("c", ExecConfig(["nope"]))
    assert failure.value.exit_code == 127
    with pytest.raises(RuntimeFailure, match="container none is not running"):
        await node.runtime.exec("none", ExecConfig(["true"]))


async def test_exec_with_a_terminal(node: Node) -> None:
    await node.start("c", ["/bin/sleep", "100"], await node.sandbox())
    script = "tty; stty size; echo $TERM; read line; echo got $line; stty size; exit 4"
    config = ExecConfig(["/bin/sh", "-c", script], terminal=True, stdin=True, columns=101, rows=37)
    session = await node.runtime.exec("c", config)
    assert session.stdin_fd == session.stdout_fd is not None
    assert session.stderr_fd is None
    text = await read_until(session, "xterm")
    assert text.split() == ["/dev/pts/0", "37", "101", "xterm"]
    await session.resize(55, 22)
    type_into(session, b"typed\n")
    text = await read_all(session.stdout_fd)
    assert "got typed\r\n22 55" in text
    assert await session.wait() == 4
    await session.close()


async def test_control_c_reaches_the_process_of_a_terminal(node: Node) -> None:
    await node.start("c", ["/bin/sleep", "100"], await node.sandbox())
    session = await node.runtime.exec("c", ExecConfig(["/bin/cat"], terminal=True, stdin=True))
    type_into(session, b"word\n")
    await read_until(session, "word\r\nword\r\n")  # the terminal's echo, and cat's
    type_into(session, b"\x03")
    assert await session.wait() == 128 + signal.SIGINT
    await session.close()


async def test_many_execs_at_once(node: Node) -> None:
    await node.start("c", ["/bin/sleep", "100"], await node.sandbox())
    results = await asyncio.gather(*(node.execute("c", ["/bin/echo", str(number)]) for number in range(20)))
    assert [out for _, out, _ in results] == [f"{number}\n" for number in range(20)]


async def test_a_cancelled_exec_leaves_no_process(node: Node) -> None:
    await node.start("c", ["/bin/sleep", "100"], await node.sandbox())
    task = asyncio.create_task(node.runtime.exec("c", ExecConfig(["/bin/sleep", "100"])))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await node.execute("c", ["/bin/true"])
    await _processes(node, "c", 1)


async def test_attach_shows_what_is_written_from_now_on(node: Node) -> None:
    script = "echo before; read line; echo got $line; exit 3"
    await node.start("c", ["/bin/sh", "-c", script], await node.sandbox(), stdin=True)
    await eventually(lambda: "before" in node.log_path("c").read_text())
    session = await node.runtime.attach("c")
    type_into(session, b"word\n")
    assert await read_all(session.stdout_fd) == "got word\n"
    assert await session.wait() == 3
    await session.close()
    assert node.output("c") == "before\ngot word\n"


async def test_stdin_once_ends_with_the_first_client(node: Node) -> None:
    await node.start("c", ["/bin/cat"], await node.sandbox(), stdin=True, stdin_once=True)
    session = await node.runtime.attach("c")
    type_into(session, b"all there is\n")
    await session.close_stdin()
    assert await session.wait() == 0
    await session.close()
    assert node.output("c") == "all there is\n"


async def test_stdin_without_once_stays_open_between_clients(node: Node) -> None:
    await node.start("c", ["/bin/sh", "-c", "read a; read b; echo $a $b"], await node.sandbox(), stdin=True)
    for word in (b"first\n", b"second\n"):
        session = await node.runtime.attach("c")
        type_into(session, word)
        await session.close()
    assert (await node.exited("c")).exit_code == 0
    assert node.output("c") == "first second\n"


async def test_a_client_that_does_not_read_does_not_slow_the_container_down(node: Node) -> None:
    script = "read go; head -c 3000000 /dev/zero | tr '\\0' x"
    await node.start("c", ["/bin/sh", "-c", script], await node.sandbox(), stdin=True)
    session = await node.runtime.attach("c")
    type_into(session, b"go\n")
    assert (await node.exited("c")).exit_code == 0
    assert len(await read_all(session.stdout_fd)) < 3000000
    assert sum(len(text) for _, _, text in node.log("c")) == 3000000
    await session.close()


async def test_a_container_with_a_terminal(node: Node) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["process"]["terminal"] = True
        spec["process"]["consoleSize"] = {"height": 30, "width": 90}

    script = "stty size; tty; echo on > /dev/console; read line; echo got $line; stty size; exit 6"
    await node.start("c", ["/bin/sh", "-c", script], await node.sandbox(), change=change, stdin=True)
    await eventually(lambda: node.output("c").endswith("on\n"))
    session = await node.runtime.attach("c")
    assert session.stdin_fd == session.stdout_fd is not None
    await session.resize(44, 11)
    type_into(session, b"typed\n")
    text = ""
    while data := await read_some(session.stdout_fd):
        text += data.decode()
    assert "got typed\r\n11 44" in text
    assert await session.wait() == 6
    await session.close()
    assert [text for _, _, text in node.log("c")][:3] == ["30 90", "/dev/pts/0", "on"]


async def _processes(node: Node, identifier: str, count: int) -> list[int]:
    group = f"{node.group}/pod/{identifier}"
    await eventually(lambda: len(node.cgroups.processes(group)) == count)
    found: list[int] = node.cgroups.processes(group)
    return found
