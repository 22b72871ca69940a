"""The file that `pyk backup` writes, as far as it says whether it may be restored here."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from pyk.errors import UserError
from pyk.machine.backup import FORMAT, Manifest, check, unpack
from pyk.version import KUBERNETES_VERSION

MANIFEST = Manifest(FORMAT, KUBERNETES_VERSION, "ab" * 32, 7, "2026-11-25T12:00:00Z", {})


@pytest.mark.parametrize("version", [KUBERNETES_VERSION, "v1.35.0+pyk0.1.0"])
def test_a_backup_of_this_version_or_one_a_little_older_is_taken(version: str) -> None:
    check(replace(MANIFEST, version=version))


@pytest.mark.parametrize(
    "change", [{"version": "v1.37.0+pyk0.1.0"}, {"version": "v1.30.0+pyk0.1.0"}, {"format": FORMAT + 1}]
)
def test_a_backup_of_a_newer_version_or_a_far_older_one_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UserError, match="the backup is of"):
        check(replace(MANIFEST, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "pki/../../evil"])
def test_a_file_that_would_write_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "backup"
    with tarfile.open(file, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(UserError, match="is no backup of pyk"):
        unpack(file, tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_what_is_no_backup_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for name in ("text", "missing"):
        with pytest.raises(UserError, match="no backup of pyk"):
            unpack(tmp_path / name, tmp_path / "out")
