"""`pyk server`: a control plane on this machine, in the foreground: started, watched, renewed and stopped in order.

`prepare` checks, joins another control plane if it is to, and makes every file; `run` keeps the programs running. They
wait for one another by themselves, except that no API server uses an etcd member that has not caught up yet. When the
API server answers, what agents have to know is published, and the first start prints a token. SIGTERM stops all; the
containers on the nodes, and the nodes, do not notice.

Certificates are looked at twice a day and renewed two months before their end. Servers and clients notice by
themselves (`pyk/tls.py`); only the API server, whose connection to etcd cannot, is then restarted.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import shutil
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pyk import pki
from pyk.api.bootstraptokens import SECRET_NAMESPACE
from pyk.api.kinds import SECRET
from pyk.api.status import ApiError
from pyk.client.blocking import BlockingClient, ServerUnreachable
from pyk.client.config import ClientConfig
from pyk.errors import UserError
from pyk.machine import address, bundle, controlplane, etcd, lock, publish, tokens
from pyk.machine.checks import check_server
from pyk.machine.controlplane import ControlPlane
from pyk.machine.discovery import CannotJoin, discover
from pyk.machine.join import ask
from pyk.machine.keeping import Keeper, Program
from pyk.machine.options import ServerOptions, servers_of
from pyk.machine.token import parse
from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

RENEW_EVERY_SECONDS = 43_200.0
ROOM_SECONDS = 15.0
"""How often to see whether etcd's database is full."""
LEAST_FREE_BYTES = 16 << 20
_PROBE_SECONDS = 0.2
_LONGEST_PROBE_SECONDS = 5.0
_ETCD_SECONDS = 1.0
_CHANGE_TRIES = 30
_PASSING = ("unhealthy", "too many learner", "not enough started members")
"""What etcd says of a change of its members that it may take a little later."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a control plane starts with: `initial` are NAME=PEER-URL of the etcd members to begin with, `others` client
    URLs of members elsewhere."""

    plane: ControlPlane
    initial: Sequence[str] = ()
    others: Sequence[str] = ()


class Cluster:
    """The running control plane."""

    def __init__(self, prepared: Prepared, clock: Clock, tell: Callable[[str], None]) -> None:
        self._plane = prepared.plane
        self._prepared = prepared
        self._clock = clock
        self._tell = tell
        self._keepers: dict[str, Keeper] = {}

    async def run(self) -> None:
        """Until cancelled; then the programs end, the last to start first."""
        try:
            async with asyncio.TaskGroup() as group:
                endpoints = [*self._plane.options.etcd_servers]
                if self._plane.has_member:
                    self._keep(group, self._etcd())
                    endpoints = await self._member_ready()
                group.create_task(self._renew())
                group.create_task(address.watch(self._plane.options.advertise_address, self._clock))
                if self._plane.has_member:
                    group.create_task(self._make_room())
                apiserver, *clients = controlplane.programs(self._plane, endpoints)
                self._keep(group, apiserver)
                await self._api_ready()
                for program in clients:
                    self._keep(group, program)
                await self._publish()
        finally:
            for keeper in reversed(self._keepers.values()):
                await keeper.stop()

    def _keep(self, group: asyncio.TaskGroup, program: Program) -> None:
        keeper = Keeper(program, self._clock, lambda: full_disk(self._plane.data_dir))
        self._keepers[program.name] = keeper
        group.create_task(keeper.run())

    def _etcd(self) -> Program:
        is_new = not self._plane.options.join
        command = etcd.command(self._plane.member, self._prepared.initial, is_new=is_new)
        return Program("etcd", command, controlplane.program_environment())

    async def _member_ready(self) -> list[str]:
        """Wait until the own member is a voter that answers: the client URLs of all, its own first."""
        member, told = self._plane.member, ""
        while True:
            try:
                return await asyncio.to_thread(_take_part, self._plane, self._prepared.others)
            except etcd.EtcdFailure as error:
                if str(error) != told:
                    told = str(error)
                    log.info("waiting for etcd member %s: %s", member.name, told)
            await self._clock.sleep(_ETCD_SECONDS)

    async def _renew(self) -> None:
        while True:
            await self._clock.sleep(RENEW_EVERY_SECONDS)
            for name in await asyncio.to_thread(controlplane.write_files, self._plane, self._clock):
                self._keepers[name].restart()

    async def _make_room(self) -> None:
        """When etcd's database is full: let go of its history, and end the alarm if that was enough."""
        own = etcd_admin(self._plane, [f"https://127.0.0.1:{self._plane.member.client_port}"])
        is_told = False
        while True:
            await self._clock.sleep(ROOM_SECONDS)
            try:
                if not await asyncio.to_thread(own.has_no_space):
                    is_told = False
                    continue
                await asyncio.to_thread(own.make_space)
            except etcd.EtcdFailure as error:
                log.warning("etcd: %s", error)
                continue
            if is_told:
                continue
            is_told = True
            log.error(
                "etcd's database was full (%d MiB, --etcd-quota-bytes): its history was let go; if it fills again, "
                "delete what is not needed or raise the quota",
                self._plane.options.etcd_quota_bytes >> 20,
            )

    async def _api_ready(self) -> None:
        while not await asyncio.to_thread(_answers, self._plane):
            await self._clock.sleep(_PROBE_SECONDS)

    async def _publish(self) -> None:
        """Publish, tell systemd, and at the first start print how to join."""
        plane, delay = self._plane, _PROBE_SECONDS
        while True:
            try:
                is_first, token = await asyncio.to_thread(self._publish_now)
                break
            except (ServerUnreachable, ApiError) as error:
                log.warning("the settings for agents are not published: %s", error)
                delay = min(2 * delay, _LONGEST_PROBE_SECONDS)
                await self._clock.sleep(delay)
        self._tell(f"the control plane is up at {plane.server_url}; kubeconfig {plane.options.kubeconfig}")
        if is_first:
            self._tell("to add a machine (the token lasts a day; 'pyk token create' makes another):")
            self._tell(f"  pyk agent --server {plane.server_url} --token {token}")
        notify("READY=1")

    def _publish_now(self) -> tuple[bool, str]:
        client = admin_client(self._plane)
        try:
            is_first = publish.publish(client, self._plane.settings())
            if not is_first:
                return False, ""
            token = tokens.new_token(
                self._clock.time(),
                tokens.DEFAULT_TTL_SECONDS,
                description="made at the first start",
                usages=frozenset(tokens.USAGES),
            )
            return True, str(tokens.create(client, token))
        finally:
            client.close()


