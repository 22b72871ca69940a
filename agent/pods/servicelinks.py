"""The variables that tell a container of the services that were there when it started.

Source: `pkg/kubelet/envvars/envvars.go` and Kubernetes' documentation of services ("Environment variables").
Services of the pod's namespace, and `kubernetes` of `default`; with `enableServiceLinks: false` only that one. Headless
services, which have no address, are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyk.api.objects import Object, name_of, namespace_of
from pyk.api.services import cluster_ips_of

_MASTER = ("default", "kubernetes")


def service_variables(pod: Object, services: Iterable[Object]) -> dict[str, str]:
    """The variables for the containers of a pod."""
    wants_links = (pod.get("spec") or {}).get("enableServiceLinks") is not False
    chosen: dict[str, Object] = {}
    for service in services:
        where = namespace_of(service), name_of(service)
        if not cluster_ips_of(service.get("spec") or {}):
            continue
        if where[0] == namespace_of(pod) and (wants_links or where == _MASTER):
            chosen[where[1]] = service
        elif where == _MASTER:
            chosen.setdefault(where[1], service)
    variables: dict[str, str] = {}
    for name in sorted(chosen):
        variables |= _of_service(chosen[name])
    return variables


def _of_service(service: Object) -> dict[str, str]:
    spec = service["spec"]
    name = _variable(name_of(service))
    address = cluster_ips_of(spec)[0]
    ports: list[dict[str, Any]] = spec.get("ports") or []
    found = {f"{name}_SERVICE_HOST": address}
    if ports:
        found[f"{name}_SERVICE_PORT"] = str(ports[0]["port"])
    for port in ports:
        if port.get("name"):
            found[f"{name}_SERVICE_PORT_{_variable(port['name'])}"] = str(port["port"])
    host = f"[{address}]" if ":" in address else address
    for index, port in enumerate(ports):
        protocol = port.get("protocol") or "TCP"
        url = f"{protocol.lower()}://{host}:{port['port']}"
        prefix = f"{name}_PORT_{port['port']}_{protocol.upper()}"
        if index == 0:
            found[f"{name}_PORT"] = url
        found |= {
            prefix: url,
            f"{prefix}_PROTO": protocol.lower(),
            f"{prefix}_PORT": str(port["port"]),
            f"{prefix}_ADDR": address,
        }
    return found


def _variable(name: str) -> str:
    return name.upper().replace("-", "_")
