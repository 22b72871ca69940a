"""`pyk backup` and `pyk restore`: a control plane's state and keys as one file, and a control plane from it.

The file is a gzipped tar, mode 0600 (it has the cluster's keys): `manifest.json`, `store`, and `pki/...`. The store's
content is read while the server runs, as it was at one revision (`python -m controlplane.store dump`).

A restore makes a new data folder. It refuses a folder that a server runs on or that has something in it; with force it
puts that aside under another name, but never a cluster's other than the backup's. Revisions go on far above the
backup's, so clients notice nothing but that they have to list anew. A control plane that was one of several begins
alone: the others join it again.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pyk import pki
from pyk.errors import UserError
from pyk.machine import controlplane, etcd, lock
from pyk.machine.authority import hash_of
from pyk.machine.checks import check_server
from pyk.machine.controlplane import ControlPlane, Record, etcd_tls
from pyk.machine.keeping import STOP_SECONDS
from pyk.machine.options import ServerOptions
from pyk.machine.versions import VersionSkew
from pyk.machine.versions import check as check_versions
from pyk.reconcile.clock import Clock, timestamp
from pyk.version import KUBERNETES_VERSION

FORMAT = 1
MANIFEST, STORE, PKI = "manifest.json", "store", "pki"
_NOT_OURS = ("etcd/server", "etcd/client")
"""Certificates of one machine, which the restored one makes for itself."""
ETCD_START_TRIES = 150

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself: `cluster` is the hash of the authority's key, `record` what is fixed."""

    format: int
    version: str
    cluster: str
    revision: int
    taken: str
    record: dict[str, Any]


