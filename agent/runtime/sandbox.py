"""The sandbox: one pause process that holds a pod's namespaces and does nothing.

Its program is 130 bytes of machine code in a sealed memory file that all sandboxes of a node execute, so it costs a
few pages each. It ignores SIGCHLD, which makes it reap orphans when it is the first process of a shared PID
namespace. Its root file system is the pod's shared memory, a tmpfs, and nothing else: containers take /dev/shm from
there, no directory of the host is reachable through it, and no mount of the host is kept busy by it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct

from agent.runtime import syscalls, userns
from agent.runtime.child import Child, at, exit_without_spawner
from agent.runtime.process import set_oom_score

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_CODE = {
    # mov eax, 34 (pause); syscall; jmp back
    "x86_64": (62, bytes.fromhex("b822000000 0f05 ebf7")),
    # x0..x3 = 0; x8 = 73 (ppoll); svc 0; b back
    "aarch64": (
        183,
        struct.pack("<7I", 0xD2800000, 0xD2800001, 0xD2800002, 0xD2800003, 0xD2800928, 0xD4000001, 0x17FFFFFA),
    ),
}
_BASE = 0x400000
_ELF_HEADER, _PROGRAM_HEADER = 64, 56
_PAUSE_USER = 65535
_PAUSE_OOM_SCORE = -998  # what Kubernetes gives its pause containers
_SHM_OPTIONS = b"mode=1777,size=65536k,uid=0,gid=0"
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_F_ADD_SEALS, _ALL_SEALS = 1033, 0xF  # seal, shrink, grow, write

_IPC_SYSCTLS = ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")


def pause_program(machine: str = syscalls.MACHINE) -> bytes:
    """A static ELF executable that waits for ever."""
    elf_machine, code = _CODE[machine]
    start = _ELF_HEADER + _PROGRAM_HEADER
    size = start + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,
        elf_machine,
        1,
        _BASE + start,
        _ELF_HEADER,
        0,
        0,
        _ELF_HEADER,
        _PROGRAM_HEADER,
        1,
        0,
        0,
        0,
    )
    readable_and_executable = 5
    segment = struct.pack("<IIQQQQQQ", 1, readable_and_executable, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


def sealed_pause_file() -> int:
    """The pause program in a memory file that nobody can change any more."""
    fd = os.memfd_create("pause", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, pause_program())
    fcntl.fcntl(fd, _F_ADD_SEALS, _ALL_SEALS)
    # Executing a file that is open for writing fails: go on with a descriptor that can only read.
    readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(fd)
    return readable


def clone_flags(config: Mapping[str, Any]) -> int:
    """The namespaces that the sandbox's process is made in. With a user namespace, which is to own them, it makes all
    but the PIDs' itself."""
    flags = namespace_flags(config)
    return flags & syscalls.CLONE_NEWPID if config["first_host_id"] else flags


def namespace_flags(config: Mapping[str, Any]) -> int:
    """The namespaces that a sandbox of this configuration gets."""
    flags = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS
    if not config["host_network"]:
        flags |= syscalls.CLONE_NEWNET
    if not config["host_ipc"]:
        flags |= syscalls.CLONE_NEWIPC
    if config["share_pids"]:
        flags |= syscalls.CLONE_NEWPID
    return flags


def sysctl_files(config: Mapping[str, Any]) -> dict[str, str]:
    """The files below /proc/sys to write, with their values.

    Raises:
        ValueError: a sysctl that does not belong to a namespace of the sandbox, and so would change the host.
    """
    files = {}
    for name, value in config["sysctls"].items():
        # `net/ipv4/conf/eth0.100/x` and `net.ipv4.conf.eth0/100.x` are the two spellings of one name.
        dots_first = "/" not in name or -1 < name.find(".") < name.find("/")
        path = name.translate(str.maketrans("./", "/.")) if dots_first else name
        dotted = path.replace("/", ".")
        of_network = path.startswith("net/") and not config["host_network"]
        of_ipc = dotted.startswith(_IPC_SYSCTLS) and not config["host_ipc"]
        if not (of_network or of_ipc) or ".." in path.split("/"):
            raise ValueError(f"sysctl {name} does not belong to a namespace of the pod")
        files[path] = str(value)
    return files


def pause(child: Child, config: Mapping[str, Any], sysctls: Mapping[str, str], scratch: str, program: int) -> None:
    """The sandbox's child: set the namespaces up, then execute the pause program."""
    syscalls.close_all_but([0, 1, 2, child.channel, program, *child.cgroup_files])
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    at("join the sandbox's cgroup")
    for fd in child.cgroup_files:
        os.write(fd, b"0")
    set_oom_score(_PAUSE_OOM_SCORE)
    if config["first_host_id"]:
        at("make the user namespace")
        userns.make(config["first_host_id"], namespace_flags(config) & ~syscalls.CLONE_NEWPID)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    at("set the host name")
    syscalls.set_hostname(os.fsencode(config["hostname"]))
    if not config["host_network"]:
        at("bring the loopback interface up")
        _bring_up("lo")
    for path, value in sysctls.items():
        at(f"set the sysctl {path}")
        with open(f"/proc/sys/{path}", "w", encoding="utf-8") as file:
            file.write(value)
    at("make the sandbox's root")
    syscalls.mount(b"none", b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    hidden = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount(b"shm", os.fsencode(scratch), b"tmpfs", hidden, _SHM_OPTIONS)
    os.chdir(scratch)
    syscalls.pivot_root(b".", b".")
    syscalls.detach(b".")
    os.chdir("/")
    at("give up privileges")
    syscalls.join_new_session_keyring()
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    os.setgroups([])
    os.setresgid(_PAUSE_USER, _PAUSE_USER, _PAUSE_USER)
    os.setresuid(_PAUSE_USER, _PAUSE_USER, _PAUSE_USER)
    at("execute the pause program")
    syscalls.close_all_but([child.channel, program])
    exit_without_spawner(child.channel)
    syscalls.exec_fd(program, [b"pause"], [])


def _bring_up(interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sH22x", interface.encode(), 0)
        flags = struct.unpack_from("16xH", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[0]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", interface.encode(), flags | _IFF_UP))
