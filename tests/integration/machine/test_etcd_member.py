"""The etcd member of a control plane, with a database that is full: one clear line, and it recovers."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.store.contract import StoreFull
from controlplane.store.etcd import EtcdStore
from pyk.machine import etcd
from pyk.reconcile.clock import RealClock

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(shutil.which("etcd") is None, reason="the etcd binary is missing: apt-get install etcd-server"),
]
QUOTA = 16 << 20


@pytest.fixture
def member(tmp_path: Path) -> Iterator[etcd.Settings]:
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], two.getsockname()[1]
    made = etcd.Settings("one", tmp_path / "data", tmp_path / "pki", "127.0.0.1", *ports, QUOTA)
    etcd.ensure_pki(made.pki_dir, ["127.0.0.1"], RealClock())
    command = etcd.command(made, [f"one={made.peer_url}"], is_new=True)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield made
    process.kill()
    process.wait()


def admin_of(member: etcd.Settings) -> etcd.Admin:
    folder = member.pki_dir
    return etcd.Admin([member.client_url], folder / "ca.crt", folder / "client.crt", folder / "client.key")


def until_it_answers(admin: etcd.Admin) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            admin.check_health()
            return
        except etcd.EtcdFailure:
            assert time.monotonic() < deadline
            time.sleep(0.05)


async def test_a_full_database_is_told_in_one_line_and_recovers_when_its_history_goes(member: etcd.Settings) -> None:
    admin = admin_of(member)
    until_it_answers(admin)
    folder = member.pki_dir
    store = EtcdStore(
        [member.client_url],
        clock=RealClock(),
        ca=folder / "ca.crt",
        cert=folder / "client.crt",
        key=folder / "client.key",
    )
    await store.open()
    try:
        revision = await store.create("/registry/big", b"")
        told, number = "", 0
        for number in range(100):
            try:
                revision = await store.update("/registry/big", b"%02d" % number * 250_000, revision)
            except StoreFull as error:
                told = str(error)
                break
        assert "etcd's database is full" in told
        assert "\n" not in told
        other = await store.get("/registry/big")
        assert other is not None, "it can be read"
        assert admin.has_no_space()
        admin.make_space()
        assert not admin.has_no_space()
        entry = await store.get("/registry/big")
        assert entry is not None
        if entry.revision == revision:
            assert entry.value[:2] == b"%02d" % (number - 1), "what was acknowledged is there"
        else:  # etcd may find out that it is full while it writes: then it refuses what it has written
            assert (entry.revision > revision, entry.value[:2]) == (True, b"%02d" % number)
        assert await store.update("/registry/big", b"small", entry.revision) > entry.revision
    finally:
        await store.close()


async def test_nobody_without_a_certificate_of_etcd_s_own_authority_gets_in(
    member: etcd.Settings, tmp_path: Path
) -> None:
    until_it_answers(admin_of(member))
    other = tmp_path / "other"
    etcd.ensure_pki(other, ["127.0.0.1"], RealClock())
    stranger = etcd.Admin([member.client_url], member.pki_dir / "ca.crt", other / "client.crt", other / "client.key")
    with pytest.raises(etcd.EtcdFailure, match="no etcd member answers"):
        stranger.members()
