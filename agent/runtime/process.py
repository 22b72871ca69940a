"""Turn the child into the container's process: limits, user, capabilities, seccomp, and the exec itself.

Runs in the child, inside the container's namespaces and root, for a container's first process and for execs alike. The
order is runc's, and each place has a reason: the filter goes in before privileges are dropped when the process
may still gain some (that takes CAP_SYS_ADMIN), and as the very last thing otherwise; the user changes while
capabilities are kept, then those are cut to what the document says.
"""

from __future__ import annotations

import errno
import os
import resource
import stat

from agent.runtime import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LAST_CAPABILITY = 63
_PASSWD_LIMIT = 1 << 20  # bytes of /etc/passwd that are looked at


class CannotExecute(Exception):
    """The command does not exist (127) or cannot be executed (126). The text completes "unable to start container
    process: "."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def set_oom_score(score: int) -> None:
    """How likely the kernel picks this process when memory runs out. A score lower than the spawner's own needs a
    capability (CAP_SYS_RESOURCE) that it may lack, inside a container for instance; then its own holds."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except PermissionError:
        return


def become(
    process: dict[str, Any],
    filter_program: bytes,
    kept_capabilities: int,
    at: Callable[[str], None],
    last: Callable[[], None],
) -> NoReturn:
    """Execute `process["args"]` as the plan says; `last` is called when only the filter and the exec are to come.

    Only capabilities in `kept_capabilities`, which the spawner has itself, can be given.

    Raises:
        CannotExecute: with runc's words.
        OSError: a step failed.
    """
    environment = _environment(process)
    at("set resource limits")
    for name, soft, hard in process["rlimits"]:
        resource.setrlimit(getattr(resource, name), (_limit(soft), _limit(hard)))
    at("join a new session keyring")
    _join_keyring()
    os.umask(process["umask"])
    if process["apparmor"]:
        at(f"apply the AppArmor profile {process['apparmor']}")
        _confine(process["apparmor"])
    if process["no_new_privileges"]:
        at("set no_new_privs")
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    elif filter_program:
        at("install the seccomp filter")
        syscalls.install_seccomp_filter(filter_program, process["seccomp_flags"])
    _change_user(process, kept_capabilities, at)
    at("find the command")
    path = find_command(process["args"][0], environment)
    arguments = [os.fsencode(argument) for argument in process["args"]]
    at("execute the command")
    last()
    if process["no_new_privileges"] and filter_program:
        syscalls.install_seccomp_filter(filter_program, process["seccomp_flags"])
    try:
        os.execve(path, arguments, environment)
    except OSError as error:
        text = "exec format error" if error.errno == errno.ENOEXEC else (error.strerror or "").lower()
        code = 127 if error.errno == errno.ENOENT else 126
        raise CannotExecute(f"exec {path}: {text}", code) from None


def find_command(name: str, environment: dict[bytes, bytes]) -> str:
    """Where the command is, looked up as the container's user in the container's root.

    Raises:
        CannotExecute: it is not there (127), or is a directory or not executable (126).
    """
    if "/" in name:
        problem = _problem(name)
        if problem == errno.ENOENT:
            raise CannotExecute(f'exec: "{name}": stat {name}: no such file or directory', 127)
        if problem:
            text = {errno.EISDIR: "is a directory"}.get(problem, "permission denied")
            raise CannotExecute(f'exec: "{name}": {text}', 126)
        return name
    denied = False
    for directory in os.fsdecode(environment.get(b"PATH", os.fsencode(_DEFAULT_PATH))).split(":"):
        candidate = f"{directory or '.'}/{name}"
        problem = _problem(candidate)
        if not problem:
            return candidate
        denied = denied or problem == errno.EACCES
    if denied:
        raise CannotExecute(f'exec: "{name}": permission denied', 126)
    raise CannotExecute(f'exec: "{name}": executable file not found in $PATH', 127)


def _problem(path: str) -> int:
    """0 when the path can be executed, else the reason it cannot, as an errno."""
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        return errno.EACCES
    except OSError:
        return errno.ENOENT
    if stat.S_ISDIR(mode):
        return errno.EISDIR
    return 0 if os.access(path, os.X_OK) else errno.EACCES


def _environment(process: dict[str, Any]) -> dict[bytes, bytes]:
    """What the plan says; HOME, where it says nothing, is the user's in the container's /etc/passwd, as in runc."""
    environment = {}
    for variable in process["env"]:
        name, _, value = os.fsencode(variable).partition(b"=")
        environment[name] = value
    if b"HOME" not in environment:
        environment[b"HOME"] = _home(process["uid"])
    return environment


def _home(uid: int) -> bytes:
    try:
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b"/"
    try:
        text = os.read(fd, _PASSWD_LIMIT) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
    wanted = b"%d" % uid
    for line in text.splitlines():
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == wanted:
            return fields[5] or b"/"
    return b"/"


def _limit(value: int) -> int:
    """`resource` has -1 for no limit where the document has 2^64-1."""
    return -1 if value >= 1 << 63 else value


def _join_keyring() -> None:
    try:
        syscalls.join_new_session_keyring()
    except OSError as error:
        if error.errno != errno.ENOSYS:  # a kernel without keys
            raise


def _confine(profile: str) -> None:
    """Have the exec that is to come confined by AppArmor. Before no_new_privs, after which it may only be tightened."""
    for name in ("apparmor/exec", "exec"):  # older kernels have the second only
        try:
            fd = os.open(f"/proc/self/attr/{name}", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            os.write(fd, b"exec " + os.fsencode(profile))
        finally:
            os.close(fd)
        return
    raise OSError(errno.ENOENT, "the kernel has no AppArmor")


def _change_user(process: dict[str, Any], kept: int, at: Callable[[str], None]) -> None:
    capabilities = {kind: mask & kept for kind, mask in process["capabilities"].items()}
    at("drop capabilities from the bounding set")
    for number in _bits(kept & ~capabilities["bounding"]):
        syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
    at(f"change to the working directory {process['cwd']}")
    arrived = _chdir(process["cwd"])
    at(f"change to the user {process['uid']}:{process['gid']}")
    os.setgroups(process["groups"])
    os.setresgid(process["gid"], process["gid"], process["gid"])
    if process["uid"]:
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
        os.setresuid(process["uid"], process["uid"], process["uid"])
    if not arrived:
        at(f"change to the working directory {process['cwd']}")
        os.chdir(process["cwd"])
    os.getcwd()  # fails when the directory is not inside the container's root
    at("set capabilities")
    syscalls.set_capabilities(capabilities["effective"], capabilities["permitted"], capabilities["inheritable"])
    for number in _bits(capabilities["ambient"]):
        syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)


def _chdir(path: str) -> bool:
    """False when only the container's user may be allowed in (a file system that root may not enter)."""
    try:
        os.chdir(path)
    except PermissionError:
        return False
    return True


def _bits(mask: int) -> Sequence[int]:
    return [number for number in range(_LAST_CAPABILITY + 1) if mask >> number & 1]
