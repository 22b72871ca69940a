"""The file that `pyk backup` writes, as far as it says whether it may be restored here."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from pyk.errors import UserError
from pyk.machine.backup import FORMAT, Manifest, as_recorded, check, unpack
from pyk.machine.checks import check_server
from pyk.machine.controlplane import Record
from pyk.machine.options import ServerOptions
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


def test_a_backup_of_a_cluster_of_ipv6_is_restored_without_naming_its_ranges_again() -> None:
    """What is checked are the options as the backup's cluster has them, not the defaults."""
    record = Record("fd00:1::/56", "fd00:2::/108", 24, "cluster.local", "sqlite")
    options = as_recorded(ServerOptions(advertise_address="fd00:9::1"), record)
    check_server(options)
    assert (options.cluster_cidr, options.service_cidr, options.store) == ("fd00:1::/56", "fd00:2::/108", "sqlite")
    with pytest.raises(UserError, match="is of IPv6, so this has to be too"):
        check_server(as_recorded(ServerOptions(advertise_address="10.0.0.1"), record))
