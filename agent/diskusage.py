"""What pods take of the node's disk: writable layers, logs and emptyDir volumes, counted file by file. Blocks.

Blocks that are really allocated are counted, each file once however many names it has, and nothing behind a mount. A
file that vanishes meanwhile counts as nothing; so does what a container hides from nobody but itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from agent.eviction.localstorage import PodSpace, Space
from pyk.api.objects import Object

_BLOCK_BYTES = 512  # of st_blocks, whatever the file system


def space_of(path: Path) -> Space:
    """The tree at `path`; nothing when there is none."""
    try:
        top = os.stat(path, follow_symlinks=False)
    except OSError:
        return Space()
    size, inodes, linked = top.st_blocks * _BLOCK_BYTES, 1, set()
    waiting = [os.fspath(path)]
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except OSError:  # it went away, or is no directory
            continue
        with entries:
            for entry in entries:
                try:
                    facts = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if facts.st_dev != top.st_dev:
                    continue
                if facts.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                    if facts.st_ino in linked:
                        continue
                    linked.add(facts.st_ino)
                size += facts.st_blocks * _BLOCK_BYTES
                inodes += 1
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return Space(size, inodes)


def pod_space(pod: Object, directory: Path, logs: Path, containers: Mapping[str, str]) -> PodSpace:
    """What a pod takes; `directory` is its own below the state directory, `logs` that of its logs, `containers` have
    the ids of the latest attempts by name."""
    volumes = {
        volume["name"]: space_of(directory / "volumes" / "kubernetes.io~empty-dir" / volume["name"])
        for volume in pod["spec"].get("volumes") or ()
        if volume.get("emptyDir") is not None and not (volume["emptyDir"] or {}).get("medium")
    }
    return PodSpace(
        layers={name: space_of(directory / "rootfs" / identifier / "upper") for name, identifier in containers.items()},
        logs={name: space_of(logs / name) for name in containers},
        volumes=volumes,
    )
