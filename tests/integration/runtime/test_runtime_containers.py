"""What a container is and how it ends, on the real kernel."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import syscalls
from agent.runtime.contract import Phase, RuntimeFailure
from agent.runtime.spec import CAPABILITIES, capability_sets
from tests.integration.runtime.runtime_node import Node, eventually

pytestmark = pytest.mark.root


async def test_a_container_runs_its_command_and_tells_its_exit_code(node: Node) -> None:
    before = time.time()
    state, output = await node.run("echo hello; exit 7")
    assert (state.phase, state.exit_code, state.signal, state.oom_killed) == (Phase.EXITED, 7, 0, False)
    assert output == "hello\n"
    assert before <= state.created_at <= state.started_at <= state.finished_at <= time.time()


async def test_creating_does_not_execute_and_starting_does(node: Node) -> None:
    sandbox = await node.sandbox()
    created = await node.runtime.create_container(node.config("c", ["/bin/sh", "-c", "echo ran"], sandbox))
    assert (created.phase, created.started_at) == (Phase.CREATED, 0)
    assert node.log_path("c").read_bytes() == b""
    started = await node.runtime.start_container("c")
    assert started.phase in (Phase.RUNNING, Phase.EXITED)
    await node.exited("c")
    assert node.output("c") == "ran\n"


async def test_create_and_start_may_be_sent_together(node: Node) -> None:
    config = node.config("c", ["/bin/true"], await node.sandbox())
    created, started = await asyncio.gather(node.runtime.create_container(config), node.runtime.start_container("c"))
    assert created.id == started.id == "c"
    assert (await node.exited("c")).exit_code == 0


async def test_asking_twice_makes_one(node: Node) -> None:
    sandbox = await node.sandbox()
    again = await node.sandbox()
    assert again.pid == sandbox.pid
    config = node.config("c", ["/bin/sleep", "100"], sandbox)
    states = await asyncio.gather(*(node.runtime.create_container(config) for _ in range(3)))
    assert len({state.pid for state in states}) == 1
    starts = await asyncio.gather(*(node.runtime.start_container("c") for _ in range(3)))
    assert {state.pid for state in starts} == {states[0].pid}


async def test_a_death_by_signal_is_told_with_the_signal(node: Node) -> None:
    sandbox = await node.sandbox()
    await node.start("c", ["/bin/sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"], sandbox)
    await _wait_for_output(node, "c", "ready\n")
    await node.runtime.kill_container("c", signal.SIGTERM)
    assert (await node.exited("c")).exit_code == 5
    await node.start("d", ["/bin/sleep", "100"], sandbox)
    await node.runtime.kill_container("d", signal.SIGKILL)
    state = await node.exited("d")
    assert (state.exit_code, state.signal) == (137, signal.SIGKILL)
    await node.runtime.kill_container("d", signal.SIGKILL)  # it has ended: no error


async def test_a_container_ignores_no_signal_that_its_spawner_ignores(tmp_path: Path) -> None:
    numbers = (
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGUSR1,
    )  # a shell starts its background jobs with the first two ignored
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    node = Node(tmp_path)
    try:
        await node.runtime.start()
        _, output = await node.run("grep SigIgn: /proc/self/status")
        assert int(output.split()[1], 16) == 0
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        await node.clean_up()
        node.cgroups.remove(node.group)


async def test_an_out_of_memory_kill_is_reported(node: Node) -> None:
    limited = {"memory": {"limit": 24 << 20}, "pids": {"limit": 64}}
    script = "x=0123456789abcdef; while :; do x=$x$x; done"
    state, _ = await node.run(script, resources=limited)
    assert state.oom_killed
    assert (state.exit_code, state.signal) == (137, signal.SIGKILL)


async def test_an_out_of_memory_kill_is_told_of_the_container_whose_process_it_was(node: Node) -> None:
    sandbox = await node.sandbox()
    limited = {"memory": {"limit": 32 << 20}, "pids": {"limit": 64}}
    script = "(head -c 64000000 /dev/zero | tail -c 63000000 >/dev/null); echo after; exec sleep {}"
    for name, seconds in (("hungry", 1), ("modest", 1)):
        command = script.format(seconds) if name == "hungry" else f"exec sleep {seconds}"
        await node.start(name, ["/bin/sh", "-c", command], sandbox, resources=limited)
    hungry, modest = [await node.exited(name) for name in ("hungry", "modest")]
    assert (hungry.oom_killed, modest.oom_killed) == (True, False)
    if node.cgroups.version == 1:  # v2 ends all processes of the container together
        assert node.output("hungry") == "after\n"


async def test_the_pids_limit_holds(node: Node) -> None:
    limited = {"pids": {"limit": 5}}
    state, _ = await node.run("for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait", resources=limited)
    assert state.exit_code != 0


async def test_resources_can_be_changed_while_it_runs(node: Node) -> None:
    await node.start("c", ["/bin/sleep", "100"], await node.sandbox())
    await node.runtime.update_container("c", {"memory": {"limit": 512 << 20}, "pids": {"limit": 9}})
    limits = node.cgroups.limits(f"{node.group}/pod/c")
    assert (limits.memory_bytes, limits.pids) == (512 << 20, 9)
    await node.runtime.update_container("c", {"memory": {"limit": 64 << 20}})
    assert node.cgroups.limits(f"{node.group}/pod/c").memory_bytes == 64 << 20


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["nope"], 'exec: "nope": executable file not found in $PATH'),
        (["/no/pe"], 'exec: "/no/pe": stat /no/pe: no such file or directory'),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
        (["/etc"], 'exec: "/etc": is a directory'),
        (["/tmp/empty"], "exec /tmp/empty: exec format error"),
        (["/tmp/script"], "exec /tmp/script: no such file or directory"),
    ],
)
async def test_a_command_that_cannot_be_executed_fails_the_start(node: Node, command: list[str], text: str) -> None:
    for name, content in (("empty", ""), ("script", "#!/no/such/interpreter\n")):
        path = node.root / "tmp" / name
        path.write_text(content)
        path.chmod(0o755)
    await node.runtime.create_container(node.config("c", command, await node.sandbox()))
    with pytest.raises(RuntimeFailure, match="unable to start container process") as failure:
        await node.runtime.start_container("c")
    assert text in str(failure.value)
    assert (failure.value.exit_code, failure.value.reason) == (128, "StartError")
    state = await node.exited("c")
    assert (state.exit_code, state.started_at) == (128, 0)


async def test_a_failure_to_create_names_the_step_and_leaves_nothing(node: Node) -> None:
    def missing(spec: dict[str, Any]) -> None:
        spec["mounts"].append({"destination": "/data", "type": "bind", "source": "/no/such", "options": ["rbind"]})

    config = node.config("c", ["/bin/true"], await node.sandbox(), change=missing)
    with pytest.raises(RuntimeFailure, match="open /no/such to mount it at /data: no such file or directory"):
        await node.runtime.create_container(config)
    assert await node.runtime.list_containers() == []
    assert not config.rootfs.writable.exists()


async def test_environment_directory_and_user_are_what_the_document_says(node: Node) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["process"]["env"] = ["PATH=/usr/bin:/bin", "GREETING=hello  world", "EMPTY="]
        spec["process"]["cwd"] = "/made/on/the/way"
        spec["process"]["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o27}

    _, output = await node.run("/usr/bin/env; pwd; id -u; id -g; id -G; umask", change=change)
    lines = output.splitlines()
    assert set(lines[:-5]) - {"PWD=/made/on/the/way"} == {
        "PATH=/usr/bin:/bin",
        "GREETING=hello  world",
        "EMPTY=",
        "HOME=/home/user",
    }
    assert lines[-5:] == ["/made/on/the/way", "1000", "1001", "1001 5 6", "0027"]


async def test_capabilities_filter_and_privileges_are_in_force(node: Node) -> None:
    _, output = await node.run("cat /proc/self/status")
    status = dict(line.split(":\t", 1) for line in output.splitlines() if ":\t" in line)
    expected = f"{0xA80425FB:016x}"
    assert [status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [
        "0" * 16,
        expected,
        expected,
        expected,
        "0" * 16,
    ]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


async def test_a_user_other_than_root_has_no_capability_in_effect_unless_ambient(node: Node) -> None:
    def plain(spec: dict[str, Any]) -> None:
        spec["process"]["user"]["uid"] = 1000

    def ambient(spec: dict[str, Any]) -> None:
        plain(spec)
        names = ["CAP_NET_BIND_SERVICE"]
        spec["process"]["capabilities"] = dict.fromkeys(
            ("bounding", "effective", "permitted", "inheritable", "ambient"), names
        )

    sandbox = await node.sandbox()
    _, output = await node.run("grep CapEff /proc/self/status", sandbox=sandbox, change=plain)
    assert output.split()[-1] == "0" * 16
    _, output = await node.run("grep -E 'CapEff|CapAmb' /proc/self/status", sandbox=sandbox, change=ambient)
    assert output.split()[1::2] == [f"{1 << CAPABILITIES.index('CAP_NET_BIND_SERVICE'):016x}"] * 2


async def test_the_filter_works_without_no_new_privs_too(node: Node) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["process"]["noNewPrivileges"] = False

    _, output = await node.run(
        "unshare -U true || echo refused; grep -E 'NoNew|Seccomp:' /proc/self/status", change=change
    )
    assert output.split() == ["refused", "NoNewPrivs:", "0", "Seccomp:", "2"]


async def test_resource_limits_and_the_oom_score_are_set(node: Node) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]
        spec["process"]["oomScoreAdj"] = 456

    _, output = await node.run("ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj", change=change)
    assert output.split() == ["77", "88", "456"]


async def test_the_root_can_be_read_only(node: Node) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["root"]["readonly"] = True

    state, output = await node.run("touch /tmp/x || echo refused; touch /dev/shm/y && echo fine", change=change)
    assert (state.exit_code, output.split()) == (0, ["refused", "fine"])


async def test_what_a_container_writes_stays_in_its_own_layer(node: Node) -> None:
    sandbox = await node.sandbox()
    await node.run("echo mine > /etc/passwd; echo new > /new", sandbox=sandbox)
    _, output = await node.run("ls /; cat /etc/passwd", sandbox=sandbox)
    assert "new" not in output.split()
    assert "root:x:0:0" in output
    assert not (node.root / "new").exists()


async def test_kernel_files_are_masked_or_read_only(node: Node) -> None:
    script = """
        wc -c < /proc/keys; ls /sys/firmware | wc -l; ls /proc/acpi | wc -l
        echo 1 > /proc/sys/kernel/hostname || echo refused
        echo h > /proc/sysrq-trigger || echo refused
        touch /sys/x || echo refused; echo 1 > /sys/fs/cgroup/pids/pids.max || echo refused
        chmod 600 /proc/keys; stat -c %a /dev/null
    """
    _, output = await node.run(script)
    assert output.split()[:3] == ["0", "0", "0"]
    assert output.split()[3:7] == ["refused"] * 4
    assert Path("/dev/null").stat().st_mode & 0o777 == 0o666


async def test_only_harmless_devices_can_be_opened(node: Node) -> None:
    script = """
        head -c 4 /dev/zero | wc -c; echo x > /dev/null && echo fine
        mknod /tmp/mem c 1 1 && echo made; cat /tmp/mem || echo refused
        ls /dev | tr '\\n' ' '
    """
    _, output = await node.run(script)
    lines = output.splitlines()
    assert lines[:4] == ["4", "fine", "made", "refused"]
    expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert " ".join(lines[4].split()) == expected


async def test_nothing_of_the_host_is_reachable(node: Node) -> None:
    script = """
        for fd in /proc/self/fd/*; do readlink $fd; done; echo --
        ls /proc | grep '^[0-9]' | wc -l; echo --
        tr '\\0' '\\n' < /proc/1/environ; echo --
        cut -d: -f3 /proc/self/cgroup | sort -u; echo --
        ls -A /root /tmp
    """
    _, output = await node.run(script)
    descriptors, processes, environment, groups, files = (part.split() for part in output.split("--\n"))
    assert descriptors[0] == "/dev/null"
    assert [name.split(":")[0] for name in descriptors[1:3]] == ["pipe", "pipe"]
    assert len(descriptors) == 3
    assert int(processes[0]) <= 5  # the shell and what it runs
    assert [line.split("=")[0] for line in environment] == ["PATH", "HOME"]
    assert groups == ["/"]
    assert files == ["/root:", "/tmp:"]


async def test_the_host_s_python_cannot_be_overwritten_through_proc_self_exe(node: Node) -> None:
    """CVE-2019-5736: the command /proc/self/exe is the program of the process that becomes the container."""
    created = await node.runtime.create_container(node.config("c", ["/bin/sleep", "100"], await node.sandbox()))
    for pid in (node.spawner_pid(), created.pid):
        assert os.path.samefile(f"/proc/{pid}/exe", sys.executable)
        # While it runs it cannot be written anyway; what counts is that its mount never lets it be.
        with open(f"/proc/{pid}/exe", "rb") as program:
            assert os.fstatvfs(program.fileno()).f_flag & os.ST_RDONLY
    await node.runtime.start_container("c")
    assert not os.path.samefile(f"/proc/{created.pid}/exe", sys.executable)


async def test_bind_mounts_read_only_and_files(node: Node, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("content\n")

    def change(spec: dict[str, Any]) -> None:
        bind = {"type": "bind", "source": str(volume)}
        spec["mounts"] += [
            bind | {"destination": "/rw", "options": ["rbind"]},
            bind | {"destination": "/ro", "options": ["rbind", "ro"]},
            bind | {"destination": "/etc/deep/file", "source": str(volume / "file"), "options": ["bind", "ro"]},
            {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=4096", "nosuid"]},
        ]

    script = """
        cat /etc/deep/file; touch /ro/x || echo refused; echo x > /etc/deep/file || echo refused; echo new > /rw/new
        head -c 8192 /dev/zero > /scratch/big || echo full
    """
    _, output = await node.run(script, change=change)
    assert output.split() == ["content", "refused", "refused", "full"]
    assert (volume / "new").read_text() == "new\n"


async def test_a_mount_never_follows_a_link_out_of_the_root(node: Node, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (node.root / "link").symlink_to(outside)
    (node.root / "etc/resolv.conf").symlink_to("../run/resolve/resolv.conf")
    (tmp_path / "resolv.conf").write_text("nameserver\n")

    def change(spec: dict[str, Any]) -> None:
        mount = {"type": "tmpfs", "source": "tmpfs", "options": []}
        spec["mounts"].append(mount | {"destination": "/link/inner"})
        source = str(tmp_path / "resolv.conf")
        spec["mounts"].append(
            {"type": "bind", "source": source, "destination": "/etc/resolv.conf", "options": ["bind"]}
        )

    state, output = await node.run(
        f"mount | grep inner && cat /etc/resolv.conf && test -d {outside}/inner", change=change
    )
    assert state.exit_code == 0
    assert f"on {outside}/inner" in output
    assert output.endswith("nameserver\n")
    assert list(outside.iterdir()) == []


async def test_a_working_directory_outside_of_the_root_is_refused(node: Node) -> None:
    sandbox = await node.sandbox()
    for fd in range(3, 12):

        def change(spec: dict[str, Any], fd: int = fd) -> None:
            spec["process"]["cwd"] = f"/proc/self/fd/{fd}"

        with pytest.raises(RuntimeFailure, match="working directory"):
            await node.run("pwd", sandbox=sandbox, change=change)


async def test_containers_of_a_pod_share_network_ipc_uts_and_shared_memory(node: Node) -> None:
    sandbox = await node.sandbox(hostname="the-pod")
    await node.start("a", ["/bin/sh", "-c", "echo seen > /dev/shm/note; exec sleep 100"], sandbox)
    await node.start("b", ["/bin/sleep", "100"], sandbox)
    first, second = [await node.container(name) for name in "ab"]
    for kind in ("net", "ipc", "uts"):
        assert len({os.readlink(f"/proc/{pid}/ns/{kind}") for pid in (first.pid, second.pid, sandbox.pid)}) == 1
        assert os.readlink(f"/proc/{first.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    for kind in ("pid", "mnt", "cgroup"):
        names = {os.readlink(f"/proc/{pid}/ns/{kind}") for pid in (first.pid, second.pid, os.getpid())}
        assert len(names) == 3
    code, out, _ = await node.execute("b", ["/bin/sh", "-c", "hostname; while ! cat /dev/shm/note; do :; done 2>&-"])
    assert (code, out) == (0, "the-pod\nseen\n")
    _, out, _ = await node.execute("b", ["/bin/cat", "/sys/class/net/lo/operstate", "/proc/net/dev"])
    assert [line.split(":")[0].strip() for line in out.splitlines()[3:]] == ["lo"]


async def test_a_pod_may_share_its_pid_namespace(node: Node) -> None:
    sandbox = await node.sandbox(share_pids=True)

    def share(spec: dict[str, Any]) -> None:
        spaces = spec["linux"]["namespaces"]
        spaces[:] = [space for space in spaces if space["type"] != "pid"]
        spaces.append({"type": "pid", "path": f"/proc/{sandbox.pid}/ns/pid"})

    await node.start("a", ["/bin/sh", "-c", "(sleep 1000 &) ; exec sleep 100"], sandbox, change=share)
    await node.start("b", ["/bin/sleep", "200"], sandbox, change=share)
    _, out, _ = await node.execute("b", ["/bin/sh", "-c", "cat /proc/[0-9]*/comm; readlink /proc/1/root"])
    assert out.split().count("sleep") == 3
    await node.runtime.kill_container("a", signal.SIGKILL)
    await node.exited("a")
    await eventually(lambda: not node.cgroups.processes(f"{node.group}/pod/a"))  # also the one in the background
    assert (await node.container("b")).phase is Phase.RUNNING


