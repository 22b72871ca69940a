"""Bringing a cluster up and taking it down, step by step, for the command line.

`prepare` checks everything that can be checked before anything is made, then makes what the components start from;
`start` leaves a supervisor behind; `wait_ready` follows the start until all nodes are Ready; `take_down` removes all.
Every error that a user can do something about is a `UserError` with one line; after a failed start nothing runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyk import pki
from pyk.api.kinds import NODE
from pyk.api.objects import is_condition_true, name_of
from pyk.api.status import ApiError
from pyk.client.blocking import BlockingClient, ServerUnreachable
from pyk.errors import UserError
from pyk.lab import state as records
from pyk.lab.cgroups import LabCgroups
from pyk.lab.components import METRICS_PORTS, check_etcd, environment, etcd_endpoint, make_node_group, write_files
from pyk.lab.layout import DEFAULT_NAME, Layout, Options, check_options, free_subnets
from pyk.lab.podroutes import admin_config
from pyk.lab.state import ClusterState, Process
from pyk.lab.teardown import remove_data, stop_control_plane, sweep
from pyk.reconcile.clock import Clock, RealClock

READY_SECONDS = 60.0
STOP_SECONDS = 30.0
_PROBE_SECONDS = 0.03
_FAILED_STARTS = 3
_KUBECONFIG_HEAD = "# Written by 'pyk up' for the cluster of {data_dir}; 'pyk down' removes it.\n"
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
    """A supervisor that was started: its process, the pipe of its reports, and the lifeline that ends it when it is
    closed (-1 for one that stays)."""

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
            raise AlreadyRunning(Layout(before.options if before else options))
        os.close(held)
    layout = Layout(options)
    check_etcd(layout)
    _check_kubeconfig(layout)
    cgroups = _detect_cgroups()
    records.claim(data_dir)
    held = records.lock(data_dir)
    if held is None:
        raise AlreadyRunning(Layout(before.options if before else options))
    try:
        if before is not None:
            _stop_leftovers(before, cgroups)
        _check_ports(options.port)
        return _make(layout, before, cgroups, tell), held
    except BaseException:
        os.close(held)
        raise


def start(layout: Layout, lock: int, *, stays: bool) -> Running:
    """Start the supervisor, in a session of its own. With `stays` it outlives the caller."""
    reports, report = os.pipe2(os.O_CLOEXEC)
    lifeline_end, lifeline = (-1, -1) if stays else os.pipe2(os.O_CLOEXEC)
    flags = ["--data-dir", str(layout.data_dir), "--lock-fd", str(lock), "--report-fd", str(report)]
    if not stays:
        flags += ["--lifeline-fd", str(lifeline_end)]
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
            pass_fds=[descriptor for descriptor in (lock, report, lifeline_end) if descriptor >= 0],
            start_new_session=True,
        )
    for descriptor in (lock, report, lifeline_end):
        if descriptor >= 0:
            os.close(descriptor)
    return Running(layout, process, reports, lifeline)


def wait_ready(running: Running, tell: Tell, *, clock: Clock | None = None) -> None:
    """Follow the start until the API server answers and all nodes are Ready.

    Raises `UserError` when the supervisor ends, a component fails again and again, or time is up.
    """
    events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    timer = clock or RealClock()
    threading.Thread(target=_read_reports, args=(running.reports, events), daemon=True).start()
    threading.Thread(target=_watch_nodes, args=(running.layout, events), daemon=True).start()
    deadline = timer.monotonic() + READY_SECONDS
    failures: dict[str, int] = {}
    state = "starting"
    while True:
        try:
            event = events.get(timeout=max(0.0, deadline - timer.monotonic()))
        except queue.Empty:
            raise UserError(
                f"the cluster is not ready after {READY_SECONDS:.0f} s ({state}): see {running.layout.log_dir}"
            ) from None
        if event["event"] == "exited":
            name = event["component"]
            failures[name] = failures.get(name, 0) + 1
            tell(name, f"ended with status {event['status']}: {event['line']}")
            if failures[name] >= _FAILED_STARTS:
                log = running.layout.log_dir / f"{name}.log"
                raise UserError(f"{name} does not start: {event['line'] or 'it said nothing'} (see {log})")
        elif event["event"] == "api":
            tell("control plane", f"ready at {running.layout.server}")
        elif event["event"] == "nodes":
            state = f"{event['ready']} of {event['wanted']} nodes ready"
            tell("nodes", f"{event['ready']}/{event['wanted']} ready")
            if event["ready"] == event["wanted"]:
                return
        elif event["event"] in ("failed", "closed"):
            raise UserError(f"the supervisor ended: see {running.layout.log_dir / 'supervisor.log'}")


def stop(running: Running) -> None:
    """End the supervisor that `start` gave, and with it the cluster; its data stays."""
    if running.lifeline >= 0:
        with suppress(OSError):
            os.close(running.lifeline)
    running.process.terminate()
    try:
        running.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        running.process.kill()
        running.process.wait()
    # What a supervisor that did not get to the end has left.
    sweep(running.layout, _detect_cgroups())


def take_down(data_dir: Path, name: str, tell: Tell, *, kubeconfig: Path) -> bool:
    """End and remove everything of a cluster, its data and kubeconfig included: whether there was anything.

    Works from the records and, without them, from the names. Raises `UserError` for a folder that is not ours.
    """
    if data_dir.exists() and not records.is_ours(data_dir) and any(data_dir.iterdir()):
        raise UserError(f"{data_dir} is not a pyk data folder: nothing was removed")
    state = ClusterState.load(data_dir)
    layout = state.layout if state is not None else Layout(Options(name=name, data_dir=str(data_dir)))
    cgroups = _detect_cgroups()
    found = records.is_ours(data_dir) or bool(cgroups.children(layout.cgroup))
    if state is not None and (supervisor := state.processes.get("supervisor")) is not None:
        tell("supervisor", "stopping")
        supervisor.end(STOP_SECONDS)
    try:
        sweep(layout, cgroups, tell=lambda step: tell(step, "removing"))
        if records.is_ours(data_dir):
            tell("data", f"removing {data_dir}")
            remove_data(data_dir)
    except OSError as error:
        raise UserError(f"cannot remove everything: {error}") from error
    for file in {kubeconfig, Path(layout.options.kubeconfig or kubeconfig)}:
        if _kubeconfig_owner(file) == data_dir:
            file.unlink()
            with suppress(OSError):  # other clusters' files are in it
                if file.parent.name == ".pyk":
                    file.parent.rmdir()
    return found


def _make(layout: Layout, before: ClusterState | None, cgroups: LabCgroups, tell: Tell) -> Layout:
    from pyk.lab import network

    try:
        with _alone_on_the_machine():
            layout = layout.with_subnet(_choose_subnet(layout, before))
            tell("network", f"nodes {layout.node_subnet}, pods {layout.cluster_cidr}")
            ClusterState(layout.options).save()
            network.make_segment(layout)
        for node in layout.node_names():
            make_node_group(layout, cgroups, node)
            network.add_node(layout, node)
        tell("certificates", "in " + str(layout.pki_dir))
        write_files(layout)
        _write_kubeconfig(layout)
    except OSError as error:
        sweep(layout, cgroups)
        raise UserError(f"cannot make the nodes: {error}") from error
    return layout


def _choose_subnet(layout: Layout, before: ClusterState | None) -> int:
    from pyk.lab import network

    known = before.options.subnet if before is not None else None
    if known is not None and network.has_segment(layout):
        return known
    free = free_subnets(network.networks_in_use())
    if not free:
        raise UserError("the machine routes every network from 10.88.0.0/24 to 10.88.155.0/24 elsewhere")
    return known if known in free else free[0]


def _stop_leftovers(before: ClusterState, cgroups: LabCgroups) -> None:
    """End what a supervisor that was killed left running, but not the containers: the new agents take them over."""
    stop_control_plane(before.layout, cgroups)
    for name, process in before.processes.items():
        if name.startswith("agent-"):
            process.end(STOP_SECONDS)


def _check_ports(port: int) -> None:
    for number in range(port, port + 1 + METRICS_PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                what = "" if number == port else f" (the metrics' port beside --port {port})"
                raise UserError(f"port {number} is in use{what}: choose another with --port") from None


def _check_kubeconfig(layout: Layout) -> None:
    path = Path(layout.options.kubeconfig)
    owner = _kubeconfig_owner(path)
    if path.exists() and owner != layout.data_dir:
        if owner is None:
            raise UserError(f"{path} was not written by 'pyk up': choose another file with --kubeconfig")
        if records.is_ours(owner):
            raise UserError(f"{path} belongs to the cluster of {owner}: choose another file with --kubeconfig")


def _write_kubeconfig(layout: Layout) -> None:
    path, folder = Path(layout.options.kubeconfig), layout.pki_dir
    aside = layout.data_dir / "kubeconfigs" / "admin"
    pki.write_kubeconfig(
        aside,
        layout.server,
        folder / "ca.crt",
        folder / "admin.crt",
        folder / "admin.key",
        cluster=layout.options.name,
    )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    head = _KUBECONFIG_HEAD.format(data_dir=layout.data_dir)
    pki.write_private(path, head.encode() + aside.read_bytes())


def _kubeconfig_owner(path: Path) -> Path | None:
    """The data folder of the cluster for which the kubeconfig was written; None when `pyk up` did not write it."""
    before, _, after = _KUBECONFIG_HEAD.partition("{data_dir}")
    try:
        with path.open(errors="replace") as file:
            head = file.readline()
    except OSError:
        return None
    return Path(head[len(before) : -len(after)]) if head.startswith(before) and head.endswith(after) else None


def _detect_cgroups() -> LabCgroups:
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


def _read_reports(descriptor: int, events: queue.SimpleQueue[dict[str, Any]]) -> None:
    with os.fdopen(descriptor, "rb") as reports:
        for line in reports:
            events.put(json.loads(line))
    events.put({"event": "closed"})


def _watch_nodes(layout: Layout, events: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Puts `api` when the API server answers, and `nodes` with each change of how many are Ready."""
    client = BlockingClient(admin_config(layout), user_agent="pyk-up")
    wanted = set(layout.node_names())
    answers = False
    pause = threading.Event()
    while True:
        try:
            if not answers:
                client.json("GET", "/api")
                events.put({"event": "api"})
                answers = True
            listed = client.list(NODE)
            nodes = {name_of(node): node for node in listed["items"]}
            if _tell_ready(nodes, wanted, events):
                return
            params = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
            for line in client.lines(NODE.path(), params=params):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    break
                nodes[name_of(event["object"])] = event["object"]
                if _tell_ready(nodes, wanted, events):
                    return
        except (ServerUnreachable, ApiError, json.JSONDecodeError):
            pause.wait(_PROBE_SECONDS)


