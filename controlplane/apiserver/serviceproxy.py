"""`services/NAME/proxy`: which pod, and which of its ports, a request to a service is passed on to. Pure functions.

The name in the path is `[scheme:]name[:port]`, the port a service's port by its name or number; without one the
service's port that has no name. Any endpoint that is ready will do. Endpoints that are no pods are not reached: it is
the pods' nodes that pass requests on. Source: `pkg/registry/core/service/storage/storage.go` (ResourceLocation).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from controlplane.apiserver.podproxy import Target
from pyk.api.objects import Object, name_of
from pyk.api.rules.common import some
from pyk.api.status import ApiError, bad_request

SERVICE_LABEL = "kubernetes.io/service-name"


def service_target_of(text: str) -> Target:
    """Scheme, service and port of `[scheme:]name[:port]`. Raises 400."""
    match text.split(":"):
        case [name]:
            found = Target("http", name, "")
        case [name, port]:
            found = Target("http", name, port)
        case [scheme, name, port]:
            found = Target(scheme or "http", name, port)
        case _:
            found = Target("", "", "")
    if not found.name or found.scheme not in ("http", "https"):
        raise bad_request(f'invalid service request "{text[:200]}"')
    return found


def pod_behind(service: Object, slices: Iterable[Object], target: Target, chance: random.Random) -> tuple[str, Target]:
    """The name of a pod behind the service, and what to ask of it. Raises 503 when there is none."""
    name = name_of(service)
    wanted = _port_name(service, target.port)
    ready: list[tuple[str, int]] = []
    for piece in slices:
        numbers = [port["port"] for port in some(piece, "ports") if (port.get("name") or "") == wanted]
        if numbers and numbers[0]:
            ready += [(pod, numbers[0]) for endpoint in some(piece, "endpoints") if (pod := _ready_pod(endpoint))]
    if not ready:
        raise _unavailable(f'no endpoints available for service "{name}"')
    pod, number = chance.choice(ready)
    return pod, Target(target.scheme, pod, str(number))


def _port_name(service: Object, asked: str) -> str:
    """The name, in the service's endpoints, of the port that is asked for."""
    if not (asked.isascii() and asked.isdigit()):
        return asked
    for port in some(service["spec"], "ports"):
        if port["port"] == int(asked):
            return str(port.get("name") or "")
    raise _unavailable(f'no service port {asked} found for service "{name_of(service)}"')


def _ready_pod(endpoint: dict[str, Any]) -> str:
    """The pod's name; empty for one that is not ready, or no pod."""
    reference = endpoint.get("targetRef") or {}
    is_ready = (endpoint.get("conditions") or {}).get("ready") is not False
    return str(reference.get("name") or "") if is_ready and reference.get("kind") == "Pod" else ""


def _unavailable(message: str) -> ApiError:
    return ApiError(503, "ServiceUnavailable", message)
