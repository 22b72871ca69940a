"""Volumes in memory for pods with users of their own, on kernels that cannot show a tmpfs with other ids.

A container of a pod with `hostUsers: false` is shown the files of its volumes with the pod's ids (id-mapped mounts),
which Linux has for tmpfs from 6.3 on; Debian 12 has 6.1. There such a volume is given to the pod's ids instead: what
belongs to 0 belongs to the pod's root, the host's `first` id. Nobody else looks into it, so it may. The runtime shows a
tree that belongs to the pod's ids as it is, and `write_atomically` gives later files to whom the directory belongs to.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from agent.runtime.userns import SIZE

_MAPS_TMPFS = (6, 3)


def maps_tmpfs(release: str | None = None) -> bool:
    """Whether the kernel (of `release`, as uname(2) tells it; else this one) shows a tmpfs with other ids."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release if release is None else release)
    return found is not None and (int(found[1]), int(found[2])) >= _MAPS_TMPFS


def give_to_users(root: Path, first: int) -> None:
    """Give what is in a volume to the ids from `first` on, 0 to `first` and so forth, unless it has them already. Links
    are not followed. Raises OSError."""
    for _, directories, files, descriptor in os.fwalk(root, follow_symlinks=False):
        for name in (*directories, *files):
            there = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            uid, gid = _shifted(there.st_uid, first), _shifted(there.st_gid, first)
            if uid >= 0 or gid >= 0:
                os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
    there = root.stat()
    os.chown(root, _shifted(there.st_uid, first), _shifted(there.st_gid, first))


def _shifted(number: int, first: int) -> int:
    """-1, chown(2)'s word for no change, for an id that is no pod's."""
    return first + number if number < SIZE else -1
