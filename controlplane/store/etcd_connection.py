"""Connections to the members of an etcd cluster, with fail-over, and etcd's errors in the contract's words.

Calls go to one member while it answers; when it does not, to the next. A call waits some seconds for a member
to be reachable, so the restart of a member is a delay and not an error for calls that begin while it is down.
Reads that fail half-way are repeated; a write is sent once, because a write whose answer was lost may have
happened: it ends in `StoreUnavailable`.

aetcd's client knows neither TLS nor several endpoints and its watches do not survive a lost connection; so its
gRPC stubs are used directly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from aetcd import rpc

from controlplane.store.contract import StoreError, StoreFull, StoreUnavailable
from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 10.0
_READ_ATTEMPTS = 5
_FIRST_RETRY_SECONDS = 0.05
_LAST_RETRY_SECONDS = 2.0
_OPTIONS = (
    # A listing's page and a watch's catch-up may be far above gRPC's default of 4 MiB.
    ("grpc.max_receive_message_length", 512 * 1024 * 1024),
    ("grpc.max_send_message_length", 512 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Notices a member that went without a word. etcd refuses pings more often than every 5 s.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # A global pool would share one broken connection between two stores of one process.
    ("grpc.use_local_subchannel_pool", 1),
)
# Without it a watch on a member that is cut off from the cluster stays silent for ever.
_NEEDS_LEADER = (("hasleader", "true"),)


class RevisionCompacted(StoreError):
    """etcd has compacted the revision; `oldest` is etcd's compacted revision where it said so, else 0."""

    def __init__(self, oldest: int = 0) -> None:
        super().__init__(f"compacted up to etcd revision {oldest}")
        self.oldest = oldest


class RevisionInFuture(StoreError):
    """etcd has not reached the revision."""


class LeaseUnknown(StoreError):
    """etcd does not know the lease."""


class Backoff:
    """Waits between attempts, each twice as long as the one before, up to 2 s."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.attempts = 0

    def reset(self) -> None:
        """Begin anew: an attempt got through."""
        self.attempts = 0

    async def wait(self, reason: str) -> None:
        """Log why the last attempt failed, and wait."""
        seconds = min(_FIRST_RETRY_SECONDS * 2**self.attempts, _LAST_RETRY_SECONDS)
        self.attempts += 1
        log.info("%s; trying again in %.2f s", reason, seconds)
        await self._clock.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the cluster and the stubs of its services."""

    channel: Any
    kv: Any
    lease: Any
    watch: Any
    cluster: Any


