"""The node's side of persistent volumes: which one is behind a pod's claim, where it is, and whose files it has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.volumes.claims import bound_volume
from agent.volumes.local import BadName, LocalVolumes
from agent.volumes.persistent import give_to_group, persistent_volume_path
from agent.volumes.projection import VolumeFailure

POD = {"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {}}
VOLUME = {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}


def claim(phase: str = "Bound", **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "c", **metadata}, "spec": {"volumeName": "pv"}, "status": {"phase": phase}}


def test_a_claim_must_be_there_and_bound_and_stay() -> None:
    assert bound_volume(POD, VOLUME, claim()) == "pv"
    with pytest.raises(VolumeFailure, match='"c" not found'):
        bound_volume(POD, VOLUME, None)
    with pytest.raises(VolumeFailure, match="is not bound"):
        bound_volume(POD, VOLUME, claim("Pending"))
    going = claim(deletionTimestamp="2026-01-01T00:00:00Z")
    with pytest.raises(VolumeFailure, match="is being deleted"):
        bound_volume(POD, VOLUME, going)
    running = {**POD, "status": {"startTime": "2026-01-01T00:00:00Z"}}
    assert bound_volume(running, VOLUME, going) == "pv"


def test_the_claim_of_an_ephemeral_volume_must_be_the_pod_s_own() -> None:
    volume = {"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}
    own = claim(ownerReferences=[{"uid": "u", "controller": True}])
    assert bound_volume(POD, volume, own) == "pv"
    with pytest.raises(VolumeFailure, match="was not created for pod"):
        bound_volume(POD, volume, claim())


def test_only_what_is_on_this_node_s_disk_is_mounted(tmp_path: Path) -> None:
    local = {"metadata": {"name": "pv"}, "spec": {"local": {"path": str(tmp_path)}, "capacity": {}}}
    assert persistent_volume_path(local) == tmp_path
    local["spec"]["local"] = {"path": str(tmp_path / "none")}
    with pytest.raises(VolumeFailure, match="does not exist"):
        persistent_volume_path(local)
    with pytest.raises(VolumeFailure, match=r"no volume plugin matched .*: nfs"):
        persistent_volume_path({"metadata": {"name": "pv"}, "spec": {"nfs": {}, "capacity": {}}})


async def test_local_volumes_are_made_and_removed_by_name(tmp_path: Path) -> None:
    volumes = LocalVolumes(tmp_path / "root")
    path = await volumes.create("pvc-1")
    assert await volumes.create("pvc-1") == path
    assert path.stat().st_mode & 0o7777 == 0o777
    (path / "file").write_text("x")
    await volumes.remove("pvc-1")
    await volumes.remove("pvc-1")
    assert list((tmp_path / "root").iterdir()) == []
    for bad in ("..", "a/b", "", ".removing-x", "A"):
        with pytest.raises(BadName):
            await volumes.create(bad)


@pytest.mark.root
def test_a_group_is_given_all_files_and_no_link_s_target(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "deep").mkdir(parents=True)
    (root / "deep/file").write_text("x")
    (root / "deep/file").chmod(0o600)
    outside.write_text("x")
    (root / "link").symlink_to(outside)
    give_to_group(root, 4000, on_mismatch=False)
    assert (root / "deep/file").stat().st_gid == 4000
    assert (root / "deep/file").stat().st_mode & 0o777 == 0o660
    assert (root / "deep").stat().st_mode & 0o2070 == 0o2070
    assert outside.stat().st_gid == 0
    os.chown(root / "deep/file", -1, 7)
    give_to_group(root, 4000, on_mismatch=True)  # the root is right, so nothing is looked at
    assert (root / "deep/file").stat().st_gid == 7
