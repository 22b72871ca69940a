"""A Service's fields that follow from others: defaults, and what stays or goes when it changes.

`normalize` makes `clusterIP` and `clusterIPs` say the same, `keep_allocated` takes over what the old object has and a
replacement left out, and `drop_for_type` removes what a changed type has no use for, as far as the client did not
change it too. Source: `pkg/apis/core/v1/defaults.go` and `pkg/registry/core/service` (strategy and allocation).
"""

from __future__ import annotations

from typing import Any

from pyk.api.objects import Object
from pyk.api.rules.common import set_default, some
from pyk.api.services import (
    CLUSTER_IP,
    EXTERNAL_NAME,
    LOAD_BALANCER,
    is_externally_accessible,
    may_have_node_ports,
    needs_cluster_ip,
    needs_health_check_port,
    type_of,
)

Spec = dict[str, Any]

AFFINITY_SECONDS = 10800


def default(service: Object) -> None:
    """The defaults that need to know nothing but the object."""
    spec: Spec = service.setdefault("spec", {})
    if not spec.get("sessionAffinity"):
        spec["sessionAffinity"] = "None"
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)  # so that affinity can be taken away by one field
    if spec["sessionAffinity"] == "ClientIP":
        config = spec.get("sessionAffinityConfig") or {}
        client = config.get("clientIP") or {}
        set_default(client, "timeoutSeconds", AFFINITY_SECONDS)
        spec["sessionAffinityConfig"] = {**config, "clientIP": client}
    if not spec.get("type"):
        spec["type"] = CLUSTER_IP
    for port in some(spec, "ports"):
        if not port.get("protocol"):
            port["protocol"] = "TCP"
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port["port"]
        if not port.get("nodePort"):
            port.pop("nodePort", None)
    if is_externally_accessible(spec) and not spec.get("externalTrafficPolicy"):
        spec["externalTrafficPolicy"] = "Cluster"
    if needs_cluster_ip(spec) and not spec.get("internalTrafficPolicy"):
        spec["internalTrafficPolicy"] = "Cluster"
    if type_of(spec) == LOAD_BALANCER:
        set_default(spec, "allocateLoadBalancerNodePorts", True)
    for field in ("clusterIP", "clusterIPs", "ipFamilies", "healthCheckNodePort", "externalName", "loadBalancerIP"):
        if not spec.get(field):
            spec.pop(field, None)


def prepare(service: Object, old: Object | None) -> None:
    """What the server makes of a write before it checks it."""
    spec = service["spec"]
    if old is None:
        service["status"] = {"loadBalancer": {}}
        normalize(spec, None)
        return
    before = old.get("spec") or {}
    normalize(spec, before)
    keep_allocated(spec, before)
    drop_for_type(spec, before)
    if type_of(before) == LOAD_BALANCER and type_of(spec) != LOAD_BALANCER:
        service["status"] = {**(service.get("status") or {}), "loadBalancer": {}}


def prepare_status(service: Object, old: Object) -> None:
    """The default of a status: an address of a load balancer is one that packets keep as their destination."""
    if type_of(service.get("spec") or {}) == LOAD_BALANCER:
        for each in some((service.get("status") or {}).get("loadBalancer"), "ingress"):
            if each.get("ip"):
                set_default(each, "ipMode", "VIP")


def normalize(spec: Spec, old: Spec | None) -> None:
    """Clients that know only `clusterIP` set that; then `clusterIPs` follows."""
    if old is None:
        if spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIPs"] = [spec["clusterIP"]]
        return
    one, several = spec.get("clusterIP"), spec.get("clusterIPs") or []
    if one != old.get("clusterIP") and several == (old.get("clusterIPs") or []):
        if not one:
            spec.pop("clusterIPs", None)
        else:
            spec["clusterIPs"] = [one, *several[1:]]


def keep_allocated(spec: Spec, old: Spec) -> None:
    """What was allocated stays when a replacement does not mention it."""
    if needs_cluster_ip(spec) and needs_cluster_ip(old):
        if not spec.get("clusterIP") and old.get("clusterIP"):
            spec["clusterIP"] = old["clusterIP"]
        if not spec.get("clusterIPs") and old.get("clusterIPs") and spec.get("clusterIP") == old.get("clusterIP"):
            spec["clusterIPs"] = list(old["clusterIPs"])
    if may_have_node_ports(spec) and may_have_node_ports(old):
        known = {(port.get("protocol"), port["port"]): port.get("nodePort") for port in some(old, "ports")}
        given = {port.get("nodePort") for port in some(spec, "ports")}
        for port in some(spec, "ports"):
            before = known.get((port.get("protocol"), port["port"]))
            if not port.get("nodePort") and before and before not in given:
                port["nodePort"] = before
    if needs_health_check_port(spec) and needs_health_check_port(old) and old.get("healthCheckNodePort"):
        set_default(spec, "healthCheckNodePort", old["healthCheckNodePort"])


def drop_for_type(spec: Spec, old: Spec) -> None:
    """What a type has that the new one has not goes, unless the client asks for another value of it."""

    def drop(is_needed: bool, was_needed: bool, *fields: str) -> None:
        if was_needed and not is_needed and all((spec.get(each) or None) == (old.get(each) or None) for each in fields):
            for field in fields:
                spec.pop(field, None)

    drop(needs_cluster_ip(spec), needs_cluster_ip(old), "clusterIP", "clusterIPs")
    drop(needs_cluster_ip(spec), needs_cluster_ip(old), "ipFamilies")
    drop(needs_cluster_ip(spec), needs_cluster_ip(old), "ipFamilyPolicy")
    drop(needs_cluster_ip(spec), needs_cluster_ip(old), "internalTrafficPolicy")
    if may_have_node_ports(old) and not may_have_node_ports(spec):
        known = {port["nodePort"] for port in some(old, "ports") if port.get("nodePort")}
        for port in some(spec, "ports"):
            if port.get("nodePort") in known:
                port.pop("nodePort")
    drop(needs_health_check_port(spec), needs_health_check_port(old), "healthCheckNodePort")
    drop(is_externally_accessible(spec), is_externally_accessible(old), "externalTrafficPolicy")
    was, is_now = type_of(old) == LOAD_BALANCER, type_of(spec) == LOAD_BALANCER
    drop(is_now, was, "allocateLoadBalancerNodePorts")
    drop(is_now, was, "loadBalancerClass")
    drop(type_of(spec) == EXTERNAL_NAME, type_of(old) == EXTERNAL_NAME, "externalName")
