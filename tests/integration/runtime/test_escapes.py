"""Attempts to get out of a container, after those that were published, each of which must fail.

Every attempt runs in a real container with Kubernetes' default capabilities and filter, as root, which is what an
attacker has at most in an ordinary pod. A name beginning with CVE says whose idea it was.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.contract import RuntimeFailure
from tests.integration.runtime.runtime_node import Node

pytestmark = pytest.mark.root

PYTHON = "/usr/bin/python3"
PRELUDE = """
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    return 'done' if result >= 0 else errno.errorcode[ctypes.get_errno()]
def text(words):
    kept.append(ctypes.create_string_buffer(words.encode()))
    return ctypes.addressof(kept[-1])
kept = []
"""
NUMBERS = {
    "x86_64": {
        "mount": 165, "unshare": 272, "setns": 308, "add_key": 248, "keyctl": 250, "bpf": 321, "init_module": 175,
        "finit_module": 313, "kexec_load": 246, "perf_event_open": 298, "open_by_handle_at": 304, "userfaultfd": 323,
        "io_uring_setup": 425, "pivot_root": 155, "swapon": 167, "reboot": 169, "settimeofday": 164, "quotactl": 179,
        "ptrace": 101, "process_vm_readv": 310, "acct": 163, "sethostname": 170, "clone3": 435, "umount2": 166,
        "move_mount": 429, "fsopen": 430, "open_tree": 428, "personality": 135, "kcmp": 312, "syslog": 103,
    },
    "aarch64": {
        "mount": 40, "unshare": 97, "setns": 268, "add_key": 217, "keyctl": 219, "bpf": 280, "init_module": 105,
        "finit_module": 273, "kexec_load": 104, "perf_event_open": 241, "open_by_handle_at": 265, "userfaultfd": 282,
        "io_uring_setup": 425, "pivot_root": 41, "swapon": 224, "reboot": 142, "settimeofday": 170, "quotactl": 60,
        "ptrace": 117, "process_vm_readv": 270, "acct": 89, "sethostname": 161, "clone3": 435, "umount2": 39,
        "move_mount": 429, "fsopen": 430, "open_tree": 428, "personality": 92, "kcmp": 272, "syslog": 116,
    },
}[os.uname().machine]  # fmt: skip


async def python(node: Node, script: str, **options: Any) -> str:
    """What a Python script in a container prints."""
    state, output = await node.run([PYTHON, "-c", PRELUDE + script], **options)
    assert state.exit_code == 0, node.output(state.id, "stderr")
    return output.strip()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mount", "text('none'), text('/mnt'), text('tmpfs'), 0, 0"),
        ("umount2", "text('/proc/sys'), 2"),
        ("fsopen", "text('tmpfs'), 0"),
        ("open_tree", "-100, text('/'), 1"),
        ("move_mount", "-1, text('/'), -1, text('/'), 0"),
        ("pivot_root", "text('/'), text('/')"),
        ("unshare", "0x10000000"),  # a user namespace would give all capabilities in it (CVE-2022-0185, CVE-2022-0492)
        ("unshare", "0x00020000"),
        ("setns", "0, 0"),
        ("add_key", "text('user'), text('k'), text('v'), 1, -3"),
        ("keyctl", "0, -3, 1"),  # CVE-2014-9922's kind: keyrings are not namespaced
        ("bpf", "0, 0, 0"),
        ("perf_event_open", "0, 0, -1, -1, 0"),
        ("userfaultfd", "0"),
        ("io_uring_setup", "1, 0"),
        ("open_by_handle_at", "-100, 0, 0"),  # "shocker"
        ("init_module", "0, 0, 0"),
        ("finit_module", "0, 0, 0"),
        ("kexec_load", "0, 0, 0, 0"),
        ("swapon", "text('/x'), 0"),
        ("reboot", "0, 0, 0, 0"),
        ("settimeofday", "0, 0"),
        ("quotactl", "0, 0, 0, 0"),
        ("acct", "0"),
        ("sethostname", "text('x'), 1"),
        ("syslog", "3, 0, 0"),
        ("personality", "0x0400000"),
    ],
)
async def test_dangerous_calls_are_refused(node: Node, name: str, arguments: str) -> None:
    answer = await python(node, f"print(call({NUMBERS[name]}, {arguments}))")
    assert answer in ("EPERM", "ENOSYS"), answer


async def test_cve_2022_0492_no_release_agent_can_be_set(node: Node) -> None:
    script = """
        for group in /sys/fs/cgroup/*; do
            echo 1 > $group/notify_on_release && echo wrote; echo /x > $group/release_agent && echo wrote
        done
        mkdir /tmp/c; mount -t cgroup -o memory none /tmp/c && echo mounted
        unshare -UrmC true && echo unshared
        true
    """
    _, output = await node.run(script)
    assert output == ""


async def test_the_kernel_s_helpers_cannot_be_named(node: Node) -> None:
    script = """
        for file in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/hotplug \\
                /sys/kernel/uevent_helper /proc/sysrq-trigger /proc/sys/fs/binfmt_misc/register \\
                /proc/sys/vm/panic_on_oom /sys/power/state /proc/sys/kernel/domainname; do
            if [ -e $file ]; then (echo x > $file) 2>/dev/null && echo "wrote $file"; fi
        done
        true
    """
    _, output = await node.run(script)
    assert output == ""


async def test_the_host_s_disks_can_be_made_but_not_opened(node: Node) -> None:
    devices = [line.split() for line in Path("/proc/partitions").read_text().splitlines()[2:]]
    major, minor = devices[0][:2]
    script = f"""
        mknod /tmp/disk b {major} {minor} && dd if=/tmp/disk of=/dev/null bs=1 count=1 2>/dev/null && echo read
        mknod /tmp/mem c 1 1 && cat /tmp/mem >/dev/null 2>&1 && echo read
        mknod /tmp/kmsg c 1 11 && timeout 1 head -c1 /tmp/kmsg >/dev/null 2>&1 && echo read
        mknod /tmp/fuse c 10 229 && (: < /tmp/fuse) 2>/dev/null && echo opened
        mkdir /tmp/m; mount /tmp/disk /tmp/m 2>/dev/null && echo mounted
        true
    """
    _, output = await node.run(script)
    assert output == ""


async def test_no_process_of_the_host_is_seen_or_traced(node: Node) -> None:
    mine = os.getpid()
    script = f"""
pids = [name for name in os.listdir('/proc') if name.isdigit()]
print(len(pids), os.path.exists('/proc/{mine}/environ'))
print(call({NUMBERS["ptrace"]}, 16, {mine}, 0, 0))
piece = ctypes.create_string_buffer(8)
vector = (ctypes.c_long * 2)(ctypes.addressof(piece), 8)
print(call({NUMBERS["process_vm_readv"]}, {mine}, ctypes.addressof(vector), 1, ctypes.addressof(vector), 1, 0))
try:
    os.kill({mine}, 0); print('signalled')
except ProcessLookupError:
    print('none')
"""
    count, there, *answers = (await python(node, script)).split()
    assert int(count) <= 2
    assert there == "False"
    assert answers[0] in ("EPERM", "ESRCH")
    assert answers[1] in ("EPERM", "ESRCH")
    assert answers[2] == "none"


async def test_cve_2024_21626_no_descriptor_or_directory_of_the_runtime_leaks(node: Node) -> None:
    script = """
import time
print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:-1], os.getcwd())
for fd in range(3, 64):
    try:
        print('leaked', os.readlink(f'/proc/1/fd/{fd}'))
    except FileNotFoundError:
        pass
"""
    assert await python(node, script) == "[0, 1, 2] /"
    sandbox = await node.sandbox()
    for number in range(3, 24):

        def change(spec: dict[str, Any], number: int = number) -> None:
            spec["process"]["cwd"] = f"/proc/self/fd/{number}"

        with pytest.raises(RuntimeFailure, match="working directory"):
            await node.run("pwd", sandbox=sandbox, change=change)


async def test_cve_2019_5736_a_process_that_waits_for_execs_does_not_reach_the_host_s_program(node: Node) -> None:
    """The container catches each process that joins it, and tries to open its program for writing."""
    script = """
seen = set()
print('ready', flush=True)
while not os.path.exists('/tmp/enough'):
    for name in os.listdir('/proc'):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            fd = os.open(f'/proc/{name}/exe', os.O_RDONLY)
        except OSError:
            continue
        path = os.readlink(f'/proc/self/fd/{fd}')
        read_only = bool(os.fstatvfs(fd).f_flag & os.ST_RDONLY)
        seen.add((path, read_only))
        os.close(fd)
print(sorted(seen))
"""
    sandbox = await node.sandbox()
    await node.start("watcher", [PYTHON, "-c", PRELUDE + script], sandbox)
    while "ready" not in node.output("watcher"):
        await node.until("watcher", lambda state: True)
    for _ in range(30):
        assert (await node.execute("watcher", ["/bin/true"]))[0] == 0
    await node.execute("watcher", ["/bin/touch", "/tmp/enough"])
    await node.exited("watcher")
    seen = eval(node.output("watcher").splitlines()[-1])
    for path, read_only in seen:
        assert path.startswith("/usr/bin/") or read_only, seen
        assert "python" not in path or path.startswith("/usr/bin/"), seen


async def test_cve_2021_30465_a_mount_target_swapped_for_a_link_stays_inside(node: Node, tmp_path: Path) -> None:
    """One container swaps a directory of a shared volume for a link to / while another one mounts on it."""
    shared, other = tmp_path / "shared", tmp_path / "other"
    for path in (shared / "target", other):
        path.mkdir(parents=True)
    (other / "mark").write_text("x")

    def bind(source: Path, destination: str) -> dict[str, Any]:
        return {"type": "bind", "source": str(source), "destination": destination, "options": ["rbind", "rprivate"]}

    sandbox = await node.sandbox()
    swap = """
        cd /shared; echo ready
        while :; do rm -rf target link; ln -s / link; mv -T link target; rm -f target; mkdir target; done
    """
    swapper = ["/bin/sh", "-c", swap]
    await node.start("swapper", swapper, sandbox, change=lambda spec: spec["mounts"].append(bind(shared, "/shared")))
    while "ready" not in node.output("swapper"):
        await node.until("swapper", lambda state: True)
    before = sorted(os.listdir("/"))
    ended = 0
    for number in range(12):

        def change(spec: dict[str, Any]) -> None:
            spec["mounts"] += [bind(shared, "/shared"), bind(other, "/shared/target")]

        try:
            config = node.config(f"victim{number}", ["/bin/ls", "/"], sandbox, change=change)
            await node.runtime.create_container(config)
            await node.runtime.start_container(config.id)
            await node.exited(config.id)
            ended += 1
            assert set(node.output(config.id).split()) <= {*os.listdir(node.root), "shared", "mark", "sys"}
        except RuntimeFailure:
            continue  # the directory was away just then
    assert sorted(os.listdir("/")) == before
    assert not Path("/mark").exists()


@pytest.mark.parametrize("inside", ["/proc", "/proc/self/attr", "/proc/1/ns", "/proc/sys/kernel"])
async def test_cve_2025_52881_nothing_is_mounted_over_proc(node: Node, tmp_path: Path, inside: str) -> None:
    """The runtime's own writes to /proc must reach the kernel, and not a file of the attacker's."""

    def change(spec: dict[str, Any]) -> None:
        spec["mounts"].append({"type": "bind", "source": str(tmp_path), "destination": inside, "options": ["rbind"]})

    with pytest.raises(RuntimeFailure, match=r"cannot be mounted because it is inside /proc"):
        await node.run("true", change=change)


async def test_cve_2025_31133_the_image_s_dev_null_is_not_what_covers_masked_paths(node: Node) -> None:
    (node.root / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")
    _, output = await node.run("stat -c %t:%T /dev/null; wc -c </proc/keys; cat /proc/kcore | wc -c")
    assert output.split() == ["1:3", "0", "0"]


async def test_cve_2019_19921_an_image_s_proc_that_is_a_link_gives_no_unmasked_one(node: Node) -> None:
    (node.root / "proc").rmdir()
    (node.root / "elsewhere").mkdir()
    (node.root / "proc").symlink_to("/elsewhere")
    script = "(echo x > /proc/sys/kernel/core_pattern) 2>/dev/null && echo wrote; wc -c </proc/keys"
    _, output = await node.run(script)
    assert output.split() == ["0"]


async def test_cve_2020_15257_the_host_s_abstract_sockets_are_out_of_reach(node: Node) -> None:
    name = f"\0pyk-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        script = f"""
s = socket.socket(socket.AF_UNIX)
try:
    s.connect({name!r}); print('connected')
except ConnectionRefusedError:
    print('refused')
"""
        assert await python(node, script) == "refused"
    assert not any("@" in line and "spawner" in line for line in Path("/proc/net/unix").read_text().splitlines())


async def test_a_set_user_id_program_gives_nothing(node: Node) -> None:
    program = node.root / "id-as-root"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)

    def change(spec: dict[str, Any]) -> None:
        spec["process"]["user"] = {"uid": 1000, "gid": 1000}

    _, output = await node.run("/id-as-root -u", change=change)
    assert output == "1000\n"


async def test_keys_typed_into_a_terminal_stay_in_the_container(node: Node) -> None:
    """TIOCSTI types into the terminal that a process has: which must not be one of the host's."""
    script = """
import fcntl, termios
try:
    fd = os.open('/dev/tty', os.O_RDWR); print('has', os.ttyname(fd))
except OSError as error:
    print(errno.errorcode[error.errno])
try:
    fcntl.ioctl(0, termios.TIOCSTI, b'x'); print('typed')
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    assert (await python(node, script)).split() == ["ENXIO", "ENOTTY"]


async def test_links_to_the_host_in_proc_lead_nowhere(node: Node) -> None:
    script = f"""
        ls /proc/1/root/ | tr '\\n' ' '; echo
        cat /proc/1/root{__file__} 2>/dev/null && echo read
        cd /proc/self/cwd/../../../..; ls -d .{__file__} 2>/dev/null; true
    """
    _, output = await node.run(script)
    first, *rest = output.splitlines()
    assert set(first.split()) <= {*os.listdir(node.root), "sys", "dev", "proc"}
    assert rest == []


async def test_a_process_cannot_leave_its_cgroup(node: Node) -> None:
    script = """
        for group in /sys/fs/cgroup/* /sys/fs/cgroup; do
            (mkdir $group/x) 2>/dev/null && echo made; (echo $$ > $group/cgroup.procs) 2>/dev/null && echo moved
        done
        true
    """
    _, output = await node.run(script)
    assert output == ""
