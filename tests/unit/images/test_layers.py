"""Layers: whiteouts, what a layer takes from those below it, and which go when nobody needs them."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard

from agent.images.collect import Disk, ImageCollector, Thresholds, candidates, to_free
from agent.images.image import Image, ImageConfig
from agent.images.layers import LayerStore, chain_id
from agent.images.pack import archive_directory
from agent.images.store import ImageStore
from agent.images.unpack import BadArchive, unpack
from pyk.reconcile.clock import VirtualClock

pytestmark = pytest.mark.root

DIRECTORY = {"type": tarfile.DIRTYPE, "mode": 0o750}


def archive(*entries: tuple[str, dict[str, Any], bytes]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, fields, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))
    out.seek(0)
    return out


def filled(directory: Path, content: io.BytesIO, below: Sequence[Path] = ()) -> Path:
    directory.mkdir()
    unpack(content, directory, most_bytes=10_000, below=below)
    return directory


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)


def test_a_whiteout_hides_a_name_and_an_opaque_mark_a_directory(tmp_path: Path) -> None:
    layer = filled(tmp_path / "l", archive(("a/.wh.gone", {}, b""), ("b", DIRECTORY, b""), ("b/.wh..wh..opq", {}, b"")))
    assert is_whiteout(layer / "a/gone")
    assert is_opaque(layer / "b")
    assert not is_opaque(layer / "a")
    assert os.listdir(layer / "b") == []


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_a_name_that_is_hidden_and_made_anew_shows_the_new_only(tmp_path: Path, *, whiteout_first: bool) -> None:
    hidden = [("d/.wh.x", {}, b""), ("d/.wh.f", {}, b"")]
    made = [("d/x", DIRECTORY, b""), ("d/x/new", {}, b"1"), ("d/f", {}, b"2")]
    layer = filled(tmp_path / "l", archive(*(hidden + made if whiteout_first else made + hidden)))
    assert is_opaque(layer / "d/x")
    assert (layer / "d/x/new").read_text() == "1"
    assert (layer / "d/f").read_text() == "2"


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "a/.wh..."])
def test_a_whiteout_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadArchive, match="a whiteout of nothing"):
        filled(tmp_path / "l", archive((name, {}, b"")))


def test_a_directory_that_is_left_out_looks_as_it_does_below(tmp_path: Path) -> None:
    low = filled(
        tmp_path / "low",
        archive(("home", {**DIRECTORY, "uid": 5, "gid": 6}, b""), ("tmp", {**DIRECTORY, "mode": 0o1777}, b"")),
    )
    high = filled(tmp_path / "high", archive(("home/f", {}, b"x"), ("tmp/f", {}, b"x"), ("new/f", {}, b"x")), [low])
    home, tmp, new = (high / name for name in ("home", "tmp", "new"))
    assert (home.stat().st_mode & 0o7777, home.stat().st_uid, home.stat().st_gid) == (0o750, 5, 6)
    assert tmp.stat().st_mode & 0o7777 == 0o1777
    assert new.stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_a_layer_is_known_by_its_plain_content_however_it_is_packed(tmp_path: Path, pack: Any) -> None:
    store = LayerStore(tmp_path / "layers")
    content = archive(("f", {}, b"x")).getvalue()
    plain = store.add(io.BytesIO(content))
    assert store.add(io.BytesIO(pack(content)), diff_id=plain.diff_id) == plain
    again = LayerStore(tmp_path / "others").add(io.BytesIO(pack(content)))
    assert (again.diff_id, again.chain_id) == (plain.diff_id, plain.diff_id)


def test_content_that_is_not_what_the_image_says_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    store = LayerStore(tmp_path / "layers")
    with pytest.raises(BadArchive, match="where the image says sha256:0"):
        store.add(archive(("f", {}, b"x")), diff_id="sha256:0")
    with pytest.raises(BadArchive, match="not a readable tar archive"):
        store.add(io.BytesIO(gzip.compress(archive(("f", {}, b"x" * 5000)).getvalue())[:-20]))
    assert list(store.directory.iterdir()) == []


def test_equal_layers_on_different_ones_are_two(tmp_path: Path) -> None:
    store = LayerStore(tmp_path / "layers")
    one, two = store.add(archive(("a", {}, b"1"))), store.add(archive(("b", {}, b"2")))
    tops = [store.add(archive(("c", {}, b"3")), [low.chain_id]) for low in (one, two)]
    assert tops[0].diff_id == tops[1].diff_id
    assert [top.chain_id for top in tops] == [chain_id(low.chain_id, tops[0].diff_id) for low in (one, two)]


def test_an_archive_made_of_a_layer_gives_the_layer_again(tmp_path: Path) -> None:
    content = archive(
        ("d", DIRECTORY, b""), ("d/.wh..wh..opq", {}, b""), (".wh.gone", {}, b""), ("f", {"mode": 0o4755}, b"x")
    )
    layer = filled(tmp_path / "one", content)
    os.setxattr(layer / "f", "user.note", b"kept")
    out = io.BytesIO()
    archive_directory(layer, out)
    out.seek(0)
    again = filled(tmp_path / "two", out)
    assert is_whiteout(again / "gone")
    assert is_opaque(again / "d")
    assert (again / "f").stat().st_mode & 0o7777 == 0o4755
    assert os.getxattr(again / "f", "user.note") == b"kept"
    second = io.BytesIO()
    archive_directory(again, second)
    assert second.getvalue() == out.getvalue()


def test_layers_that_are_being_added_are_not_removed(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images", VirtualClock())
    with store.adding():
        layer = store.layers.add(archive(("f", {}, b"x")))
        store.forget([])
        assert store.layers.has(layer.chain_id)
    store.forget([])
    assert not store.layers.has(layer.chain_id)


def image(name: str, created: float) -> Image:
    return Image(name, f"sha256:{name}", ImageConfig(), (Path("/nowhere") / name,), size=10, created_at=created)


def test_the_image_that_was_not_used_for_longest_goes_first_and_fresh_or_used_ones_stay() -> None:
    images = [image("old", 60), image("older", 50), image("fresh", 990), image("running", 0), image("again", 0)]
    used = {"sha256:again": 950.0}
    going = candidates(images, used, lambda one: one.name == "running", now=1000, least_age=120)
    assert [one.name for one in going] == ["older", "old"]


def test_nothing_goes_below_the_high_mark_and_above_it_down_to_the_low_one() -> None:
    thresholds = Thresholds(high=85, low=80)
    assert to_free(Disk(1000, 160), thresholds) == 0
    assert to_free(Disk(1000, 150), thresholds) == 50
    assert to_free(Disk(0, 0), thresholds) == 0


async def test_a_full_disk_is_freed_of_images_and_what_cannot_be_freed_is_told(tmp_path: Path) -> None:
    clock = VirtualClock()
    store = ImageStore(tmp_path / "images", clock)
    root = tmp_path / "root"
    root.mkdir()
    (root / "data").write_bytes(b"x" * 1000)
    store.import_rootfs("app:1", root)
    told: asyncio.Queue[str] = asyncio.Queue()
    collector = ImageCollector(store, clock, told.put_nowait, Thresholds(high=0, low=-1000))
    assert collector.collect(1) == 0  # too fresh
    running = asyncio.create_task(collector.run())
    try:
        await clock.advance(300)
        async with asyncio.timeout(30):
            assert "only found 1000 bytes eligible" in await told.get()
    finally:
        running.cancel()
    assert store.get("app:1") is None