class EtcdConnection:
    """The way to a cluster. `endpoints`: `host:port`, optionally with a scheme; `ca`, `cert`, `key`: PEM files.

    With `sync_seconds` the cluster is asked so often which members it has, and those are used besides: an API server
    that began beside the only member outlives it when there are more.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        clock: Clock,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
        sync_seconds: float = 0.0,
    ) -> None:
        self._endpoints = endpoints
        self._sync_seconds = sync_seconds
        self._clock = clock
        self._ca, self._cert, self._key = ca, cert, key
        self._credential: Any = None
        self._members: list[Member] = []
        self._targets: list[str] = []
        self._preferred = 0
        self.is_closed = True

    async def open(self) -> None:
        """Make the channels. Raises `StoreError` when the TLS files cannot be read."""
        self.is_closed = False
        self._credential = await asyncio.to_thread(self._credentials)
        for endpoint in self._endpoints:
            self._add(endpoint)

    def _add(self, endpoint: str) -> None:
        scheme, separator, target = endpoint.rpartition("://")
        if separator and scheme not in ("http", "https"):
            raise StoreError(f"etcd endpoint {endpoint} has a scheme other than http or https")
        if target in self._targets:
            return
        if scheme == "https" or (not separator and self._credential is not None):
            credential = self._credential or grpc.ssl_channel_credentials()
            channel = grpc.aio.secure_channel(target, credential, options=_OPTIONS)
        else:
            channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        stubs = (rpc.KVStub(channel), rpc.LeaseStub(channel), rpc.WatchStub(channel), rpc.ClusterStub(channel))
        self._members.append(Member(channel, *stubs))
        self._targets.append(target)

    async def follow_members(self) -> None:
        """Add the members that the cluster tells of, until cancelled. Those that leave it are passed over in use."""
        while self._sync_seconds:
            await self._clock.sleep(self._sync_seconds)
            try:
                listed = await self.write("cluster", "MemberList", rpc.MemberListRequest())
            except StoreError as error:
                log.info("the members of etcd are not known: %s", error)
                continue
            for member in listed.members:
                for url in () if member.isLearner else member.clientURLs:
                    self._add(url)

    def _credentials(self) -> Any:
        if self._ca is None and self._cert is None and self._key is None:
            return None
        try:
            ca, cert, key = (
                None if path is None else Path(path).read_bytes() for path in (self._ca, self._cert, self._key)
            )
        except OSError as error:
            raise StoreError(f"cannot read the etcd client's TLS files: {error}") from error
        return grpc.ssl_channel_credentials(ca, key, cert)

    async def close(self) -> None:
        self.is_closed = True
        for member in self._members:
            await member.channel.close()
        self._members, self._targets = [], []

    async def member(self) -> Member:
        """A member that is connected, waiting for one if need be. Raises `StoreUnavailable`."""
        ready = self._ready_member()
        if ready is not None:
            return ready
        waits = [asyncio.create_task(member.channel.channel_ready()) for member in self._members]
        try:
            await asyncio.wait(waits, timeout=CONNECT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        ready = self._ready_member()
        if ready is None:
            raise StoreUnavailable(f"no etcd member answers at {', '.join(self._endpoints)}")
        return ready

    def _ready_member(self) -> Member | None:
        if self.is_closed:
            raise StoreUnavailable("the store is closed")
        for offset in range(len(self._members)):
            index = (self._preferred + offset) % len(self._members)
            if self._members[index].channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
                self._preferred = index
                return self._members[index]
        return None

    def fail(self, member: Member, error: grpc.aio.AioRpcError) -> StoreError:
        """What `error` means; calls prefer another member from now on if this one is to blame."""
        translated = _translate(error)
        is_preferred = self._preferred < len(self._members) and self._members[self._preferred] is member
        if isinstance(translated, StoreUnavailable) and is_preferred:
            self._preferred = (self._preferred + 1) % len(self._members)
        return translated

    async def write(self, service: str, method: str, request: Any) -> Any:
        """Call once. `StoreUnavailable` means that it may have happened, or not."""
        member = await self.member()
        try:
            return await getattr(getattr(member, service), method)(request, timeout=REQUEST_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise self.fail(member, error) from error
        except asyncio.CancelledError:
            self._check_closed()
            raise

    async def read(self, method: str, request: Any) -> Any:
        """Call the KV service with a request that changes nothing, repeatedly if need be."""
        backoff = Backoff(self._clock)
        while True:
            try:
                return await self.write("kv", method, request)
            except StoreUnavailable as error:
                if backoff.attempts == _READ_ATTEMPTS or self.is_closed:
                    raise
                await backoff.wait(f"a read failed: {error}")

    async def stream(self, service: str, method: str, request: Any) -> tuple[Member, Any]:
        """Begin a two-way stream and send its first request. The caller reads it and cancels it."""
        member = await self.member()
        call = getattr(getattr(member, service), method)(metadata=_NEEDS_LEADER)
        try:
            await call.write(request)
        except grpc.aio.AioRpcError as error:
            raise self.fail(member, error) from error
        except BaseException:
            call.cancel()
            raise
        return member, call

    async def receive(self, member: Member, call: Any) -> Any:
        """The next response of a stream. Raises `StoreUnavailable` when it has ended."""
        try:
            response = await call.read()
        except grpc.aio.AioRpcError as error:
            raise self.fail(member, error) from error
        except asyncio.CancelledError:
            self._check_closed()
            raise
        if response is grpc.aio.EOF:
            raise StoreUnavailable("etcd ended the stream")
        return response

    def _check_closed(self) -> None:
        """Raise `StoreUnavailable` for gRPC's cancellation of calls on a closed channel, not the caller's own."""
        task = asyncio.current_task()
        if self.is_closed and (task is None or not task.cancelling()):
            raise StoreUnavailable("the store is closed") from None


def _translate(error: grpc.aio.AioRpcError) -> StoreError:
    code, details = error.code(), error.details() or ""
    if "has been compacted" in details:
        return RevisionCompacted()
    if "is a future revision" in details:
        return RevisionInFuture()
    if "requested lease not found" in details:
        return LeaseUnknown()
    if "database space exceeded" in details:
        return StoreFull(
            "etcd's database is full (alarm NOSPACE), nothing can be written: delete what is not needed, or give its "
            "members a larger --quota-backend-bytes; the alarm ends when there is room"
        )
    message = f"etcd: {details} ({code.name})"
    if code in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    ):
        return StoreError(message)
    return StoreUnavailable(message)
