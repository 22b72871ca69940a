"""Following a start: the supervisor's reports and the Node objects, until the API server answers and all nodes are
Ready."""

from __future__ import annotations

import json
import os
import queue
import threading
from typing import Any

from pyk.api.kinds import NODE
from pyk.api.objects import is_condition_true, name_of
from pyk.api.status import ApiError
from pyk.client.blocking import BlockingClient, ServerUnreachable
from pyk.errors import UserError
from pyk.lab.defaults import READY_SECONDS
from pyk.lab.layout import Layout
from pyk.lab.podroutes import admin_config
from pyk.lab.up import Running, Tell
from pyk.reconcile.clock import Clock, RealClock

_PROBE_SECONDS = 0.03
_FAILED_STARTS = 3


def wait_ready(running: Running, tell: Tell, *, seconds: float = READY_SECONDS, clock: Clock | None = None) -> None:
    """Follow the start until the API server answers and all nodes are Ready, for so many seconds.

    Raises `UserError` when the supervisor ends, a component fails again and again, or time is up.
    """
    events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    timer = clock or RealClock()
    threading.Thread(target=_read_reports, args=(running.reports, events), daemon=True).start()
    threading.Thread(target=_watch_nodes, args=(running.layout, events), daemon=True).start()
    deadline = timer.monotonic() + seconds
    failures: dict[str, int] = {}
    state = "starting"
    while True:
        try:
            event = events.get(timeout=max(0.0, deadline - timer.monotonic()))
        except queue.Empty:
            raise UserError(
                f"the cluster is not ready after {seconds:g} s ({state}): see {running.layout.log_dir}; "
                "a slow machine may need a longer --timeout"
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