def prepare(options: ServerOptions, clock: Clock) -> Prepared:
    """Check, join if need be, and make every file.

    The lock on the data folder is held until this process ends. Raises `UserError`.
    """
    data_dir = Path(options.data_dir).absolute()
    check_server(controlplane.settled(options, controlplane.read_record(data_dir)))
    lock.claim(data_dir, "pyk server")
    joined = _fetch_bundle(options, data_dir, clock) if options.join else None
    plane = controlplane.resolve(options, joined)
    if plane.has_member:
        etcd.program()
    _check_port(plane)
    controlplane.write_files(plane, clock)
    if not plane.has_member:
        return Prepared(plane)
    others = (joined or {}).get("etcd-endpoints", "").split(",") if joined else []
    return Prepared(plane, _join_etcd(plane, others), others)


def admin_client(plane: ControlPlane) -> BlockingClient:
    """The API server of this machine, as its administrator."""
    pair = plane.pki_dir / "admin.crt", plane.pki_dir / "admin.key"
    config = ClientConfig(
        plane.local_url, ca=(plane.pki_dir / "ca.crt").read_bytes(), certificate_file=pair[0], key_file=pair[1]
    )
    return BlockingClient(config, user_agent="pyk-server")


def _answers(plane: ControlPlane) -> bool:
    """Whether the API server does."""
    client = admin_client(plane)
    try:
        client.json("GET", "/version")
    except (ServerUnreachable, ApiError):
        return False
    finally:
        client.close()
    return True


def full_disk(folder: Path) -> str:
    """A sentence when the folder's disk is full, else nothing."""
    free = shutil.disk_usage(folder).free
    if free >= LEAST_FREE_BYTES:
        return ""
    return f"the disk of {folder} is full ({free >> 20} MiB left): make room, and the control plane goes on by itself"


def notify(state: str) -> None:
    """Tell systemd, if it started us (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, suppress(OSError):
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.sendall(state.encode())


def join_settings(plane: ControlPlane) -> dict[str, str]:
    """What a token for a control plane tells besides the keys."""
    endpoints = [plane.member.client_url] if plane.has_member else list(plane.options.etcd_servers)
    return {**plane.settings(), "etcd-endpoints": ",".join(endpoints)}


def _fetch_bundle(options: ServerOptions, data_dir: Path, clock: Clock) -> dict[str, str]:
    """The cluster's keys and settings, from a control plane that runs; or from before, when they are here already."""
    token = parse(options.token)
    cache = data_dir / "joined.json"
    if cache.exists() and (data_dir / "pki" / "ca.crt").exists():
        found: dict[str, str] = json.loads(cache.read_bytes())
        return found
    if (data_dir / "pki" / "ca.crt").exists():
        raise CannotJoin(f"{data_dir} has a control plane already: choose another --data-dir, or leave --join out")
    if not token.bundle_key:
        raise CannotJoin("the token is one for nodes: make one with 'pyk token create --server' on a control plane")
    config = discover(servers_of("--join", (options.join,)), token, clock)
    path = SECRET.path(SECRET_NAMESPACE, bundle.name_of(token.id))
    try:
        secret = ask(config, clock, "GET", path)
    except ApiError as error:
        raise CannotJoin(f"the token is not for control planes: {error.message}") from None
    sealed = base64.b64decode(secret["data"]["bundle"]).decode()
    files, settings = bundle.unseal(sealed, token.bundle_key, token.id)
    # In this order: who is interrupted between the two fetches them again.
    pki.write_private(cache, json.dumps(settings).encode())
    bundle.write(files, data_dir / "pki")
    return settings


