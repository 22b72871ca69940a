"""User namespaces: a pod whose root is nobody on the host (user_namespaces(7), `hostUsers: false` in Kubernetes).

A pod gets a range of the host's ids; inside they count from 0. The sandbox makes the namespace, which owns the pod's
network, IPC and UTS namespaces; containers join it as the last thing before their own mount namespace is made anew, so
that nobody inside can undo a mount of the root. Until then they are the host's root, and build the root file system
with files shown through id-mapped mounts (mount_setattr(2), MOUNT_ATTR_IDMAP): on disk a file belongs to who it would
belong to without all this.
"""

from __future__ import annotations

import errno
import os

from agent.runtime import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE = 65536
"""How many ids a pod has."""
FIRST, RANGES = 0x70000000, 4096
"""Where the pods' ids begin, and how many ranges there are: above what systemd gives to its containers, and below 2^31,
from where on some file systems take ids for negative numbers."""
UNNAMED = "/proc/self/fd/"
"""What is found in the mount of an overlay that does not name its layers."""
_LONGEST_SOURCE = 4000
"""mount(2) takes one page."""


def make(first_id: int, flags: int) -> None:
    """Go into a new user namespace whose ids are those from `first_id` on, and into new ones of `flags` that it owns.

    The mapping can only be written by who may do so outside: a fork that stays there.
    """
    outside = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    ready, ready_end = os.pipe()
    helper = os.fork()
    if not helper:
        status = 1
        try:
            os.close(ready_end)
            if os.read(ready, 1):
                for name in ("uid_map", "gid_map"):
                    file = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=outside)
                    os.write(file, b"0 %d %d\n" % (first_id, SIZE))
                status = 0
        finally:
            os._exit(status)
    syscalls.unshare(syscalls.CLONE_NEWUSER | flags)
    os.write(ready_end, b"1")
    _, status = os.waitpid(helper, 0)
    for fd in (outside, ready, ready_end):
        os.close(fd)
    if status:
        raise OSError(errno.EPERM, f"the ids from {first_id} on cannot be mapped")


def become_root() -> None:
    """Be the namespace's root: who joins it is still the host's, whom it does not know."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def owns(first_id: int, number: int) -> bool:
    """Whether the host's id `number` is one of those of the namespace whose ids are those from `first_id` on."""
    return first_id <= number < first_id + SIZE


def map_tree(tree: int, user_namespace: int, first_id: int, *, recursive: bool) -> None:
    """Show the files of a detached mount with the namespace's ids; of those mounted below it, where they can be.

    A file system that has no id-mapped mounts is shown as it is when the namespace's ids, from `first_id` on, own it.

    Raises:
        OSError: EINVAL for a file system that has no id-mapped mounts.
    """
    try:
        syscalls.set_mount_attributes(
            tree, add=syscalls.MOUNT_ATTR_IDMAP, user_namespace=user_namespace, recursive=recursive
        )
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        if not recursive:
            if owns(first_id, os.fstat(tree).st_uid):
                return
            raise OSError(errno.EINVAL, "its file system has no id-mapped mounts (tmpfs: from Linux 6.3 on)") from None
        map_tree(tree, user_namespace, first_id, recursive=False)


def map_layers(layers: Sequence[str], scratch: str, user_namespace: int, first_id: int) -> list[str]:
    """Mount the layers of an image, shown with the namespace's ids, in a small file system at the directory `scratch`:
    their paths there. An overlay has no id-mapped mounts, but may be made of them (Linux 5.19), and keeps them."""
    syscalls.mount(b"layers", os.fsencode(scratch), b"tmpfs", syscalls.MS_NOSUID, b"mode=755,size=64k")
    mapped = []
    for number, layer in enumerate(layers):
        tree = syscalls.clone_tree(syscalls.AT_FDCWD, os.fsencode(layer), recursive=False)
        map_tree(tree, user_namespace, first_id, recursive=False)
        mapped.append(f"{scratch}/{number}")
        os.mkdir(mapped[-1])
        place = os.open(mapped[-1], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        syscalls.move_mount(tree, place)
        os.close(place)
        os.close(tree)
    return mapped


def named_after(layers: Sequence[str]) -> bytes:
    """The source for an overlay of mapped layers. Its options do not name them, and who removes images looks through
    the mounts of all processes for what is in use; where they are too many, any may be."""
    names = ":".join(layers)
    return os.fsencode(names if len(names) < _LONGEST_SOURCE else UNNAMED)
