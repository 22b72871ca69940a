"""Services: their rules put together, and how `kubectl get` shows them."""

from __future__ import annotations

from pyk.api.kind import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import AGE, NAME, some
from pyk.api.rules.services_fields import default, prepare, prepare_status
from pyk.api.rules.services_validation import validate, validate_status
from pyk.api.services import EXTERNAL_NAME, LOAD_BALANCER, type_of

_NOTHING = "<none>"


def _cluster_ip(service: Object, now: float) -> str:
    addresses = service["spec"].get("clusterIPs") or [service["spec"].get("clusterIP")]
    return addresses[0] or _NOTHING


def _external_ip(service: Object, now: float) -> str:
    spec = service["spec"]
    if type_of(spec) == EXTERNAL_NAME:
        return spec.get("externalName") or _NOTHING
    balancer = (service.get("status") or {}).get("loadBalancer")
    found = [each.get("ip") or each.get("hostname") or "" for each in some(balancer, "ingress")]
    found = sorted(set(found)) if type_of(spec) == LOAD_BALANCER else []
    found += spec.get("externalIPs") or []
    return ",".join(filter(None, found)) or ("<pending>" if type_of(spec) == LOAD_BALANCER else _NOTHING)


def _ports(service: Object, now: float) -> str:
    def shown(port: dict[str, object]) -> str:
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        return f"{port['port']}{node_port}/{port.get('protocol') or 'TCP'}"

    return ",".join(shown(port) for port in some(service["spec"], "ports")) or _NOTHING


def _selector(service: Object, now: float) -> str:
    selector = service["spec"].get("selector") or {}
    return ",".join(f"{key}={selector[key]}" for key in sorted(selector)) or _NOTHING


RULES = Rules(
    default=default,
    prepare=prepare,
    prepare_status=prepare_status,
    validate=validate,
    validate_status=validate_status,
    columns=(
        NAME,
        Column("Type", lambda service, now: type_of(service["spec"]), description="How the service is exposed."),
        Column("Cluster-IP", _cluster_ip, description="The service's address in the cluster."),
        Column("External-IP", _external_ip, description="Addresses at which the service is reached from outside."),
        Column("Port(s)", _ports, description="The service's ports."),
        AGE,
        Column("Selector", _selector, priority=1, description="The labels of the pods behind the service."),
    ),
    fields={
        "spec.clusterIP": lambda service: (service.get("spec") or {}).get("clusterIP") or "",
        "spec.type": lambda service: (service.get("spec") or {}).get("type") or "",
    },
)