def _tell_ready(nodes: dict[str, Any], wanted: set[str], events: queue.SimpleQueue[dict[str, Any]]) -> bool:
    ready = sum(1 for name, node in nodes.items() if name in wanted and is_condition_true(node, "Ready"))
    events.put({"event": "nodes", "ready": ready, "wanted": len(wanted)})
    return ready == len(wanted)


def supervisor_of(data_dir: Path) -> Process | None:
    """The running supervisor on record."""
    state = ClusterState.load(data_dir)
    process = state.processes.get("supervisor") if state is not None else None
    return process if process is not None and process.is_alive else None


def with_defaults(given: dict[str, Any], home: Path) -> Options:
    """The options as given, else as on record of the cluster in the data folder, else the defaults.

    `given` has None for what was not said.
    """
    said = {key: value for key, value in given.items() if value is not None}
    name = str(said.get("name") or DEFAULT_NAME)
    data_dir = Path(said.get("data_dir") or default_data_dir(name)).absolute()
    before = ClusterState.load(data_dir) if records.is_ours(data_dir) else None
    if before is not None and before.options.name != name and "name" in said:
        raise UserError(
            f"{data_dir} has the cluster {before.options.name}: leave --name out, or give another --data-dir"
        )
    base = before.options if before is not None else Options()
    if before is not None and "store" in said and said["store"] != base.store:
        raise UserError(
            f"{data_dir} has a cluster with --store {base.store}: take it down first, or use another folder"
        )
    options = replace(base, **{**said, "data_dir": str(data_dir)})
    kubeconfig = options.kubeconfig or str(default_kubeconfig(options.name, home))
    return replace(options, kubeconfig=str(Path(kubeconfig).absolute()))


def default_data_dir(name: str) -> Path:
    return Path("/var/lib") / Layout(Options(name=name)).prefix


def default_kubeconfig(name: str, home: Path) -> Path:
    """`~/.pyk/kubeconfig` for the cluster of the default name, `~/.pyk/NAME.kubeconfig` for others."""
    return home / ".pyk" / ("kubeconfig" if name == DEFAULT_NAME else f"{name}.kubeconfig")
