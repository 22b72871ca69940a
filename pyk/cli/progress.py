"""The live view of `--wait`: deployments and pods on their way to running.

On a terminal it is redrawn in place; in a pipe each change is a line. It follows two watches and polls nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from pyk.api import selectors
from pyk.api.kinds import (
    DAEMON_SET,
    DEPLOYMENT,
    JOB,
    POD,
    REPLICA_SET,
    REPLICATION_CONTROLLER,
    STATEFUL_SET,
    kind_of,
)
from pyk.api.objects import Object, is_condition_true, key_of, labels_of, name_of, namespace_of
from pyk.client.client import Client
from pyk.client.config import ClientConfig
from pyk.client.informer import Informer
from pyk.reconcile.clock import RealClock

WAITED_FOR = (DEPLOYMENT, REPLICA_SET, REPLICATION_CONTROLLER, STATEFUL_SET, DAEMON_SET, JOB, POD)


def wait_until_running(config: ClientConfig, objects: list[Object], *, timeout_seconds: float) -> int:
    """Show the progress of the workloads among the objects until all run: the exit status, 1 when time is up."""
    workloads = [obj for obj in objects if kind_of(obj) in WAITED_FOR]
    if not workloads:
        return 0
    return asyncio.run(_wait(config, workloads, timeout_seconds))


async def _wait(config: ClientConfig, workloads: list[Object], timeout_seconds: float) -> int:
    clock = RealClock()
    changed = asyncio.Event()
    async with Client(config) as client:
        informers = {kind: Informer(client, kind, clock=clock) for kind in {*map(kind_of, workloads), POD}}
        for informer in informers.values():
            informer.add_handler(lambda old, new: changed.set())
        tasks = [asyncio.create_task(informer.run()) for informer in informers.values()]
        try:
            async with asyncio.timeout(timeout_seconds):
                for informer in informers.values():
                    await informer.wait_synced()
                with View() as show:
                    while not _show(workloads, informers, show):
                        changed.clear()
                        await changed.wait()
        except TimeoutError:
            print(f"pyk: not everything runs after {timeout_seconds:.0f} s: see 'pyk describe'", file=sys.stderr)
            return 1
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return 0


Row = tuple[str, str, str]
"""Name, how far it is, and what it waits for."""


def _show(workloads: list[Object], informers: dict[Any, Informer], show: Callable[[list[Row]], None]) -> bool:
    """Draw the present state; whether everything runs."""
    rows: list[Row] = []
    finished = True
    for workload in workloads:
        live = informers[kind_of(workload)].get(key_of(workload))
        if live is None:
            continue
        have, want = progress_of(live)
        finished = finished and have >= want
        rows.append((f"{live['kind'].lower()}/{name_of(live)}", f"{have}/{want} ready", ""))
        rows += [_pod_row(pod) for pod in _pods_of(live, informers[POD])]
    show(rows)
    return finished


def progress_of(obj: Object) -> tuple[int, int]:
    """How many pods of the workload are up to date and ready, and how many there should be.

    Pods of a Job that have succeeded count as ready.
    """
    status = obj.get("status") or {}

    def number(field: str) -> int:
        return int(status.get(field) or 0)

    match obj["kind"]:
        case "Pod":
            return int(is_condition_true(obj, "Ready") or status.get("phase") == "Succeeded"), 1
        case "Job":
            spec = obj["spec"]
            parallelism = int(spec.get("parallelism", 1))
            want = 0 if spec.get("suspend") else min(parallelism, int(spec.get("completions") or parallelism))
            return number("ready") + number("succeeded"), want
        case "DaemonSet":
            want, fields = number("desiredNumberScheduled"), ["numberAvailable", "updatedNumberScheduled"]
        case kind:
            want, fields = int(obj["spec"].get("replicas", 1)), ["availableReplicas"]
            if kind in ("Deployment", "StatefulSet"):
                fields.append("updatedReplicas")
    if number("observedGeneration") < obj["metadata"].get("generation", 0):
        return 0, max(want, 1)
    return min(number(field) for field in fields), want


def _pods_of(workload: Object, pods: Informer) -> list[Object]:
    if workload["kind"] == "Pod":
        return []
    chosen = workload["spec"].get("selector")
    is_plain = workload["kind"] == "ReplicationController"
    selector = selectors.from_labels(chosen) if is_plain else selectors.from_document(chosen) or ()
    found = [
        pod
        for pod in pods.values()
        if namespace_of(pod) == namespace_of(workload) and selectors.matches(selector, labels_of(pod))
    ]
    return sorted(found, key=name_of)


def _pod_row(pod: Object) -> Row:
    status = pod.get("status") or {}
    state = "Running" if is_condition_true(pod, "Ready") else str(status.get("phase", "Pending"))
    detail = pod["spec"].get("nodeName", "")
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            state = waiting.get("reason", state)
            detail = waiting.get("message", detail)
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            state, detail = condition.get("reason", state), condition.get("message", "")
    return f"  pod/{name_of(pod)}", state, detail


class View:
    """Where rows are shown: a live table on a terminal, lines of what changed elsewhere."""

    def __enter__(self) -> Callable[[list[Row]], None]:
        self._live: Any = None
        self._last: dict[str, Row] = {}
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(auto_refresh=False)
            self._live.__enter__()
        return self._draw

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*error)

    def _draw(self, rows: list[Row]) -> None:
        if self._live is not None:
            self._live.update(_table(rows), refresh=True)
            return
        for row in rows:
            if self._last.get(row[0]) != row:
                print("  ".join(part for part in row if part), flush=True)
            self._last[row[0]] = row


def _table(rows: list[Row]) -> Any:
    from rich.table import Table
    from rich.text import Text

    from pyk.cli.printers import colour_of

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, state, detail in rows:
        done = "/" in state and state.split("/")[0] == state.split("/")[1].split(" ")[0]
        style = colour_of(state) or ("green" if done else "yellow" if "/" in state else "")
        table.add_row(Text(name), Text(state, style=style), Text(detail, style="dim", overflow="ellipsis"))
    return table
