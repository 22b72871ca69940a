"""What probes and lifecycle hooks are about, and what comes of one: values that all handlers share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_OUTPUT = 10 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether it succeeded, and what it said. `warning` is something to tell of although it did. One that is `unknown`
    says nothing of the container: the node could not ask it."""

    ok: bool
    output: str = ""
    warning: str = ""
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """The container that a handler is about: its specification, id and the pod's primary address."""

    container: Mapping[str, Any]
    id: str
    address: str


class UnknownPort(Exception):
    """A handler names a port that the container does not have."""


def port_of(container: Mapping[str, Any], port: int | str) -> int:
    """The number of a port that is given by number or by name. Raises `UnknownPort`."""
    if isinstance(port, int):
        return port
    for declared in container.get("ports") or ():
        if declared.get("name") == port:
            return int(declared["containerPort"])
    if port.isdigit():
        return int(port)
    raise UnknownPort(f"couldn't find port {port!r} in container {container['name']}")


def refused(host: str, port: int, error: OSError) -> str:
    """A connection that could not be made, as Go words it: `dial tcp 10.0.0.1:80: connect: connection refused`."""
    said = os.strerror(error.errno).lower() if error.errno else str(error)
    shown = f"[{host}]" if ":" in host else host
    return f"dial tcp {shown}:{port}: connect: {said}"
