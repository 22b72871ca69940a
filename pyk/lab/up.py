"""Bringing a cluster up, step by step, for the command line.

`prepare` checks everything that can be checked before anything is made, then makes what the components start from;
`start` leaves a supervisor behind, whose start `pyk.lab.ready` follows. Every error that a user can do something about
is a `UserError` with one line; after a failed start nothing runs.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pyk.errors import UserError
from pyk.lab import kubeconfig
from pyk.lab import state as records
from pyk.lab.addresses import free_subnets
from pyk.lab.cgroups import LabCgroups
from pyk.lab.components import (
    METRICS_PORTS,
    check_etcd,
    check_scheduler_config,
    environment,
    etcd_endpoint,
    make_node_group,
    write_files,
)
from pyk.lab.layout import Layout, Options, check_options
from pyk.lab.state import DETACH, ClusterState
from pyk.lab.teardown import stop_control_plane, sweep

STOP_SECONDS = 30.0
_MACHINE_LOCK = "/run"

Tell = Callable[[str, str], None]
"""Called with the name of a step and how far it is."""


class AlreadyRunning(Exception):
    """The data folder's cluster runs."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(f"cluster {layout.options.name} runs already")
        self.layout = layout


@dataclass(slots=True)
class Running:
    """A supervisor that was started: its process, the pipe of its reports, and the lifeline whose end is its end."""

    layout: Layout
    process: subprocess.Popen[bytes]
    reports: int
    lifeline: int


def need_root(command: str) -> None:
    """Raises `UserError` without root."""
    if os.geteuid() != 0:
        raise UserError(f"{command} needs root: it makes namespaces, control groups and links; try 'sudo {command}'")


def prepare(options: Options, tell: Tell) -> tuple[Layout, int]:
    """Check, then make folders, certificates, network and control groups: the layout, and the held lock.

    Raises `UserError` for what the user can change, `AlreadyRunning` when there is nothing to do.
    """
    check_options(options)
    data_dir = Path(options.data_dir)
    before = ClusterState.load(data_dir)
    if records.is_ours(data_dir):
        held = records.lock(data_dir)
        if held is None:
            raise _running(before, options)
        os.close(held)
    layout = Layout(options)
    check_etcd(layout)
    _check_families(layout)
    check_scheduler_config(layout)
    kubeconfig.check(layout)
    cgroups = detect_cgroups()
    if before is None:
        _check_ports(options.port)
    records.claim(data_dir)
    held = records.lock(data_dir)
    if held is None:
        raise _running(before, options)
    try:
        if before is not None:
            _stop_leftovers(before, cgroups)
            _check_ports(options.port)
        return _make(layout, before, cgroups, tell), held
    except BaseException:
        os.close(held)
        raise


def start(layout: Layout, lock: int) -> Running:
    """Start the supervisor, in a session of its own. It ends with this process, unless `detach` is called."""
    reports, report = os.pipe2(os.O_CLOEXEC)
    lifeline_end, lifeline = os.pipe2(os.O_CLOEXEC)
    flags = ["--data-dir", str(layout.data_dir), "--lock-fd", str(lock)]
    flags += ["--report-fd", str(report), "--lifeline-fd", str(lifeline_end)]
    endpoints = layout.options.etcd_endpoints
    if layout.options.store == "etcd":
        flags += [flag for one in endpoints or (etcd_endpoint(),) for flag in ("--etcd-endpoint", one)]
    with (layout.log_dir / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pyk.lab.supervisor", *flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment(),
            pass_fds=[lock, report, lifeline_end],
            start_new_session=True,
        )
    for descriptor in (lock, report, lifeline_end):
        os.close(descriptor)
    return Running(layout, process, reports, lifeline)


def detach(running: Running) -> None:
    """Let the supervisor outlive this process."""
    os.write(running.lifeline, DETACH)


def stop(running: Running) -> None:
    """End the supervisor that `start` gave, and with it the cluster; its data stays."""
    running.process.terminate()
    try:
        running.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        running.process.kill()
        running.process.wait()
    # What a supervisor that did not get to the end has left.
    sweep(running.layout, detect_cgroups())


def _make(layout: Layout, before: ClusterState | None, cgroups: LabCgroups, tell: Tell) -> Layout:
    from pyk.lab import network

    try:
        with _alone_on_the_machine():
            layout = layout.with_subnet(_choose_subnet(layout, before))
            tell("network", f"nodes {layout.node_subnet}, pods {', '.join(map(str, layout.cluster_cidrs))}")
            ClusterState(layout.options).save()
            network.make_segment(layout)
        for node in layout.node_names():
            make_node_group(layout, cgroups, node)
            network.add_node(layout, node)
        tell("certificates", "in " + str(layout.pki_dir))
        write_files(layout)
        kubeconfig.write(layout)
    except BaseException as error:
        sweep(layout, cgroups)
        if isinstance(error, OSError):
            raise UserError(f"cannot make the nodes: {error}") from error
        raise
    return layout


def _choose_subnet(layout: Layout, before: ClusterState | None) -> int:
    from pyk.lab import network

    known = before.options.subnet if before is not None else None
    if known is not None and network.has_segment(layout):
        return known
    free = free_subnets(network.networks_in_use(), layout.families)
    if not free:
        raise UserError("the machine routes every network from 10.88.0.0/24 to 10.88.155.0/24 elsewhere")
    return known if known in free else free[0]


def _running(present: ClusterState | None, wanted: Options) -> Exception:
    """What to say of a cluster that runs already."""
    if present is None or present.options.subnet is None:
        return UserError(f"another command is starting the cluster of {wanted.data_dir}: try again in a moment")
    if replace(present.options, subnet=wanted.subnet) != wanted:
        return UserError(
            f"cluster {present.options.name} runs with other options: stop it first (Ctrl-C or 'pyk down')"
        )
    return AlreadyRunning(present.layout)


def _stop_leftovers(before: ClusterState, cgroups: LabCgroups) -> None:
    """End what a supervisor that was killed left running, but not the containers: the new agents take them over."""
    stop_control_plane(before.layout, cgroups)
    for name, process in before.processes.items():
        if name.startswith("agent-"):
            process.end(STOP_SECONDS)


def _check_families(layout: Layout) -> None:
    from pyk.lab import network

    if layout.options.network_backend == "wireguard" and not network.has_wireguard():
        raise UserError("--network-backend wireguard: this kernel has no WireGuard")
    if 6 in layout.families and not network.has_ipv6():
        raise UserError(f"--ip-family {layout.options.ip_family}: IPv6 is switched off on this machine")


def _check_ports(port: int) -> None:
    for number in range(port, port + 1 + METRICS_PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                what = "" if number == port else f" (a component's port beside --port {port})"
                raise UserError(f"port {number} is in use{what}: choose another with --port") from None


def detect_cgroups() -> LabCgroups:
    try:
        return LabCgroups.detect()
    except OSError as error:
        raise UserError(f"this machine's control groups cannot be used: {error}") from None


@contextmanager
def _alone_on_the_machine() -> Iterator[None]:
    """One cluster at a time chooses its subnet."""
    descriptor = os.open(_MACHINE_LOCK, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
