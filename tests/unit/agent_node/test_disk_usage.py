"""What trees take on disk, and what the kernel says of stalls."""

from __future__ import annotations

import os
from pathlib import Path

from agent.diskusage import pod_space, space_of
from agent.eviction.localstorage import Space
from agent.stalls import parse_pressure, read_pressure, summary_psi

KI = 1024


def write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))


def blocks(*paths: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in paths)


def test_a_tree_is_counted_by_blocks_and_each_file_once(tmp_path: Path) -> None:
    write(tmp_path / "a" / "one", 100 * KI)
    os.link(tmp_path / "a" / "one", tmp_path / "a" / "again")
    (tmp_path / "a" / "out").symlink_to("/usr")
    with (tmp_path / "a" / "hole").open("wb") as file:
        file.truncate(1 << 30)
    used = space_of(tmp_path / "a")
    directory = tmp_path / "a"
    assert used == Space(blocks(directory, directory / "one", directory / "out", directory / "hole"), 4)
    assert 100 * KI <= used.bytes < 200 * KI
    assert space_of(tmp_path / "gone") == Space()


def test_a_pod_is_its_layers_logs_and_volumes_on_disk(tmp_path: Path) -> None:
    directory, logs = tmp_path / "pod", tmp_path / "logs"
    write(directory / "rootfs" / "id1" / "upper" / "x", 8 * KI)
    write(directory / "rootfs" / "id0" / "upper" / "of an attempt before", 800 * KI)
    write(logs / "c" / "0.log", 4 * KI)
    write(directory / "volumes" / "kubernetes.io~empty-dir" / "v" / "y", 16 * KI)
    write(directory / "volumes" / "kubernetes.io~empty-dir" / "m" / "y", 32 * KI)
    volumes = [
        {"name": "v", "emptyDir": {}},
        {"name": "m", "emptyDir": {"medium": "Memory"}},
        {"name": "s", "secret": {}},
    ]
    found = pod_space({"spec": {"volumes": volumes}}, directory, logs, {"c": "id1"})
    assert set(found.volumes) == {"v"}
    assert 8 * KI <= found.layers["c"].bytes < 20 * KI
    assert found.container("c") == found.layers["c"] + found.logs["c"]
    assert found.total == found.container("c") + found.volumes["v"]


PRESSURE = """some avg10=46.59 avg60=16.04 avg300=14.14 total=2041542060
full avg10=0.00 avg60=0.00 avg300=0.00 total=0
"""


def test_stalls_are_read_and_shown_as_the_summary_has_them(tmp_path: Path) -> None:
    found = parse_pressure(PRESSURE)
    assert found["some"] == {"avg10": 46.59, "avg60": 16.04, "avg300": 14.14, "total": 2041542060}
    assert summary_psi(found) == {"some": found["some"], "full": found["full"]}
    assert read_pressure(tmp_path / "none") == {}
    assert summary_psi({}) is None
