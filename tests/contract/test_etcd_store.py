"""What only an etcd store does: grouped transactions, TLS, several members, several stores on one database."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.store import etcd_codec, open_store
from controlplane.store.contract import Entry, StoreError, StoreUnavailable, ValueTooLarge
from controlplane.store.etcd import EtcdStore
from controlplane.store.etcd_codec import WRITES_A_GROUP, split
from pyk.reconcile.clock import RealClock

pytestmark = pytest.mark.etcd


@pytest.fixture
async def make_store(etcd_server: Any, etcd_roots: Iterator[str]) -> AsyncIterator[Callable[..., EtcdStore]]:
    """Makes stores that share the test's root; all are closed at the end."""
    stores: list[EtcdStore] = []
    root = next(etcd_roots)

    def make(endpoints: list[str] | None = None, **options: Any) -> EtcdStore:
        store = EtcdStore(endpoints or [etcd_server.endpoint], clock=RealClock(), root=root, **options)
        stores.append(store)
        return store

    yield make
    for store in stores:
        await store.close()


async def test_concurrent_writes_share_a_transaction(make_store: Callable[..., EtcdStore]) -> None:
    """Without it, the contract's tests of revisions inside a transaction would test nothing."""
    store = make_store()
    await store.open()
    created = await asyncio.gather(*(store.create(f"/{number}", b"") for number in range(WRITES_A_GROUP)))
    assert len({split(revision)[0] for revision in created}) == 1
    deleted = await asyncio.gather(*(store.delete(f"/{number}", created[number]) for number in range(60)))
    assert len({split(revision)[0] for revision in deleted}) < 10


async def test_a_full_group_of_the_biggest_operations_is_accepted(make_store: Callable[..., EtcdStore]) -> None:
    store = make_store()
    await store.open()
    lease = await store.grant_lease(60)
    made = await asyncio.gather(*(store.create(f"/{n}", b"", lease=lease) for n in range(WRITES_A_GROUP)))
    updates = [store.update(f"/{number}", b"x", made[number], lease=lease) for number in range(WRITES_A_GROUP)]
    assert len(set(await asyncio.gather(*updates))) == WRITES_A_GROUP


async def test_a_value_that_etcd_refuses_fails_alone(make_store: Callable[..., EtcdStore]) -> None:
    store = make_store()
    await store.open()
    key, most = "/" + "k" * 600, etcd_codec.MOST_VALUE_BYTES
    too_big, big, fine = await asyncio.gather(
        store.create("/big", b"x" * (most + 1)),
        store.create(key, b"x" * most),
        store.create("/small", b""),
        return_exceptions=True,
    )
    assert isinstance(too_big, ValueTooLarge)
    assert (too_big.key, too_big.most) == ("/big", most)
    assert isinstance(fine, int)
    assert isinstance(big, int)
    with pytest.raises(ValueTooLarge):
        await store.update(key, b"x" * 2_500_000, big)
    assert await store.update(key, b"y" * most, big) > big


async def test_a_watch_that_lags_rereads_the_history(make_store: Callable[..., EtcdStore]) -> None:
    store = make_store()
    await store.open()
    async with aclosing(store.watch("/lag/", after=await store.revision())) as watch:
        first = await store.create("/lag/first", b"")
        assert [event.revision for event in (await anext(watch)).events] == [first]
        # More than a watcher's buffer holds.
        written = await asyncio.gather(*(store.create(f"/lag/{number}", b"") for number in range(6000)))
        seen: list[int] = []
        async with asyncio.timeout(60):
            while len(seen) < len(written):
                seen += [event.revision for event in (await anext(watch)).events]
    assert seen == sorted(written)


async def test_stores_see_each_others_writes(make_store: Callable[..., EtcdStore]) -> None:
    one, two = make_store(), make_store()
    await one.open()
    await two.open()
    async with aclosing(two.watch("/x/", after=await two.revision())) as watch:
        revision = await one.create("/x/1", b"1")
        assert await two.get("/x/1") == Entry("/x/1", b"1", revision)
        assert [event.revision for event in (await anext(watch)).events] == [revision]


async def test_writes_beside_the_store_do_not_hold_up_progress(
    make_store: Callable[..., EtcdStore], etcd_server: Any
) -> None:
    store, stranger = make_store(), EtcdStore([etcd_server.endpoint], clock=RealClock(), root="/stranger")
    await store.open()
    await stranger.open()
    try:
        async with aclosing(store.watch("/x/", after=await store.revision())) as watch:
            waiting = asyncio.ensure_future(anext(watch))
            revision = await stranger.create("/x/1", b"")
            await store.request_progress()
            async with asyncio.timeout(10):
                batch = await waiting
        assert batch.events == []
        assert batch.revision >= revision
        assert await store.get("/x/1") is None
    finally:
        await stranger.close()


async def test_an_unreachable_cluster_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.store.etcd_connection.CONNECT_SECONDS", 0.3)
    store = EtcdStore(["127.0.0.1:9"], clock=RealClock())
    with pytest.raises(StoreUnavailable, match=r"no etcd member answers at 127\.0\.0\.1:9"):
        await store.open()


