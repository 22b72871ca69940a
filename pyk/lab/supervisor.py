"""The process that keeps a local cluster running: starts the components, restarts those that end, stops all.

It waits on its children's ends, on signals and on its control socket, and does nothing in between. Rules:

- A component that ends is started again after a second, and after twice as long each further time in a row that it
  ended by itself; one that somebody killed did nothing wrong, however often.
- An agent that was killed, with nothing left alive in its node's control group a second later, is a machine that lost
  its power: its namespace and mounts go as well, and it stays off until `pyk node start`.
- SIGTERM or SIGINT, or the end of the `pyk up` that started it and did not detach (its end of the lifeline closes),
  stops everything: processes, containers, mounts, namespaces, links, routes and control groups. The data stays.
- SIGKILL leaves the components running; the next `pyk up` takes the containers over, `pyk down` removes it all.

`pyk up` starts it with `python -m pyk.lab.supervisor` and inherited descriptors: the lock, the lifeline, and a pipe to
which it reports what happens, one JSON document a line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyk.lab import launch, network
from pyk.lab.cgroups import LabCgroups
from pyk.lab.components import Component, components, environment, make_node_group
from pyk.lab.control import ControlError, serve
from pyk.lab.layout import Layout
from pyk.lab.podroutes import PodRoutes
from pyk.lab.state import DETACH, ClusterState, Process
from pyk.lab.teardown import sweep, unmount_below
from pyk.machine.keeping import counted_failures, restart_delay
from pyk.reconcile.clock import Clock, RealClock
from pyk.reconcile.logs import set_up_logging
from pyk.reconcile.process import cancel_on

log = logging.getLogger(__name__)

POWER_LOSS_SECONDS = 1.0


class Supervisor:
    """The components of one cluster. `report` is called with every event, a JSON document."""

    def __init__(
        self, state: ClusterState, cgroups: LabCgroups, *, clock: Clock, report: Callable[[dict[str, Any]], None]
    ) -> None:
        self._state = state
        self._layout = state.layout
        self._cgroups = cgroups
        self._clock = clock
        self._report = report
        self._environment = environment()
        self._power = {node: asyncio.Event() for node in self._layout.node_names()}
        self._switching = asyncio.Lock()
        self._state.off = []

    async def run(self, parts: list[Component]) -> None:
        """Keep the components running until cancelled."""
        for power in self._power.values():
            power.set()
        routes = PodRoutes(self._layout)
        routes.start()
        try:
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(self._keep(part), name=part.name)
                group.create_task(serve(self._layout.data_dir, self._answer), name="control")
        finally:
            routes.stop()

    async def stop_node(self, node: str) -> None:
        """Power off: everything on the node ends at once. No error when it is off."""
        async with self._switching:
            if node in self._state.off:
                return
            self._power[node].clear()
            self._state.off.append(node)
            self._state.save()
            await asyncio.to_thread(self._clear_node, node)
            self._report({"event": "off", "node": node})

    async def start_node(self, node: str) -> None:
        """Power on, as a machine boots: nothing of before but its disk. No error when it is on."""
        async with self._switching:
            if node not in self._state.off:
                return
            make_node_group(self._layout, self._cgroups, node)
            await asyncio.to_thread(network.add_node, self._layout, node)
            self._state.off.remove(node)
            self._state.save()
            self._power[node].set()
            self._report({"event": "on", "node": node})

    async def _keep(self, part: Component) -> None:
        failures = 0
        while True:
            if part.node:
                await self._power[part.node].wait()
            started = self._clock.monotonic()
            status = await self._run_once(part)
            if part.node and (part.node in self._state.off or await self._lost_power(part.node, status)):
                failures = 0
                continue
            failures = counted_failures(failures, status, self._clock.monotonic() - started)
            await self._clock.sleep(max(0.0, restart_delay(failures) - (POWER_LOSS_SECONDS if part.node else 0.0)))
            failures += 1

    async def _run_once(self, part: Component) -> int:
        """Start it and wait for its end: its status, negative for a signal."""
        try:
            child = await asyncio.to_thread(launch.start, part, self._environment)
        except OSError as error:
            log.error("%s cannot be started: %s", part.name, error)
            self._report({"event": "exited", "component": part.name, "status": 127, "line": str(error)})
            return 127
        started = Process.of(child.pid)
        if started is not None:
            self._state.processes[part.name] = started
            self._state.save()
        self._report({"event": "started", "component": part.name})
        await _ended(child.pid)
        status = child.wait()
        self._state.processes.pop(part.name, None)
        self._state.save()
        line = launch.last_line(part.log)
        log.warning("%s ended with status %d: %s", part.name, status, line)
        self._report({"event": "exited", "component": part.name, "status": status, "line": line})
        return status

    async def _lost_power(self, node: str, status: int) -> bool:
        await self._clock.sleep(POWER_LOSS_SECONDS)
        if status != -signal.SIGKILL or self._cgroups.processes(self._layout.node_cgroup(node)):
            return False
        log.warning("%s lost its power", node)
        await self.stop_node(node)
        return True

    def _clear_node(self, node: str) -> None:
        group = self._layout.node_cgroup(node)
        self._cgroups.kill(group)
        network.remove_node(self._layout, node)
        unmount_below(self._layout.node_dir(node))
        self._cgroups.remove(group)

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        operation, node = request.get("operation"), str(request.get("node") or "")
        if node and node not in self._power:
            raise ControlError(f"there is no node {node!r}: the cluster has {', '.join(self._power)}")
        if operation == "stop-node" and node:
            await self.stop_node(node)
        elif operation == "start-node" and node:
            await self.start_node(node)
        elif operation != "status":
            raise ControlError(f"{operation!r} is no operation of the supervisor")
        return {
            "nodes": {name: "off" if name in self._state.off else "on" for name in self._power},
            "processes": {name: process.pid for name, process in self._state.processes.items()},
        }


async def _ended(pid: int) -> None:
    """Return when the child has ended; it is left to be reaped."""
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(pid)
    try:
        gone = asyncio.Event()
        loop.add_reader(descriptor, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)


async def _supervise(supervisor: Supervisor, parts: list[Component], lifeline: int) -> None:
    """Run until a signal, or until whoever holds the other end of the lifeline goes without detaching."""
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(supervisor.run(parts))
    cancel_on(loop, running, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def on_lifeline() -> None:
        loop.remove_reader(lifeline)
        if os.read(lifeline, 1) != DETACH:
            running.cancel()

    loop.add_reader(lifeline, on_lifeline)
    with suppress(asyncio.CancelledError):
        await running


def main() -> int:
    """Entry point: see the module's description for the inherited descriptors."""
    parser = argparse.ArgumentParser(prog="python -m pyk.lab.supervisor")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--lock-fd", type=int, required=True, help="the held lock of the data folder")
    parser.add_argument("--report-fd", type=int, required=True, help="a pipe to report to")
    parser.add_argument("--lifeline-fd", type=int, required=True, help="a pipe whose end means stop")
    parser.add_argument("--etcd-endpoint", action="append", default=[])
    arguments = parser.parse_args()
    os.set_inheritable(arguments.lock_fd, False)
    os.set_inheritable(arguments.lifeline_fd, False)
    set_up_logging("supervisor")
    state = ClusterState.load(arguments.data_dir)
    if state is None:
        log.error("%s has no cluster.json", arguments.data_dir)
        return 1
    report = _Report(arguments.report_fd)
    cgroups = LabCgroups.detect()
    home = cgroups.own_groups()
    cgroups.join_control_plane(state.layout.control_plane_cgroup)
    own = Process.of(os.getpid())
    state.processes = {"supervisor": own} if own is not None else {}
    state.save()
    parts = components(state.layout, cgroups, tuple(arguments.etcd_endpoint))
    supervisor = Supervisor(state, cgroups, clock=RealClock(), report=report)
    status = 0
    try:
        asyncio.run(_supervise(supervisor, parts, arguments.lifeline_fd))
    except (OSError, ExceptionGroup):
        log.exception("the supervisor failed")
        status = 1
    try:
        _stop(state.layout, cgroups, home, report)
    except OSError as error:
        log.exception("could not remove everything")
        report({"event": "failed", "line": str(error)})
        status = 1
    state.processes = {}
    state.save()
    report({"event": "stopped"})
    return status


def _stop(layout: Layout, cgroups: LabCgroups, home: dict[str, str], report: Callable[[dict[str, Any]], None]) -> None:
    cgroups.leave(home)
    sweep(layout, cgroups, tell=lambda step: report({"event": "stopping", "line": step}))


class _Report:
    """Writes events to the pipe as long as somebody reads them."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        os.set_blocking(descriptor, False)
        self._descriptor: int | None = descriptor

    def __call__(self, event: dict[str, Any]) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, json.dumps(event).encode() + b"\n")
        except (BrokenPipeError, BlockingIOError):
            os.close(self._descriptor)
            self._descriptor = None


if __name__ == "__main__":
    sys.exit(main())
