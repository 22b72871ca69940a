"""Containers of one sandbox's pod made by runc and crun, from the same document, and told of as those of our own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.contract import ContainerState, Phase, RuntimeFailure, Sandbox
from agent.runtime.native import NativeRuntime
from tests.integration.runtime.runtime_node import Node, read_until

pytestmark = pytest.mark.root


@pytest.fixture(params=["runc", "crun"])
def handler(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"Debian's {request.param} is not installed: tests/debian-packages says why")
    name: str = request.param
    return name


@pytest.fixture
async def node(tmp_path: Path, handler: str) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    program = shutil.which(handler)
    assert program is not None
    made.runtime = NativeRuntime(made.state_dir, cgroups=made.cgroups, handlers={handler: program})
    try:
        await made.runtime.start()
        yield made
    finally:
        try:
            await made.clean_up()
        finally:
            made.cgroups.remove(made.group)
            assert not list(Path("/sys/fs/cgroup").glob(f"*{made.group}"))


async def start(node: Node, handler: str, name: str, script: str, sandbox: Sandbox, **options: Any) -> ContainerState:
    return await node.start(name, ["/bin/sh", "-c", script], sandbox, handler=handler, **options)


def remains(node: Node) -> list[str]:
    """What is left of containers in files of the runtime and in cgroups."""
    found = [str(path) for folder in ("oci", "oci-state") for path in (node.state_dir / folder).glob("*")]
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        found += [str(path) for path in Path(f"{hierarchy}{node.group}").glob("*/[cd]") if path.is_dir()]
    return found + [str(path) for path in Path("/sys/fs/cgroup/unified").glob(f"*{node.group}*")]


async def test_it_runs_with_its_output_exit_code_limits_and_root(node: Node, handler: str) -> None:
    sandbox = await node.sandbox(handler=handler)
    script = "cat /etc/passwd | head -1; hostname; echo mine >/new; ulimit -n >/dev/null; df /dev/shm | tail -1; exit 7"
    await start(node, handler, "c", script, sandbox, resources={"memory": {"limit": 64 << 20}, "pids": {"limit": 50}})
    state = await node.exited("c")
    assert (state.exit_code, state.signal, state.oom_killed) == (7, 0, False)
    assert state.started_at <= state.finished_at
    lines = node.output("c").splitlines()
    assert lines[:2] == ["root:x:0:0::/root:/bin/sh", "pod"]
    assert not (node.root / "new").exists()
    await node.runtime.remove_container("c")
    assert remains(node) == []
    assert not (node.directory / "writable" / "c").exists()


async def test_it_shares_the_pod_with_a_container_of_ours(node: Node, handler: str) -> None:
    sandbox = await node.sandbox(handler=handler)
    await start(node, handler, "c", "echo hi >/dev/shm/note; exec sleep 100", sandbox)
    wait = "until grep hi /dev/shm/note 2>/dev/null; do :; done"
    state, output = await node.run(f"{wait}; readlink /proc/self/ns/net /proc/self/ns/ipc", sandbox=sandbox)
    assert state.exit_code == 0
    code, shown, _ = await node.execute("c", ["/bin/readlink", "/proc/self/ns/net", "/proc/self/ns/ipc"])
    assert (code, output.splitlines()) == (0, ["hi", *shown.splitlines()])


async def test_memory_beyond_the_limit_is_an_oom_kill(node: Node, handler: str) -> None:
    limited = {"memory": {"limit": 24 << 20}, "pids": {"limit": 64}}
    script = "x=0123456789abcdef; while :; do x=$x$x; done"
    await start(node, handler, "c", script, await node.sandbox(handler=handler), resources=limited)
    state = await node.exited("c")
    assert state.oom_killed
    assert (state.exit_code, state.signal) == (137, signal.SIGKILL)


async def test_signals_and_removal_end_it(node: Node, handler: str) -> None:
    sandbox = await node.sandbox(handler=handler)
    await start(node, handler, "c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done", sandbox)
    await node.until("c", lambda state: "ready" in node.output("c"))
    await node.runtime.kill_container("c", signal.SIGTERM)
    assert (await node.exited("c")).exit_code == 5
    await start(node, handler, "d", "exec sleep 100", sandbox)
    await node.runtime.remove_container("d")
    await node.runtime.remove_container("c")
    await node.runtime.remove_sandbox(sandbox.id)
    assert remains(node) == []


async def test_what_it_cannot_run_is_told_in_its_words(node: Node, handler: str) -> None:
    sandbox = await node.sandbox(handler=handler)
    with pytest.raises(RuntimeFailure, match="no-such-command"):
        await node.start("c", ["no-such-command"], sandbox, handler=handler)
    with contextlib.suppress(RuntimeFailure):
        await node.runtime.remove_container("c")
    assert remains(node) == []
    with pytest.raises(RuntimeFailure, match=r'no runtime for "kata" is configured'):
        await node.sandbox("other", handler="kata")


async def test_it_has_a_terminal_and_execs(node: Node, handler: str) -> None:
    sandbox = await node.sandbox(handler=handler)

    def change(spec: dict[str, Any]) -> None:
        spec["process"]["terminal"] = True

    await start(node, handler, "c", "tty; read line; echo got $line; sleep 100", sandbox, change=change)
    session = await node.runtime.attach("c")
    try:
        assert session.stdin_fd is not None
        await node.until("c", lambda state: "/dev/" in node.output("c"))
        os.write(session.stdin_fd, b"word\n")
        assert "got word" in await read_until(session, "got word")
    finally:
        await session.close()
    code, out, _ = await node.execute("c", ["/bin/sh", "-c", "id -u; exit 3"])
    assert (code, out) == (3, "0\n")


async def test_it_survives_the_spawner_and_is_adopted(node: Node, handler: str) -> None:
    sandbox = await node.sandbox(handler=handler)
    before = await start(node, handler, "c", "until [ -e /go ]; do sleep 0.01; done; echo out; exit 4", sandbox)
    await node.kill_spawner()
    await node.runtime.start()
    after = await node.until("c", lambda state: state.phase is Phase.RUNNING)
    assert after.pid == before.pid
    await node.execute("c", ["/bin/touch", "/go"])
    state = await node.exited("c")
    assert state.exit_code == 4 or state.exit_unknown
    assert node.output("c") == "out\n"
    await node.runtime.remove_container("c")
    assert remains(node) == []