async def test_writes_wait_for_a_member_that_is_starting(make_etcd: Callable[..., Any]) -> None:
    server = make_etcd()
    server.start()
    store = EtcdStore([server.endpoint], clock=RealClock())
    await store.open()
    try:
        server.kill()
        await asyncio.sleep(0.1)
        writing = asyncio.ensure_future(store.create("/a", b""))
        await asyncio.to_thread(server.start)
        # Sent before the connection was seen to be lost, it may fail; the next one waits.
        outcome = (await asyncio.gather(writing, return_exceptions=True))[0]
        assert isinstance(outcome, int | StoreUnavailable)
        assert isinstance(await store.create("/b", b""), int)
    finally:
        await store.close()
        server.kill()


@pytest.mark.timeout(180)
async def test_a_cluster_goes_on_without_the_member_in_use(make_etcd: Callable[..., Any], tmp_path: Path) -> None:
    members = [make_etcd(directory=tmp_path, name=name) for name in ("one", "two", "three")]
    cluster = {member.name: member._cluster[member.name] for member in members}
    for member in members:
        member._cluster = cluster
        member.start(wait=False)
    await asyncio.gather(*(asyncio.to_thread(member.wait_until_healthy) for member in members))
    store = EtcdStore([member.endpoint for member in members], clock=RealClock())
    await store.open()
    acknowledged: dict[str, int] = {}
    seen: dict[str, int] = {}

    async def follow() -> None:
        async with aclosing(store.watch("/f/", after=start)) as watch:
            async for batch in watch:
                for event in batch.events:
                    assert event.key not in seen
                    seen[event.key] = event.revision
                if any(event.key.startswith("/f/end") for event in batch.events):
                    return

    async def write_until(key: str) -> None:
        """Write under new names until a write is acknowledged."""
        for attempt in range(100):
            try:
                acknowledged[f"{key}.{attempt}"] = await store.create(f"{key}.{attempt}", b"")
            except StoreUnavailable:
                await asyncio.sleep(0.1)
            else:
                return
        raise AssertionError(f"{key} was never acknowledged")

    try:
        start = await store.revision()
        watcher = asyncio.create_task(follow())
        async with asyncio.timeout(120):
            for number, member in enumerate(members):
                await asyncio.gather(*(write_until(f"/f/{number}/{writer}") for writer in range(8)))
                member.kill()
                await asyncio.gather(*(write_until(f"/f/{number}/{writer}/without") for writer in range(8)))
                await asyncio.to_thread(member.start)
            await write_until("/f/end")
            await watcher
        assert acknowledged.items() <= seen.items()
        assert list(seen.values()) == sorted(seen.values())
    finally:
        await store.close()
        for member in members:
            member.kill()


def write_certificates(directory: Path) -> dict[str, str]:
    """A CA and a certificate for 127.0.0.1, good for server and client; the paths of the PEM files."""
    now = datetime.datetime.now(datetime.UTC)

    def build(name: str, key: Any, issuer: x509.Name | None, issuer_key: Any, *, is_ca: bool) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or subject)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return builder.add_extension(address, critical=False).sign(issuer_key, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = build("test CA", ca_key, None, ca_key, is_ca=True)
    certificate = build("etcd", key, ca.subject, ca_key, is_ca=False)
    pem = serialization.Encoding.PEM
    contents = {
        "ca": ca.public_bytes(pem),
        "cert": certificate.public_bytes(pem),
        "key": key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    }
    for name, content in contents.items():
        (directory / f"{name}.pem").write_bytes(content)
    return {name: str(directory / f"{name}.pem") for name in contents}


async def test_tls_with_client_certificates(
    make_etcd: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_certificates(tmp_path)
    flags = {"cert-file": files["cert"], "key-file": files["key"], "trusted-ca-file": files["ca"]}
    server = make_etcd(directory=tmp_path, **flags, **{"client-cert-auth": "true"})
    server.start()
    try:
        store = open_store("etcd", endpoints=[f"https://{server.endpoint}"], clock=RealClock(), **files)
        await store.open()
        revision = await store.create("/a", b"secret")
        assert await store.get("/a") == Entry("/a", b"secret", revision)
        await store.close()
        monkeypatch.setattr("controlplane.store.etcd_connection.CONNECT_SECONDS", 1)
        for wrong in ({}, {"ca": files["ca"]}):
            stranger = open_store("etcd", endpoints=[f"https://{server.endpoint}"], clock=RealClock(), **wrong)
            with pytest.raises(StoreUnavailable):
                await stranger.open()
    finally:
        server.kill()


async def test_missing_tls_files_are_named(tmp_path: Path) -> None:
    store = open_store("etcd", endpoints=["127.0.0.1:1"], clock=RealClock(), ca=tmp_path / "absent.pem")
    with pytest.raises(StoreError, match=r"absent\.pem"):
        await store.open()