async def test_sysctls_are_the_pod_s_own(node: Node) -> None:
    wanted = {"net.ipv4.ip_local_port_range": "30000 30100", "kernel.shm_rmid_forced": "1"}
    before = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    sandbox = await node.sandbox(sysctls=wanted)
    _, output = await node.run("cat /proc/sys/net/ipv4/ip_local_port_range", sandbox=sandbox)
    assert output.split() == ["30000", "30100"]
    assert Path("/proc/sys/net/ipv4/ip_local_port_range").read_text() == before
    with pytest.raises(RuntimeFailure, match=r"sysctl vm\.swappiness does not belong"):
        await node.sandbox("other", sysctls={"vm.swappiness": "1"})


async def test_the_host_s_network_can_be_used(node: Node) -> None:
    sandbox = await node.sandbox(host_network=True)
    state = await node.start("c", ["/bin/sleep", "100"], sandbox)
    assert os.readlink(f"/proc/{state.pid}/ns/net") == os.readlink("/proc/self/ns/net")


async def test_a_privileged_container_has_what_the_host_allows(node: Node) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["process"]["capabilities"] = capability_sets(list(CAPABILITIES))
        spec["process"]["noNewPrivileges"] = False
        spec["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
        spec["linux"]["maskedPaths"] = spec["linux"]["readonlyPaths"] = []
        del spec["linux"]["seccomp"]

    script = (
        "grep CapEff /proc/self/status; mount -t tmpfs none /tmp && echo mounted; mknod /tmp/m c 1 1; cat /tmp/m | :"
    )
    _, output = await node.run(script, change=change)
    words = output.split()
    assert int(words[1], 16) == syscalls.permitted_capabilities()
    assert words[2] == "mounted"


async def test_many_layers_are_stacked(node: Node, tmp_path: Path) -> None:
    layers = []
    for number in range(70):
        layer = tmp_path / f"layer-with-a-name-that-is-long-enough-to-fill-the-page-{number}"
        layer.mkdir()
        (layer / "which").write_text(f"{number}\n")
        layers.append(layer)
    config = node.config("c", ["/bin/cat", "/which"], await node.sandbox())
    rootfs = replace(config.rootfs, lower=[*layers, node.root])
    await node.runtime.create_container(replace(config, rootfs=rootfs))
    await node.runtime.start_container("c")
    await node.exited("c")
    assert node.output("c") == "0\n"


async def test_removing_leaves_nothing_behind(node: Node) -> None:
    """Mounts, cgroups, processes, files and the spawner's own descriptors are as before."""

    def host() -> tuple[Any, ...]:
        spawner = node.spawner_pid()
        children = Path(f"/proc/{spawner}/task/{spawner}/children").read_text().split()
        groups = [path for root in node.cgroups.directories(node.group) for path in Path(root).rglob("*/")]
        files = sorted(str(path) for path in node.state_dir.rglob("*"))
        return len(os.listdir(f"/proc/{spawner}/fd")), children, groups, files

    def mounts() -> list[str]:
        """Ours: other tests mount things at the same time."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [line for line in lines if str(node.state_dir) in line]

    await node.start("first", ["/bin/true"], await node.sandbox())  # it brings what keeps exit codes, which stays
    await node.runtime.remove_sandbox("pod")
    node.cgroups.remove(f"{node.group}/pod")
    before, mounted = host(), mounts()
    for _ in range(3):
        sandbox = await node.sandbox()
        await node.start("running", ["/bin/sh", "-c", "sleep 100 & sleep 200"], sandbox)
        await node.runtime.create_container(node.config("created", ["/bin/true"], sandbox))
        await node.start("ended", ["/bin/true"], sandbox)
        assert mounts() == mounted
        await node.runtime.remove_sandbox("pod")
        node.cgroups.remove(f"{node.group}/pod")
    assert host() == before
    assert list((node.directory / "writable").iterdir()) == []
    assert await node.runtime.list_containers() == []
    await node.runtime.remove_sandbox("pod")  # again: fine
    await node.runtime.remove_container("running")


async def test_a_sandbox_that_dies_is_told(node: Node) -> None:
    sandbox = await node.sandbox()
    os.kill(sandbox.pid, signal.SIGKILL)
    async for event in node.runtime.events():
        if event.kind == "sandbox-died":
            assert event.id == "pod"
            break
    assert [item.alive for item in await node.runtime.list_sandboxes()] == [False]
    with pytest.raises(RuntimeFailure, match="sandbox pod is not running"):
        await node.runtime.create_container(node.config("c", ["/bin/true"], sandbox))


async def test_an_exit_is_told_as_an_event(node: Node) -> None:
    await node.start("c", ["/bin/true"], await node.sandbox())
    async for event in node.runtime.events():
        if event.id == "c":
            assert event.kind == "exited"
            break
    state = await node.container("c")
    assert (state.phase, state.exit_code) == (Phase.EXITED, 0)


async def _wait_for_output(node: Node, identifier: str, text: str) -> None:
    while text not in node.output(identifier):
        await asyncio.sleep(0.005)
