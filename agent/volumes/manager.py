"""Set up the volumes of a pod, keep their content live, and take everything away again.

    <state-dir>/pods/<uid>/volumes/<kind>/<name>/            what containers mount (the kubelet's layout)
    <state-dir>/secrets/<uid>/<name>/                        the same for what must not reach a disk
    <state-dir>/pods/<uid>/volume-subpaths/<container>/<n>   binds of subPaths
    <state-dir>/pods/<uid>/...                               other files of the pod (hosts, termination messages)

Everything is idempotent: `set_up` on what is there refreshes the content of configMap, secret, downwardAPI and
projected volumes. Secrets and tokens are in memory: in one file system for the node, since each mount of the host is
copied into every sandbox and container that is made. All work on the files of volumes runs in a thread.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.volumes import mounts
from agent.volumes.atomic import write_atomically
from agent.volumes.hostpath import prepare_host_path
from agent.volumes.patience import Patience
from agent.volumes.persistent import give_to_group, persistent_volume_path
from agent.volumes.projection import PROJECTED_SOURCES, Sources, VolumeFailure, is_secret_bearing, volume_files
from agent.volumes.users import give_to_users, maps_tmpfs
from pyk.api.objects import Object, uid_of
from pyk.api.quantity import whole
from pyk.reconcile.clock import Clock

_DIRECTORY_NAMES = {
    "emptyDir": "kubernetes.io~empty-dir",
    "configMap": "kubernetes.io~configmap",
    "secret": "kubernetes.io~secret",
    "downwardAPI": "kubernetes.io~downward-api",
    "projected": "kubernetes.io~projected",
}


@dataclass(frozen=True, slots=True)
class Given:
    """What is known of a pod's volumes beside the pod: `memory_limit` (bytes) is the pod's, which bounds memory-backed
    volumes; by the volumes' names, `persistent` has the PersistentVolumes behind claims, `layers` the images of image
    volumes, topmost layer first. `page_sizes` (`2Mi`) are those of the huge pages that the pod asks for."""

    memory_limit: int | None = None
    persistent: Mapping[str, Object] = field(default_factory=dict)
    layers: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    page_sizes: Sequence[str] = ()


class VolumeManager:
    """The volumes below one node's state directory."""

    def __init__(self, state_dir: Path, clock: Clock) -> None:
        self._maps_tmpfs = maps_tmpfs()
        self._pods = state_dir / "pods"
        self._secrets = state_dir / "secrets"
        self._secrets_lock = threading.Lock()
        self._clock = clock
        self._patience = Patience(clock)

    def on_answer(self, answered: Callable[[str], None]) -> None:
        """Call `answered(uid)` when the volumes of a pod answer that did not."""
        self._patience.answered = lambda name: answered(name.split(" ")[0])

    def pod_directory(self, uid: str) -> Path:
        """Where the pod's files are."""
        return self._pods / uid

    async def set_up(self, pod: Object, sources: Sources, given: Given | None = None) -> dict[str, Path]:
        """Make or refresh every volume of the pod: the host path of each by its name.

        Raises `VolumeFailure` naming the volume that failed; the others are set up all the same.
        """
        given = given or Given()
        if not pod["spec"].get("volumes"):  # one directory is made sooner than a thread is asked to make it
            return self._set_up(pod, sources, given)
        uid = uid_of(pod)
        return await self._patience.run(uid, _outside(pod), lambda: self._set_up(pod, sources, given))

    async def give_to_users(self, uid: str, first: int, users: str, layers: Mapping[str, Sequence[Path]]) -> None:
        """Let the users of a pod that has its own own what the kernel cannot show to them as theirs when it is mounted:
        the pod's volumes in memory, and its image volumes, of these `layers` by name. `first` of the host's ids is
        the root of the namespace that the path `users` names. Raises `VolumeFailure`, OSError."""
        if self._maps_tmpfs and not layers:
            return
        await self._patience.run(uid, f"volumes of pod {uid}", lambda: self._give_to_users(uid, first, users, layers))

    async def bind_subpath(self, uid: str, container: str, index: int, volume: Path, subpath: str) -> Path:
        """The host path where `subpath` of a volume is bound for mount number `index` of a container.

        Raises `VolumeFailure`."""
        target = self.pod_directory(uid) / "volume-subpaths" / container / str(index)
        what = f"subPath {subpath!r} of {volume}"
        await self._patience.run(f"{uid} {volume}", what, lambda: mounts.bind_subpath(volume, subpath, target))
        return target

    async def tear_down(self, uid: str) -> None:
        """Unmount and remove everything of the pod. No error when there is nothing. Raises OSError."""
        self._patience.forget(uid)
        await asyncio.to_thread(self._tear_down, uid)

    async def sweep(self, live: Collection[str]) -> None:
        """Take away what belongs to no pod in `live` (UIDs)."""
        for uid in await self.uids():
            if uid not in live:
                await self.tear_down(uid)
        await self.unmount_unused()

    async def uids(self) -> set[str]:
        """The pods of which there is something."""
        return await asyncio.to_thread(self._uids)

    async def unmount_unused(self) -> None:
        """Give the memory for secrets back when there are none. Raises OSError."""
        await asyncio.to_thread(self._unmount_unused)

    def _uids(self) -> set[str]:
        return {path.name for root in (self._pods, self._secrets) if root.is_dir() for path in root.iterdir()}

    def _tear_down(self, uid: str) -> None:
        mounts.remove_tree(self.pod_directory(uid))
        if (secrets := self._secrets / uid).exists():
            shutil.rmtree(secrets)

    def _give_to_users(self, uid: str, first: int, users: str, layers: Mapping[str, Sequence[Path]]) -> None:
        for name, of_image in layers.items():
            mounts.mount_mapped_layers(self._image_directory(self.pod_directory(uid), name), of_image, users, first)
        if self._maps_tmpfs:
            return
        secrets, directories = self._secrets / uid, self.pod_directory(uid) / "volumes" / _DIRECTORY_NAMES["emptyDir"]
        for path in secrets.iterdir() if secrets.is_dir() else ():
            give_to_users(path, first)
        for path in directories.iterdir() if directories.is_dir() else ():
            if path.is_mount():
                give_to_users(path, first)

    @staticmethod
    def _image_directory(directory: Path, name: str) -> Path:
        return directory / "volumes" / "kubernetes.io~image" / name

    def _mount_secrets(self) -> None:
        """The memory file system, made by the first that needs it. Only the node's owner can look into it by its path;
        containers see the directories that are theirs."""
        with self._secrets_lock:
            self._secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
            mounts.mount_tmpfs(self._secrets, size=None, mode=0o700)

    def _unmount_unused(self) -> None:
        with self._secrets_lock:
            if self._secrets.is_mount() and not any(self._secrets.iterdir()):
                mounts.unmount_below(self._secrets)

    def _set_up(self, pod: Object, sources: Sources, given: Given) -> dict[str, Path]:
        directory = self.pod_directory(uid_of(pod))
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o750)
        context = pod["spec"].get("securityContext") or {}
        group, on_mismatch = context.get("fsGroup"), context.get("fsGroupChangePolicy") == "OnRootMismatch"
        paths: dict[str, Path] = {}
        failures = []
        for volume in pod["spec"].get("volumes") or ():
            try:
                if (persistent := given.persistent.get(volume["name"])) is not None:
                    paths[volume["name"]] = persistent_volume_path(persistent)
                    if group is not None and persistent["spec"].get("local"):
                        give_to_group(paths[volume["name"]], group, on_mismatch=on_mismatch)
                    continue
                if volume.get("image") is not None and volume["name"] not in given.layers:
                    continue  # no container mounts it
                paths[volume["name"]] = self._set_up_one(directory, volume, sources, given, group)
            except (VolumeFailure, OSError, ValueError) as error:
                failures.append(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}')
        if failures:
            raise VolumeFailure("; ".join(failures))
        return paths

    def _set_up_one(
        self,
        directory: Path,
        volume: Mapping[str, Any],
        sources: Sources,
        given: Given,
        group: int | None,
    ) -> Path:
        if (host_path := volume.get("hostPath")) is not None:
            return prepare_host_path(host_path["path"], host_path.get("type") or "")
        if volume.get("image") is not None:
            path = self._image_directory(directory, volume["name"])
            mounts.mount_layers(path, given.layers[volume["name"]])
            return path
        kind = next((key for key in volume if key in _DIRECTORY_NAMES), None)
        if kind is None:
            wanted = next((key for key in volume if key != "name"), "of no type")
            if wanted == "csi":
                raise VolumeFailure(
                    "kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: driver name "
                    f"{volume['csi'].get('driver')} not found in the list of registered CSI drivers"
                )
            raise VolumeFailure(f"no volume plugin matched: {wanted}")
        path = directory / "volumes" / _DIRECTORY_NAMES[kind] / str(volume["name"])
        if kind == "emptyDir":
            _empty_directory(path, volume["emptyDir"], given.memory_limit, group, given.page_sizes)
            return path
        assert kind in PROJECTED_SOURCES
        files = volume_files(volume, sources)
        if is_secret_bearing(volume):
            self._mount_secrets()
            path = self._secrets / directory.name / str(volume["name"])
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)
        write_atomically(path, files, self._clock.time(), group)
        return path


