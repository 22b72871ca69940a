"""Persistent volumes of the node's own disk: `hostPath` and `local` ones, and whose files they are."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agent.volumes.hostpath import prepare_host_path
from agent.volumes.projection import VolumeFailure
from pyk.api.objects import Object, name_of


def persistent_volume_path(volume: Object) -> Path:
    """Where a PersistentVolume is on this node. Raises `VolumeFailure`."""
    spec = volume["spec"]
    if source := spec.get("hostPath"):
        return prepare_host_path(source["path"], source.get("type") or "")
    if source := spec.get("local"):
        path = Path(source["path"])
        if not path.is_dir():
            raise VolumeFailure(f'local volume "{name_of(volume)}": path "{path}" does not exist')
        return path
    kinds = sorted(set(spec) - _NO_SOURCES)
    kind = kinds[0] if kinds else "of no type"
    raise VolumeFailure(f'no volume plugin matched for volume "{name_of(volume)}": {kind}')


_NO_SOURCES = frozenset(
    (
        *("accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity", "persistentVolumeReclaimPolicy"),
        *("storageClassName", "volumeAttributesClassName", "volumeMode"),
    )
)


def give_to_group(root: Path, group: int, *, on_mismatch: bool) -> None:
    """Let the group read and write all that is in the volume, and own what will be made there (fsGroup).

    With `on_mismatch` only if the volume's own directory is not that way already. Links are not followed. Raises
    OSError.
    """
    wanted = stat.S_ISGID | 0o060
    present = root.stat()
    if on_mismatch and present.st_gid == group and present.st_mode & wanted == wanted:
        return
    for parent, directories, files, descriptor in os.fwalk(root, follow_symlinks=False):
        for name in (*directories, *files):
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            os.chown(name, -1, group, dir_fd=descriptor, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                more = wanted | 0o010 if stat.S_ISDIR(status.st_mode) else 0o060
                os.chmod(name, stat.S_IMODE(status.st_mode) | more, dir_fd=descriptor)
        del parent
    os.chown(root, -1, group)
    root.chmod(stat.S_IMODE(present.st_mode) | wanted | 0o010)  # last, so that an interrupted one is done again
