"""Volume content, written atomically; what may be mounted and what must not."""

from __future__ import annotations

import base64
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from agent.volumes.atomic import File, write_atomically
from agent.volumes.hostpath import prepare_host_path
from agent.volumes.mounts import mounts_below
from agent.volumes.projection import Sources, VolumeFailure, is_secret_bearing, volume_files
from agent.volumes.references import referenced
from agent.volumes.users import give_to_users, maps_tmpfs

# Atomic writing


def tree(directory: Path) -> dict[str, str]:
    return {name: (directory / name).read_text() for name in os.listdir(directory) if not name.startswith("..")}


def test_files_appear_behind_one_link_and_are_replaced_together(tmp_path: Path) -> None:
    assert write_atomically(tmp_path, {"a": File(b"1"), "b": File(b"2")}, 0)
    first = os.readlink(tmp_path / "..data")
    assert first.startswith("..1970_01_01_00_00_00.")
    assert os.readlink(tmp_path / "a") == "..data/a"
    assert tree(tmp_path) == {"a": "1", "b": "2"}
    assert write_atomically(tmp_path, {"a": File(b"1"), "c": File(b"3")}, 1)
    assert tree(tmp_path) == {"a": "1", "c": "3"}
    assert not (tmp_path / first).exists()


def test_the_same_content_is_not_written_again(tmp_path: Path) -> None:
    payload = {"a": File(b"1"), "d/e": File(b"2", 0o600)}
    assert write_atomically(tmp_path, payload, 0)
    before = os.readlink(tmp_path / "..data")
    assert not write_atomically(tmp_path, payload, 5)
    assert os.readlink(tmp_path / "..data") == before
    assert write_atomically(tmp_path, {**payload, "a": File(b"1", 0o600)}, 5)


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    write_atomically(tmp_path, {"a": File(b"1")}, 0)
    (tmp_path / "..2020_01_01_00_00_00.abc").mkdir()
    (tmp_path / "..data_tmp").symlink_to("nowhere")
    write_atomically(tmp_path, {"a": File(b"2")}, 1)
    names = sorted(name for name in os.listdir(tmp_path))
    assert len(names) == 3
    assert names[1:] == ["..data", "a"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_volume_is_given_to_a_pods_own_users_once_and_later_files_are_theirs(tmp_path: Path) -> None:
    first, volume = 0x70010000, tmp_path / "volume"
    outside = tmp_path / "outside"
    outside.write_text("x")
    volume.mkdir()
    write_atomically(volume, {"a": File(b"1"), "d/b": File(b"2", user=1000)}, 0, group=44)
    (volume / "..data" / "link").symlink_to(outside)
    (volume / "foreign").write_text("")
    os.chown(volume / "foreign", 100000, 7)
    for _ in range(2):
        give_to_users(volume, first)
        for path in (volume, volume / "..data", volume / "d"):
            assert path.stat().st_uid == first
        assert owner(volume / "a") == (first, first + 44)
        assert owner(volume / "d/b") == (first + 1000, first + 44)
        assert owner(volume / "foreign") == (100000, first + 7)
        assert owner(outside) == (0, 0)
    write_atomically(volume, {"a": File(b"3"), "e/f": File(b"4", user=5)}, 1, group=44)
    assert owner(volume / "a") == (first, first + 44)
    assert owner(volume / "e/f") == (first + 5, first + 44)
    assert (volume / "..data").stat().st_uid == (volume / "e").stat().st_uid == first


def owner(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_gid


@pytest.mark.parametrize(
    ("release", "maps"), [("6.1.0-49-cloud-amd64", False), ("6.3.0", True), ("6.18.5", True), ("5.15", False)]
)
def test_a_tmpfs_is_shown_with_other_ids_from_linux_6_3_on(release: str, maps: bool) -> None:
    assert maps_tmpfs(release) is maps


def test_modes_and_groups(tmp_path: Path) -> None:
    write_atomically(tmp_path, {"a": File(b"1", 0o400)}, 0, group=os.getgid())
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o440
    assert (tmp_path / "..data").stat().st_mode & 0o7777 == 0o2755
    assert tmp_path.stat().st_mode & 0o2550 == 0o2550


@pytest.mark.parametrize("path", ["/abs", "../up", "a/../../b", "..hidden", ""])
def test_paths_that_lead_out_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="invalid path"):
        write_atomically(tmp_path, {path: File(b"")}, 0)


# Content


def sources(**objects: Any) -> Sources:
    return Sources(
        lookup=lambda kind, name: objects.get(f"{kind.plural}_{name}"),
        field=lambda path: f"<{path}>",
        resource=lambda selector: f"<{selector['resource']}>",
        token=lambda source: objects.get("token"),
    )


CM = {"data": {"a": "1", "b": "2"}, "binaryData": {"c": base64.b64encode(b"\xff").decode()}}
SEC = {"data": {"k": base64.b64encode(b"v").decode()}}


def contents(volume: Any, **objects: Any) -> dict[str, tuple[bytes, int]]:
    return {path: (f.content, f.mode) for path, f in volume_files(volume, sources(**objects)).items()}


def test_a_config_map_shows_all_keys_or_the_ones_named() -> None:
    whole = contents({"configMap": {"name": "m", "defaultMode": 0o400}}, configmaps_m=CM)
    assert whole == {"a": (b"1", 0o400), "b": (b"2", 0o400), "c": (b"\xff", 0o400)}
    items = [{"key": "a", "path": "x/y"}, {"key": "b", "path": "z", "mode": 0o600}]
    some = contents({"configMap": {"name": "m", "items": items}}, configmaps_m=CM)
    assert some == {"x/y": (b"1", 0o644), "z": (b"2", 0o600)}


def test_what_is_missing_is_told_unless_optional() -> None:
    with pytest.raises(VolumeFailure, match='configmap "m" not found'):
        contents({"configMap": {"name": "m"}})
    with pytest.raises(VolumeFailure, match="references non-existent secret key: nope"):
        contents({"secret": {"secretName": "s", "items": [{"key": "nope", "path": "p"}]}}, secrets_s=SEC)
    assert contents({"secret": {"secretName": "s", "optional": True}}) == {}


def test_a_projected_volume_joins_its_sources() -> None:
    volume = {
        "projected": {
            "defaultMode": 0o440,
            "sources": [
                {"configMap": {"name": "m", "items": [{"key": "a", "path": "a"}]}},
                {"secret": {"name": "s"}},
                {
                    "downwardAPI": {
                        "items": [
                            {"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}},
                            {"path": "r", "resourceFieldRef": {"resource": "limits.cpu"}, "mode": 0o400},
                        ]
                    }
                },
            ],
        }
    }
    assert contents(volume, configmaps_m=CM, secrets_s=SEC) == {
        "a": (b"1", 0o440),
        "k": (b"v", 0o440),
        "l": (b"<metadata.labels>", 0o440),
        "r": (b"<limits.cpu>", 0o400),
    }
    assert is_secret_bearing(volume)
    assert not is_secret_bearing({"configMap": {"name": "m"}})


def test_a_source_that_is_not_served_is_told() -> None:
    with pytest.raises(VolumeFailure, match="clusterTrustBundle is not served"):
        contents({"projected": {"sources": [{"clusterTrustBundle": {"path": "t"}}]}})


def test_everything_that_a_pod_refers_to_is_found(pod: Any) -> None:
    asked = pod(
        {
            "name": "c",
            "envFrom": [{"configMapRef": {"name": "from"}}, {"secretRef": {"name": "hush"}}],
            "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}},
                {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
        },
        volumes=[
            {"name": "v", "configMap": {"name": "vol"}},
            {"name": "w", "secret": {"secretName": "sec"}},
            {"name": "x", "projected": {"sources": [{"secret": {"name": "pro"}}, {"downwardAPI": {}}]}},
            {"name": "y", "emptyDir": {}},
        ],
        imagePullSecrets=[{"name": "pull"}],
    )
    assert set(referenced(asked)) == {
        ("configmaps", "ns", "vol"),
        ("configmaps", "ns", "from"),
        *(("secrets", "ns", name) for name in ("sec", "pro", "hush", "key", "pull")),
    }


# hostPath


def test_a_host_path_is_made_or_checked_by_its_type(tmp_path: Path) -> None:
    file, folder, listening = tmp_path / "file", tmp_path / "folder", tmp_path / "socket"
    file.touch()
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listening))
        good = [("File", file), ("Directory", folder), ("Socket", listening), ("CharDevice", Path("/dev/null"))]
        for kind, path in [*good, ("", file), ("FileOrCreate", file), ("DirectoryOrCreate", folder)]:
            assert prepare_host_path(str(path), kind) == path
    assert prepare_host_path(str(tmp_path / "x/y"), "DirectoryOrCreate").is_dir()
    assert prepare_host_path(str(tmp_path / "new"), "FileOrCreate").stat().st_mode & 0o777 == 0o644
    for kind, path, words in [
        ("File", folder, "is not a file"),
        ("Directory", file, "is not a directory"),
        ("Directory", tmp_path / "none", "is not a directory"),
        ("DirectoryOrCreate", file, "is not a directory"),
        ("BlockDevice", Path("/dev/null"), "is not a block device"),
    ]:
        with pytest.raises(VolumeFailure, match=words):
            prepare_host_path(str(path), kind)
    with pytest.raises(VolumeFailure, match="must not contain"):
        prepare_host_path(f"{tmp_path}/../x", "")


def test_mounts_are_found_the_deepest_first() -> None:
    found = mounts_below(Path("/"))
    assert Path("/") in found
    assert found.index(Path("/proc")) < found.index(Path("/"))


def test_a_service_account_token_is_a_file_that_reaches_no_disk() -> None:
    volume = {"projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]}}
    assert contents(volume, token="t") == {"token": (b"t", 0o644)}
    assert is_secret_bearing(volume)
    with pytest.raises(VolumeFailure, match="token is not there yet"):
        contents(volume)
