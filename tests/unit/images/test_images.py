"""Image references, the store, and unpacking whatever an archive contains."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from agent.images.image import ImageConfig, ImageUnavailable
from agent.images.reference import BadReference, parse_reference
from agent.images.store import ImageStore
from agent.images.unpack import BadArchive, unpack
from agent.images.watch import follow_directory
from pyk.reconcile.clock import VirtualClock

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("team/app:1.2", "docker.io/team/app:1.2"),
        ("registry.example/app", "registry.example/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("host:5000/a/b:c", "host:5000/a/b:c"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        (f"app@{DIGEST}", f"docker.io/library/app@{DIGEST}"),
        (f"app:1@{DIGEST}", f"docker.io/library/app:1@{DIGEST}"),
        ("pyk.local/host", "pyk.local/host:latest"),
    ],
)
def test_references_have_a_full_form(text: str, full: str) -> None:
    assert parse_reference(text).name == full


@pytest.mark.parametrize("text", ["", "UPPER", "a//b", "a:b:c", "a@sha256:xyz", "-a", "a/", "x" * 300, "a b", "a:.t"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(BadReference, match="invalid reference format"):
        parse_reference(text)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", VirtualClock())


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin/tool").write_text("#!/bin/sh\n")
    (root / "bin/tool").chmod(0o4755)
    (root / "bin/alias").symlink_to("tool")
    os.link(root / "bin/tool", root / "bin/twin")
    os.mkfifo(root / "pipe")
    return root


def test_an_imported_directory_is_kept_as_it_is(store: ImageStore, rootfs: Path) -> None:
    image = store.import_rootfs("app:1", rootfs, ImageConfig(entrypoint=("/bin/tool",), user="9"))
    found = store.get("app:1")
    assert found == image
    assert found.name == "docker.io/library/app:1"
    assert found.image_id.startswith("docker.io/library/app@sha256:")
    assert (found.config.entrypoint, found.config.user) == (("/bin/tool",), "9")
    (layer,) = found.layers
    tool = (layer / "bin/tool").stat()
    assert tool.st_mode & 0o7777 == 0o4755
    assert tool.st_ino == (layer / "bin/twin").stat().st_ino
    assert os.readlink(layer / "bin/alias") == "tool"
    assert next(image.name for image in store.all()) == found.name


def test_the_same_content_is_kept_once(store: ImageStore, rootfs: Path) -> None:
    one, two = store.import_rootfs("one:1", rootfs), store.import_rootfs("two:1", rootfs)
    assert one.layers == two.layers
    assert store.get(f"one@{one.id}") is not None
    assert store.remove("one:1")
    assert two.layers[0].is_dir()
    assert store.remove("two:1")
    assert not store.remove("two:1")
    assert store.get("two:1") is None


def test_another_process_sees_what_was_imported(store: ImageStore, rootfs: Path) -> None:
    assert store.get("app:1") is None
    other = ImageStore(store.image_dir, VirtualClock())
    other.import_rootfs("app:1", rootfs)
    assert store.get("app:1") is not None


def test_reserved_names_cannot_be_taken(store: ImageStore, rootfs: Path) -> None:
    with pytest.raises(ValueError, match="reserved name"):
        store.import_rootfs("pyk.local/host:mine", rootfs)


async def test_an_unknown_image_says_what_there_is_and_how_to_get_more(store: ImageStore, rootfs: Path) -> None:
    store.import_rootfs("known:1", rootfs)
    with pytest.raises(ImageUnavailable, match=r"known:1.*pyk image import nope PATH") as raised:
        await store.resolve("nope", "IfNotPresent")
    assert raised.value.reason == "ErrImagePull"
    with pytest.raises(ImageUnavailable) as raised:
        await store.resolve("nope", "Never")
    assert raised.value.reason == "ErrImageNeverPull"
    with pytest.raises(ImageUnavailable) as raised:
        await store.resolve("No Reference", "Always")
    assert raised.value.reason == "InvalidImageName"
    image, pulled = await store.resolve("known:1", "Always")
    assert (image.name, pulled) == ("docker.io/library/known:1", False)


async def test_a_registry_is_asked_when_the_policy_says_so(tmp_path: Path, rootfs: Path) -> None:
    asked: list[str] = []
    store = ImageStore(tmp_path / "images", VirtualClock())
    layer = store.layers.add(archive(("f", {}, b"x")))
    known = store.add(parse_reference("app:1"), b"{}", [layer], digest=DIGEST)

    class Source:
        async def pull(self, reference: str, credentials: Any) -> Any:
            asked.append(reference)
            return known

    store.source = Source()
    store.import_rootfs("made-here:1", rootfs)
    assert not store.needs_pull("made-here:1", "Always")
    assert not store.needs_pull("app:1", "IfNotPresent")
    assert store.needs_pull("app:1", "Always")
    assert store.needs_pull("new", "IfNotPresent")
    assert not store.needs_pull("new", "Never")
    assert await store.resolve("app:1", "IfNotPresent") == (known, False)
    assert await store.resolve("app:1", "Always") == (known, True)
    assert await store.resolve("new", "IfNotPresent") == (known, True)
    assert asked == ["docker.io/library/app:1", "docker.io/library/new:latest"]


async def test_the_host_image_is_a_template_over_the_host_s_usr(store: ImageStore) -> None:
    image, _ = await store.resolve("pyk.local/host:any", "Always")
    (root,) = image.layers
    assert image.read_only_binds["/usr"] == "/usr"
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (root / "etc/passwd").read_text().startswith("root:")
    assert not any((root / "usr").iterdir())
    again, _ = await store.resolve("pyk.local/host:any", "Always")
    assert again.layers == image.layers


async def test_the_image_of_pyk_runs_a_part_of_pyk_without_the_checkout(store: ImageStore) -> None:
    image, _ = await store.resolve("pyk.local/pyk", "IfNotPresent")
    (root,) = image.layers
    inside = {place: Path(outside) for place, outside in image.read_only_binds.items()}
    assert (inside["/opt/pyk/ingress"] / "__main__.py").is_file()
    assert all((root / place.lstrip("/")).is_dir() == outside.is_dir() for place, outside in inside.items())
    assert not any(outside == Path(__file__).parents[3] for outside in inside.values())
    (python,) = image.config.entrypoint
    nearest = next(place for place in sorted(inside, reverse=True) if python.startswith(f"{place}/"))
    assert os.access(inside[nearest] / Path(python).relative_to(nearest), os.X_OK)


async def test_importing_wakes_whoever_waits_for_images(store: ImageStore, rootfs: Path) -> None:
    changed = asyncio.Event()
    task = asyncio.create_task(follow_directory(store.image_dir, changed.set))
    await asyncio.sleep(0)
    await asyncio.to_thread(store.import_rootfs, "app:1", rootfs)
    async with asyncio.timeout(10):
        await changed.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# Hostile archives


def archive(*entries: tuple[str, dict[str, Any], bytes]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, fields, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.uid, info.gid = os.getuid(), os.getgid()
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))
    out.seek(0)
    return out


LINK = {"type": tarfile.SYMTYPE}
HARD = {"type": tarfile.LNKTYPE}


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """The directory to unpack into, and one beside it that must stay as it is."""
    target, outside = tmp_path / "target", tmp_path / "outside"
    target.mkdir()
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    return target, outside


def test_paths_and_links_do_not_lead_out(places: tuple[Path, Path]) -> None:
    target, outside = places
    hostile = archive(
        ("../outside/a", {}, b"x"),
        ("/abs", {}, b"x"),
        ("away", LINK | {"linkname": str(outside)}, b""),
        ("away/b", {}, b"x"),
        ("up", LINK | {"linkname": "../outside"}, b""),
        ("up/c", {}, b"x"),
        ("x/../../d", {}, b"x"),
    )
    unpack(hostile, target, most_bytes=1000)
    assert [path.name for path in outside.iterdir()] == ["victim"]
    assert (target / "abs").is_file()
    assert (target / "d").is_file()


def test_a_file_is_not_written_through_a_planted_link(places: tuple[Path, Path]) -> None:
    target, outside = places
    victim = outside / "victim"
    hostile = archive(("f", LINK | {"linkname": str(victim)}, b""), ("f", {}, b"overwritten"))
    unpack(hostile, target, most_bytes=1000)
    assert victim.read_text() == "untouched"
    assert (target / "f").read_text() == "overwritten"


def test_a_hard_link_to_the_outside_is_refused(places: tuple[Path, Path]) -> None:
    target, outside = places
    with pytest.raises(BadArchive):
        unpack(archive(("h", HARD | {"linkname": str(outside / "victim")}, b"")), target, most_bytes=1000)


def test_devices_are_left_out(places: tuple[Path, Path]) -> None:
    target, _ = places
    unpack(archive(("disk", {"type": tarfile.BLKTYPE, "devmajor": 8}, b"")), target, most_bytes=1000)
    assert list(target.iterdir()) == []


def test_too_much_content_is_refused(places: tuple[Path, Path]) -> None:
    target, _ = places
    with pytest.raises(BadArchive, match="more than the 10 bytes"):
        unpack(archive(("a", {}, b"123456"), ("b", {}, b"123456")), target, most_bytes=10)


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_what_is_no_archive_is_refused_and_leaves_nothing(store: ImageStore, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(BadArchive, match="not a readable tar archive"):
        store.import_rootfs("app:1", file)
    assert store.get("app:1") is None
    assert list((store.image_dir / "layers").iterdir()) == []