def take(plane: ControlPlane, file: Path, clock: Clock) -> Manifest:
    """Write the backup, whole or not at all. Raises `UserError`."""
    if not file.parent.is_dir():
        raise UserError(f"cannot write {file}: there is no folder {file.parent}")
    try:
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".pyk-backup-") as aside:
            dump, whole = Path(aside) / STORE, Path(aside) / "whole"
            revision = int(_store_command(plane, "dump", dump))
            manifest = Manifest(
                FORMAT,
                KUBERNETES_VERSION,
                hash_of((plane.pki_dir / "ca.crt").read_bytes()),
                revision,
                timestamp(clock.time()),
                controlplane.record_document(plane.record),
            )
            with os.fdopen(os.open(whole, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as out:
                with tarfile.open(fileobj=out, mode="w:gz") as archive:
                    _add(archive, MANIFEST, json.dumps(_document(manifest)).encode())
                    archive.add(dump, STORE, filter=_anonymous)
                    for path in sorted(plane.pki_dir.rglob("*")):
                        name = path.relative_to(plane.pki_dir).as_posix()
                        if path.is_file() and not name.startswith(_NOT_OURS):
                            archive.add(path, f"{PKI}/{name}", filter=_anonymous)
                out.flush()
                os.fsync(out.fileno())
            os.replace(whole, file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}") from None
    return manifest


def restore(file: Path, options: ServerOptions, clock: Clock, tell: Tell, *, force: bool = False) -> Manifest:
    """Make the data folder from the backup. Raises `UserError`, and then the folder is as it was."""
    with tempfile.TemporaryDirectory(prefix="pyk-restore-") as aside:
        unpacked = Path(aside)
        manifest = unpack(file, unpacked)
        check(manifest)
        options = as_recorded(options, Record(**manifest.record))
        check_server(options)
        data_dir = Path(options.data_dir).absolute()
        held = lock.claim(data_dir, "pyk server")
        moved = _make_room(data_dir, manifest, clock, force=force)
        try:
            if moved is not None:
                os.close(held)
                held = lock.claim(data_dir, "pyk server")
                tell(f"what was in {data_dir} is now in {moved}")
            _fill(unpacked, data_dir, options, clock)
        except BaseException:
            os.close(held)
            _take_back(data_dir, moved)
            raise
        os.close(held)
    return manifest


def unpack(file: Path, folder: Path) -> Manifest:
    """The backup's files below the folder. Raises `UserError` when it is none, or cut."""
    try:
        with tarfile.open(file, "r:gz") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if not member.isfile() or path.is_absolute() or ".." in path.parts:
                    raise UserError(f"{file} is no backup of pyk: it has {member.name!r} in it")
                content = archive.extractfile(member)
                assert content is not None  # it is a file
                target = folder / path
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                pki.write_private(target, content.read())
        document = json.loads((folder / MANIFEST).read_bytes())
        return Manifest(**document)
    except FileNotFoundError:
        raise UserError(f"{file} is not there, or no backup of pyk") from None
    except (OSError, EOFError, tarfile.TarError, ValueError, TypeError) as error:
        raise UserError(f"{file} is no backup of pyk, or cut: {error}") from None


def check(manifest: Manifest) -> None:
    """Raises `UserError` for a backup that this version cannot use."""
    if manifest.format > FORMAT:
        raise UserError(f"the backup is of a newer pyk ({manifest.version}): restore it with that one")
    try:
        check_versions(manifest.version, KUBERNETES_VERSION)
    except VersionSkew:
        raise UserError(
            f"the backup is of {manifest.version} and this is {KUBERNETES_VERSION}: restore it with a version that is "
            "the same or up to three minor versions newer"
        ) from None


def _make_room(data_dir: Path, manifest: Manifest, clock: Clock, *, force: bool) -> Path | None:
    """Put aside what the folder has: where to, None when it has nothing."""
    authority = data_dir / "pki" / "ca.crt"
    if authority.exists() and (found := hash_of(authority.read_bytes())) != manifest.cluster:
        raise UserError(
            f"{data_dir} has another cluster (its authority's hash is {found}, the backup's {manifest.cluster}): "
            "choose another --data-dir, or take that cluster away first"
        )
    if {path.name for path in data_dir.iterdir()} <= {"lock"}:
        return None
    if not force:
        raise UserError(f"{data_dir} has a control plane already: --force puts it aside and restores in its place")
    moved = data_dir.with_name(f"{data_dir.name}.before-restore-{clock.time():.0f}")
    os.rename(data_dir, moved)
    return moved


def _take_back(data_dir: Path, moved: Path | None) -> None:
    """Undo: the folder as it was."""
    if moved is not None:
        shutil.rmtree(data_dir, ignore_errors=True)
        os.rename(moved, data_dir)
        return
    for path in data_dir.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def as_recorded(options: ServerOptions, record: Record) -> ServerOptions:
    """The options, with what the cluster of the record cannot change any more."""
    fixed = {name: getattr(record, name) for name in controlplane.FIXED if name != "store"}
    store = options.store or ("etcd" if options.etcd_servers else record.store)
    return replace(options, **fixed, store=store, join="", token="")


def _fill(unpacked: Path, data_dir: Path, options: ServerOptions, clock: Clock) -> None:
    for path in (unpacked / PKI).rglob("*"):
        if path.is_file():
            target = data_dir / "pki" / path.relative_to(unpacked / PKI)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            pki.write_whole(target, path.read_bytes(), mode=0o644 if path.suffix in (".crt", ".pub") else 0o600)
    plane = controlplane.resolve(options)
    controlplane.write_files(plane, clock)
    if not plane.has_member:
        _store_command(plane, "load", unpacked / STORE)
        return
    member = plane.member
    command = etcd.command(member, [f"{member.name}={member.peer_url}"], is_new=True)
    with (data_dir / "logs" / "etcd-restore.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _await_etcd(plane, process)
        _store_command(plane, "load", unpacked / STORE)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_etcd(plane: ControlPlane, process: subprocess.Popen[bytes]) -> None:
    tls = etcd_tls(plane)
    assert tls is not None  # a member of our own has them
    admin = etcd.Admin([f"https://127.0.0.1:{plane.member.client_port}"], *tls)
    for _ in range(ETCD_START_TRIES):
        if process.poll() is not None:
            break
        try:
            admin.check_health()
        except etcd.EtcdFailure:
            threading.Event().wait(0.1)
        else:
            return
    raise UserError(f"etcd does not start: see {plane.data_dir / 'logs' / 'etcd-restore.log'}")


def _store_command(plane: ControlPlane, action: str, file: Path) -> str:
    """Dump or load the store of the control plane: what the command printed, the revision."""
    if plane.record.store == "sqlite":
        where = ["--sqlite", str(plane.data_dir / "store.db")]
    else:
        endpoints: Sequence[str] = plane.options.etcd_servers
        if plane.has_member:
            endpoints = [f"https://127.0.0.1:{plane.member.client_port}"]
        where = ["--etcd-endpoints", ",".join(endpoints)]
        tls = etcd_tls(plane)
        if tls is not None:
            where += ["--etcd-ca", str(tls[0]), "--etcd-cert", str(tls[1]), "--etcd-key", str(tls[2])]
    done = subprocess.run(
        [sys.executable, "-m", "controlplane.store", action, str(file), *where],
        capture_output=True,
        text=True,
        check=False,
        env=controlplane.program_environment(),
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise UserError(f"the store cannot be {action}ed: {lines[-1] if lines else done.returncode}")
    return done.stdout.strip()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o600
    archive.addfile(member, io.BytesIO(content))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _document(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in Manifest.__slots__}