def _outside(pod: Object) -> str:
    """The volumes of the pod that are not this node's own: those that may not answer."""
    paths = [volume["hostPath"]["path"] for volume in pod["spec"].get("volumes") or () if volume.get("hostPath")]
    claims = [
        f"claim {volume['persistentVolumeClaim']['claimName']}"
        for volume in pod["spec"].get("volumes") or ()
        if volume.get("persistentVolumeClaim")
    ]
    return f"MountVolume.SetUp failed: one of the volumes ({', '.join([*paths, *claims]) or 'on the node itself'})"


def _empty_directory(
    path: Path, source: Mapping[str, Any], memory_limit: int | None, group: int | None, page_sizes: Sequence[str]
) -> None:
    """Make it unless it is there: what containers wrote stays as it is. `page_sizes` are those of the huge pages that
    the pod asks for."""
    medium = source.get("medium") or ""
    mode = 0o777 if source.get("mode") is None else int(source["mode"])
    if group is not None:
        mode |= 0o2070
    if medium == "Memory":
        limits = [whole(source["sizeLimit"])] if source.get("sizeLimit") else []
        limits += [memory_limit] if memory_limit is not None else []
        path.mkdir(parents=True, exist_ok=True)
        mounts.mount_tmpfs(path, size=min(limits, default=None), mode=mode, group=group)
        return
    if medium.startswith("HugePages"):
        size = medium.partition("-")[2] or (page_sizes[0] if len(page_sizes) == 1 else "")
        if not size:
            raise VolumeFailure("the pod's containers ask for huge pages of no size, or of several: name one in medium")
        limit = whole(source["sizeLimit"]) if source.get("sizeLimit") else None
        path.mkdir(parents=True, exist_ok=True)
        mounts.mount_huge_pages(path, page_size=whole(size), size=limit, mode=mode, group=group)
        return
    if medium:
        raise VolumeFailure(f"emptyDir medium {medium!r} is not served by this node")
    if path.exists():
        return
    made = path.with_name(f".{path.name}.new")
    made.mkdir(parents=True, exist_ok=True)
    if group is not None:
        os.chown(made, -1, group)
    made.chmod(mode)
    os.rename(made, path)  # so that one that is there has its mode and owner
