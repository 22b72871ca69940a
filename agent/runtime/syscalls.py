"""The raw system calls that Python's `os` does not wrap, through ctypes, and nothing above them.

Every number, structure and flag of the kernel's that the runtime uses directly stands here, for x86-64 and
aarch64. Calls raise `OSError` with the kernel's errno. The library is loaded as a `PyDLL`: these calls do not give
up the interpreter lock, so that a child made by `clone3` in a single-threaded process simply goes on.

Imported by the spawner, whose memory is counted: only small modules of the standard library.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MACHINE = os.uname().machine

_NUMBERS = {
    "x86_64": {
        "bpf": 321,
        "capget": 125,
        "capset": 126,
        "keyctl": 250,
        "mount": 165,
        "pivot_root": 155,
        "prctl": 157,
        "rt_sigaction": 13,
        "seccomp": 317,
        "sethostname": 170,
        "setns": 308,
        "timerfd_create": 283,
        "timerfd_settime": 286,
        "umount2": 166,
        "unshare": 272,
        "execveat": 322,
    },
    "aarch64": {
        "bpf": 280,
        "capget": 90,
        "capset": 91,
        "keyctl": 219,
        "mount": 40,
        "pivot_root": 41,
        "prctl": 167,
        "rt_sigaction": 134,
        "seccomp": 277,
        "sethostname": 161,
        "setns": 268,
        "timerfd_create": 85,
        "timerfd_settime": 86,
        "umount2": 39,
        "unshare": 97,
        "execveat": 281,
    },
}[MACHINE]
# Numbers above 423 are the same on every architecture.
_NUMBERS |= {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
}

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
CLONE_INTO_CGROUP = 0x200000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS = 0x1, 0x2, 0x4, 0x8, 0x10
MS_REMOUNT, MS_MANDLOCK, MS_DIRSYNC, MS_NOSYMFOLLOW = 0x20, 0x40, 0x80, 0x100
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC = 0x400, 0x800, 0x1000, 0x4000
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MS_RELATIME, MS_STRICTATIME, MS_LAZYTIME = 1 << 21, 1 << 24, 1 << 25
MNT_DETACH = 2

MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 0x1, 0x2, 0x4, 0x8
MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_STRICTATIME = 0x70, 0x10, 0x20
MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOSYMFOLLOW = 0x80, 0x200000
MOUNT_ATTR_IDMAP = 0x100000

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10

SO_SNDBUFFORCE = 32  # not among Python's names

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

_CAPABILITY_VERSION_3 = 0x20080522
_SECCOMP_SET_MODE_FILTER = 1
_SIGACTION_BYTES, _SIGNAL_SET_BYTES = 32, 8
LIBRARY_SIGNALS = (32, 33)
"""What glibc keeps for its threads (signal(7)); exec(2) leaves them ignored if they were."""
_KEYCTL_JOIN_SESSION_KEYRING = 1
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO = struct.Struct("=QQ11Ii")  # the first version of the structure: mask, ..., exit_code

_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def call(name: str, *arguments: int | bytes | None) -> int:
    """Make the system call `name`; integers are passed as 64 bits, bytes as pointers to them.

    Raises:
        OSError: the call failed.
    """
    prepared = [ctypes.c_long(value) if type(value) is int else value for value in arguments]
    result: int = _syscall(ctypes.c_long(_NUMBERS[name]), *prepared)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def clone3(flags: int, cgroup_fd: int | None = None) -> tuple[int, int]:
    """Fork with new namespaces: (pid, pidfd) in the parent, (0, -1) in the child.

    With `cgroup_fd`, a directory of a cgroup v2 hierarchy, the child starts in that cgroup (Linux 5.7).
    The caller must be single-threaded, and the child must end in `os._exit` or an exec.
    """
    pidfd = ctypes.c_int(-1)
    flags |= CLONE_PIDFD
    if cgroup_fd is not None:
        flags |= CLONE_INTO_CGROUP
    sigchld = 17
    arguments = struct.pack("=11Q", flags, ctypes.addressof(pidfd), 0, 0, sigchld, 0, 0, 0, 0, 0, cgroup_fd or 0)
    pid = call("clone3", arguments, len(arguments))
    return pid, -1 if pid == 0 else pidfd.value


def setns(fd: int, flags: int) -> None:
    """Join namespaces: those in `flags` of a process when `fd` is a pidfd (Linux 5.8), else the one `fd` names."""
    call("setns", fd, flags)


def unshare(flags: int) -> None:
    call("unshare", flags)


def mount(source: bytes, target: bytes, filesystem: bytes | None, flags: int, data: bytes | None = None) -> None:
    """mount(2); `data` may be at most a page long."""
    call("mount", source, target, filesystem, flags, data)


def detach(target: bytes) -> None:
    """Unmount lazily."""
    call("umount2", target, MNT_DETACH)


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    call("pivot_root", new_root, put_old)


def clone_tree(fd: int, path: bytes, *, recursive: bool) -> int:
    """A detached copy of the mount at `path` (empty: of `fd` itself), as a descriptor (Linux 5.2)."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return call("open_tree", fd, path, flags | (AT_EMPTY_PATH if not path else 0))