def _join_etcd(plane: ControlPlane, others: Sequence[str]) -> list[str]:
    """NAME=PEER-URL of the members to begin with; a further control plane makes itself known first."""
    member = plane.member
    own = f"{member.name}={member.peer_url}"
    if member.is_started() or not plane.options.join:
        return [own]
    admin = etcd_admin(plane, others)
    present = admin.members()
    if not any(member.peer_url in each.peer_urls for each in present):
        _when_healthy(lambda: admin.add_learner(member.peer_url))
        present = admin.members()
    named = [f"{each.name}={url}" for each in present if each.name for url in each.peer_urls if url != member.peer_url]
    return [*named, own]


def _take_part(plane: ControlPlane, known: Sequence[str]) -> list[str]:
    """See that the own member is a voter with its present address: the client URLs. Raises `EtcdFailure`.

    A learner tells nothing of its cluster, so `known` members elsewhere are asked too.
    """
    member = plane.member
    own = f"https://127.0.0.1:{member.client_port}"
    etcd_admin(plane, [own]).check_health()
    present = etcd_admin(plane, [own, *known]).members()
    others = [url for each in present if each.name != member.name for url in each.client_urls]
    mine = next((each for each in present if each.name == member.name), None)
    if mine is None:
        raise etcd.EtcdFailure("it has not heard of itself yet")
    anybody = etcd_admin(plane, [*others, own])
    if member.peer_url not in mine.peer_urls:
        log.warning("the address of etcd member %s is now %s", member.name, member.address)
        anybody.move(mine, member.peer_url)
    if mine.is_learner:
        anybody.promote(mine)
    voters = [url for each in present if each.name != member.name and not each.is_learner for url in each.client_urls]
    return [own, *voters]


def leave(data_dir: Path, tell: Callable[[str], None]) -> None:
    """Take this machine's etcd member out of its cluster, while both still run; the last member stays.

    Raises `EtcdFailure` when the others do not let it go: stopped all the same, it would be waited for. A member that
    does not answer cannot be taken out from here; that is told.
    """
    try:
        plane = controlplane.load(data_dir)
    except UserError:
        return
    if not plane.has_member:
        return
    try:
        present = etcd_admin(plane, [f"https://127.0.0.1:{plane.member.client_port}"]).members()
    except etcd.EtcdFailure as error:
        tell(f"etcd member {plane.member.name} is not taken out of its cluster: {error}")
        return
    mine = next((each for each in present if each.name == plane.member.name), None)
    others = [url for each in present if each.name != plane.member.name for url in each.client_urls]
    if mine is None or not others:
        return
    _when_healthy(lambda: etcd_admin(plane, others).remove(mine))
    tell(f"etcd member {plane.member.name} has left its cluster")


def _when_healthy(change: Callable[[], object]) -> None:
    """Change the members; etcd wants them to have been together for some seconds, and takes one learner at a time.

    Raises `EtcdFailure`.
    """
    for last in [False] * _CHANGE_TRIES + [True]:
        try:
            change()
            return
        except etcd.EtcdFailure as error:
            if last or not any(reason in str(error) for reason in _PASSING):
                raise
            threading.Event().wait(_ETCD_SECONDS)


def etcd_admin(plane: ControlPlane, endpoints: Sequence[str]) -> etcd.Admin:
    """What is asked of the members at these client URLs."""
    folder = plane.pki_dir / "etcd"
    return etcd.Admin(endpoints, folder / "ca.crt", folder / "client.crt", folder / "client.key")


def _check_port(plane: ControlPlane) -> None:
    for bound in plane.bind_addresses:
        family = socket.AF_INET6 if ":" in bound else socket.AF_INET
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((bound, plane.options.port))
        except OSError as error:
            raise UserError(f"port {plane.options.port} of {bound} cannot be used: {error.strerror}") from None
