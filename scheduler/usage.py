"""Optional: a score by what nodes really use, so that a node whose pods request too little is avoided.

In: the figures of metrics.k8s.io, asked for every `PERIOD_SECONDS`, and only where a profile enables the plugin
`NodeRealUsage`: cpu and memory in use, and, where the nodes' kernels tell it, pressure stall information. They are
smoothed, since a decision lasts longer than a peak. Out: 100 less the percentage of the allocatable cpu or memory that
is in use, or of the time that something waited for cpu, memory or the disk, whichever is most. Nodes without figures
count like the mean of the others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from pyk.api.metrics import PRESSURES
from pyk.api.objects import annotations_of
from pyk.api.quantity import BadQuantity, millicores, whole
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable
from pyk.reconcile.clock import Clock
from scheduler.columns import Bools, Numbers
from scheduler.resources import CPU, MEMORY
from scheduler.rules import MAX_NODE_SCORE
from scheduler.snapshot import Snapshot

log = logging.getLogger(__name__)

PATH = "/apis/metrics.k8s.io/v1beta1/nodes"
PERIOD_SECONDS = 15.0
WEIGHT_OF_NEWEST = 0.5
"""A figure counts half, the one before a quarter, and so on: a load is seen in full after about a minute."""


def take_in(snapshot: Snapshot, items: list[dict[str, Any]]) -> None:
    """Smooth new figures (the items of a NodeMetricsList) into the snapshot's; nodes without one lose theirs."""
    figures = snapshot.figures
    before = dict(figures.used)
    figures.used = {}
    for item in items:
        name, usage = item["metadata"]["name"], item.get("usage") or {}
        try:
            cpu, memory = millicores(str(usage.get("cpu") or "0")), whole(str(usage.get("memory") or "0"))
            now = (float(cpu), float(memory), _stalled(annotations_of(item)))
        except (BadQuantity, ValueError) as error:
            log.warning("the usage of node %s cannot be read: %s", name, error)
            continue
        old = before.get(name, now)
        figures.used[name] = (_smoothed(now[0], old[0]), _smoothed(now[1], old[1]), _smoothed(now[2], old[2]))
    figures.version += 1


def _stalled(annotations: Mapping[str, str]) -> float:
    """The most that something waited, as a share of the time; 0 where that is not known. Raises ValueError."""
    shares = [float(annotations[name]) / 100 for name in PRESSURES.values() if name in annotations]
    return min(1.0, max(0.0, *shares)) if shares else 0.0


def _smoothed(new: float, old: float) -> float:
    return new * WEIGHT_OF_NEWEST + old * (1 - WEIGHT_OF_NEWEST)


async def follow(client: Client, clock: Clock, snapshot: Snapshot) -> None:
    """Ask for figures until cancelled; while there are none the last ones stay."""
    while True:
        try:
            document = orjson.loads(await client.request("GET", PATH))
        except (ApiError, ClientUnavailable) as error:
            log.warning("no usage of nodes: %s", error)
        else:
            take_in(snapshot, document.get("items") or [])
        await clock.sleep(PERIOD_SECONDS)


class RealUsage:
    """The less of cpu and memory is in use, and the less anything waits for them, the better."""

    name = "NodeRealUsage"

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def normalized(self, feasible: Bools) -> Numbers:
        snapshot = self._snapshot
        used = np.full((3, len(feasible)), np.nan)
        for name, amounts in snapshot.figures.used.items():
            row = snapshot.rows.get(name)
            if row is not None:
                used[:, row] = amounts
        columns = [snapshot.resource_index[CPU], snapshot.resource_index[MEMORY]]
        used[:2] /= np.maximum(snapshot.allocatable[columns, : len(feasible)], 1)
        share = used.max(axis=0)
        known = ~np.isnan(share)
        share[~known] = share[known].mean() if known.any() else 0
        score: Numbers = np.floor(MAX_NODE_SCORE * np.clip(1 - share, 0, 1))
        return score