def move_mount(mount_fd: int, target_fd: int) -> None:
    """Attach a detached mount on what `target_fd` has open."""
    call("move_mount", mount_fd, b"", target_fd, b"", _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)


def set_mount_attributes(
    mount_fd: int,
    *,
    add: int = 0,
    clear: int = 0,
    propagation: int = 0,
    user_namespace: int = 0,
    recursive: bool = False,
) -> None:
    """mount_setattr(2) on the mount that `mount_fd` has open (Linux 5.12). `user_namespace` is a descriptor of the one
    that MOUNT_ATTR_IDMAP is for."""
    attributes = struct.pack("=4Q", add, clear, propagation, user_namespace)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    call("mount_setattr", mount_fd, b"", flags, attributes, len(attributes))


def open_in_root(root_fd: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open `path` as a process whose root is `root_fd` would, so that no symbolic link leads out of it and none of
    /proc's magic links is followed (openat2, Linux 5.6)."""
    how = struct.pack("=3Q", flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    return call("openat2", root_fd, path, how, len(how))


def close_range(first: int, last: int) -> None:
    """Close every descriptor from `first` to `last`, both included (Linux 5.9)."""
    call("close_range", first, last, 0)


def close_all_but(kept: Sequence[int]) -> None:
    """Close every descriptor that is not in `kept`."""
    following = 0
    for fd in sorted(set(kept)):
        if fd > following:
            close_range(following, fd - 1)
        following = fd + 1
    close_range(following, 0xFFFFFFFF)


def prctl(option: int, argument2: int | bytes = 0, argument3: int = 0) -> int:
    return call("prctl", option, argument2, argument3, 0, 0)


def default_signal(number: int) -> None:
    """Have the signal do what it does by default, also one that the C library keeps for itself and Python cannot
    set."""
    call("rt_sigaction", number, bytes(_SIGACTION_BYTES), None, _SIGNAL_SET_BYTES)


def set_hostname(name: bytes) -> None:
    call("sethostname", name, len(name))


def join_new_session_keyring() -> None:
    """Leave the spawner's session keyring for a new, anonymous one."""
    call("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, None, 0, 0, 0)


def permitted_capabilities() -> int:
    """This process's permitted set, one bit a capability."""
    data = ctypes.create_string_buffer(24)
    call("capget", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), ctypes.addressof(data))
    low, high = struct.unpack_from("=4xI8xI", data)
    return int(low | high << 32)


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) on this process; one bit a capability."""
    low = 0xFFFFFFFF
    data = struct.pack(
        "=6I",
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> 32,
        permitted >> 32,
        inheritable >> 32,
    )
    call("capset", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), data)


def install_seccomp_filter(program: bytes, flags: int = 0) -> None:
    """Put a classic BPF program, 8 bytes an instruction, in front of this process's system calls."""
    instructions = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    call("seccomp", _SECCOMP_SET_MODE_FILTER, flags, fprog)


def pidfd_open(pid: int) -> int:
    """A descriptor of the process; it is closed on exec and readable once the process has ended."""
    return call("pidfd_open", pid, 0)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A duplicate of the process' descriptor `fd`, closed on exec (Linux 5.6)."""
    return call("pidfd_getfd", pidfd, fd, 0)


def duplicate_above(fd: int, lowest: int) -> int:
    """A duplicate with a number of at least `lowest`, closed on exec."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    call("pidfd_send_signal", pidfd, signal, None, 0)


def pidfd_exit_status(pidfd: int) -> int | None:
    """The wait status of a process that has ended and was reaped, child or not (Linux 6.15); None where it still runs,
    waits for its parent, or the kernel does not tell."""
    request = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, request)
    except OSError:
        return None
    mask, *_, status = _PIDFD_INFO.unpack(request)
    return int(status) if mask & _PIDFD_INFO_EXIT else None


def exec_fd(fd: int, arguments: Sequence[bytes], environment: Sequence[bytes]) -> None:
    """Execute the open file `fd`; returns only by raising."""
    argv = (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)
    envp = (ctypes.c_char_p * (len(environment) + 1))(*environment, None)
    call("execveat", fd, b"", ctypes.addressof(argv), ctypes.addressof(envp), AT_EMPTY_PATH)


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2): what it returns depends on `command`, a descriptor for most."""
    return call("bpf", command, attributes, len(attributes))
