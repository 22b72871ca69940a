"""A rule for pyk's scheduler: pods that name a `noise` label stay out of quiet racks, and all prefer few neighbours.

Install it beside pyk (`pip install ./examples/scheduler-plugin`) and start the scheduler with
`--config examples/scheduler-plugin/scheduler.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


class QuietRacks:
    """Nodes whose label (argument `label`, by default `rack`) is one of `quiet` take no noisy pods."""

    name = "QuietRacks"

    def __init__(self, signature: Any, snapshot: Any, arguments: Mapping[str, Any]) -> None:
        self._is_noisy = "noise" in signature.identity.labels
        self._quiet = tuple(arguments.get("quiet", ()))
        self._racks = snapshot.labels(arguments.get("label", "rack"))
        self._pods = snapshot.resource_index["pods"]
        self._snapshot = snapshot

    def admits(self, rows: Any) -> Any:
        """True where the pod may go: one vector operation over all rows."""
        in_quiet_rack = self._racks.one_of(self._quiet, rows)
        return ~in_quiet_rack if self._is_noisy else np.ones(in_quiet_rack.shape, np.bool_)

    def reasons(self, rows: Any) -> Iterator[tuple[str, Any]]:
        """What is said of the nodes that are refused."""
        yield "node(s) were in a quiet rack", rows

    def score(self, rows: Any) -> Any:
        """0-100: the fewer of the pods that the node allows are there, the better."""
        allowed = np.maximum(self._snapshot.allocatable[self._pods][rows], 1)
        return 100 * np.clip(self._snapshot.free[self._pods][rows] / allowed, 0, 1)
