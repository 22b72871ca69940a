"""Checks of probes and lifecycle handlers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pyk.api import names
from pyk.api.rules.common import check_choice, check_not_negative, check_range, check_required, some
from pyk.api.status import FieldError

Document = dict[str, Any]

_NAMED_SIGNALS = (
    *("ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE"),
    *("POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU"),
    *("URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ"),
)
STOP_SIGNALS = (
    *(f"SIG{name}" for name in _NAMED_SIGNALS),
    "SIGRTMIN",
    *(f"SIGRTMIN+{number}" for number in range(1, 16)),
    *(f"SIGRTMAX-{number}" for number in range(14, 0, -1)),
    "SIGRTMAX",
)
"""The signals by which containers on Linux can ask to be stopped."""
_PROBE_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_LIFECYCLE_HANDLERS = ("exec", "httpGet", "tcpSocket", "sleep")
_HEADER_NAME = re.compile(r"[-A-Za-z0-9]+\Z")


def check_probe(probe: Document | None, kind: str, spec: Document, path: str) -> Iterator[FieldError]:
    """A probe; `kind` is its field in the container (`livenessProbe`, ...)."""
    if probe is None:
        return
    yield from _check_handler(probe, _PROBE_HANDLERS, spec, path)
    yield from check_not_negative(
        probe, path, "initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"
    )
    grace = probe.get("terminationGracePeriodSeconds")
    if kind == "readinessProbe":
        if grace is not None:
            detail = "must not be set for readinessProbes"
            yield FieldError.invalid(f"{path}.terminationGracePeriodSeconds", grace, detail)
    else:
        if grace is not None and grace <= 0:
            yield FieldError.invalid(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than 0")
        if probe.get("successThreshold", 1) != 1:
            yield FieldError.invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1")


def check_lifecycle(lifecycle: Document | None, spec: Document, path: str) -> Iterator[FieldError]:
    """The handlers of a container."""
    for hook in ("postStart", "preStop"):
        handler = (lifecycle or {}).get(hook)
        if handler is not None:
            yield from _check_handler(handler, _LIFECYCLE_HANDLERS, spec, f"{path}.{hook}")
    if signal := (lifecycle or {}).get("stopSignal"):
        where, system = f"{path}.stopSignal", (spec.get("os") or {}).get("name")
        if not system:
            yield FieldError.forbidden(where, "may not be set for containers with empty `spec.os.name`")
        elif signal not in (supported := STOP_SIGNALS if system == "linux" else ("SIGKILL", "SIGTERM")):
            yield FieldError.not_supported(where, signal, supported)


def _check_handler(handler: Document, kinds: tuple[str, ...], spec: Document, path: str) -> Iterator[FieldError]:
    given = [kind for kind in kinds if handler.get(kind) is not None]
    if not given:
        yield FieldError.required(path, "must specify a handler type")
    for kind in given[1:]:
        yield FieldError.forbidden(f"{path}.{kind}", "may not specify more than 1 handler type")
    for kind in given[:1]:
        where, action = f"{path}.{kind}", handler[kind]
        match kind:
            case "exec":
                yield from check_required(action, where, "command")
            case "httpGet":
                yield from _check_http_get(action, where)
            case "tcpSocket":
                yield from _check_port(action["port"], f"{where}.port")
            case "grpc":
                yield from check_range(f"{where}.port", action["port"], 1, 65535)
            case "sleep":
                grace = spec.get("terminationGracePeriodSeconds") or 0
                if not 0 <= action["seconds"] <= grace:
                    detail = f"must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                    yield FieldError.invalid(where, action["seconds"], detail)


def _check_http_get(action: Document, path: str) -> Iterator[FieldError]:
    yield from check_required(action, path, "path")
    yield from _check_port(action["port"], f"{path}.port")
    yield from check_choice(action, path, "scheme", ("HTTP", "HTTPS"))
    for index, header in enumerate(some(action, "httpHeaders")):
        if _HEADER_NAME.match(header["name"]) is None:
            detail = (
                "a valid HTTP header must consist of alphanumeric characters or '-' "
                "(e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')"
            )
            yield FieldError.invalid(f"{path}.httpHeaders[{index}].name", header["name"], detail)


def _check_port(port: int | str, path: str) -> Iterator[FieldError]:
    if isinstance(port, int):
        yield from check_range(path, port, 1, 65535)
    elif (problem := names.port_name(port)) is not None:
        yield FieldError.invalid(path, port, problem)
