"""What must be true of a Service. Source: `ValidateService` and what it calls (`pkg/apis/core/validation`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api import names
from pyk.api.objects import Object
from pyk.api.rules.addresses import address_of, check_address, check_network, check_reachable
from pyk.api.rules.common import (
    check_choice,
    check_conditions,
    check_labels,
    check_name,
    check_optional_name,
    check_range,
    some,
)
from pyk.api.services import (
    CLUSTER_IP,
    EXTERNAL_NAME,
    HEADLESS,
    IPV4,
    IPV6,
    LOAD_BALANCER,
    NODE_PORT,
    PREFER_DUAL_STACK,
    REQUIRE_DUAL_STACK,
    SINGLE_STACK,
    family_of,
    is_externally_accessible,
    is_headless,
    may_have_node_ports,
    needs_cluster_ip,
    needs_health_check_port,
    type_of,
)
from pyk.api.status import FieldError

Spec = dict[str, Any]

_TYPES = (CLUSTER_IP, NODE_PORT, LOAD_BALANCER, EXTERNAL_NAME)
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_TRAFFIC = ("Cluster", "Local")
_AFFINITIES = ("ClientIP", "None")
_DISTRIBUTIONS = ("PreferClose", "PreferSameNode", "PreferSameZone")
_NODE_API_PORT = 10250
_LONGEST_AFFINITY = 86400
_NOT_FOR_NAMES = "may not be set for ExternalName services"
_ONLY_BALANCED = "may only be used when `type` is 'LoadBalancer'"
_ONCE = "may not change once set"


def validate(service: Object, old: Object | None) -> Iterable[FieldError]:
    """A new Service, or a change of one."""
    spec: Spec = service["spec"]
    kind = type_of(spec)
    yield from check_choice(spec, "spec", "type", _TYPES)
    if not some(spec, "ports") and not is_headless(spec) and kind != EXTERNAL_NAME:
        yield FieldError.required("spec.ports")
    yield from _check_type(spec, kind)
    yield from check_labels(spec.get("selector"), "spec.selector")
    yield from _check_ports(spec, kind)
    yield from _check_affinity(spec)
    for index, text in enumerate(spec.get("externalIPs") or ()):
        where = f"spec.externalIPs[{index}]"
        yield from check_address(where, text)
        if (address := address_of(text)) is not None:
            yield from check_reachable(address, where)
    yield from _check_balancer(spec, kind)
    yield from _check_traffic(spec)
    yield from check_cluster_ips(spec)
    if old is not None:
        yield from _check_update(spec, old["spec"])


def _check_type(spec: Spec, kind: str) -> Iterator[FieldError]:
    if kind in (LOAD_BALANCER, NODE_PORT) and is_headless(spec):
        detail = f"may not be set to 'None' for {kind} services"
        yield FieldError.invalid("spec.clusterIPs[0]", HEADLESS, detail)
    if kind == LOAD_BALANCER:
        for index, port in enumerate(some(spec, "ports")):
            if port["port"] == _NODE_API_PORT:
                detail = f"may not expose port {_NODE_API_PORT} externally since it is used by kubelet"
                yield FieldError.invalid(f"spec.ports[{index}]", port["port"], detail)
    if kind == EXTERNAL_NAME:
        yield from check_name(names.dns_subdomain, "spec.externalName", (spec.get("externalName") or "").rstrip("."))


def _check_ports(spec: Spec, kind: str) -> Iterator[FieldError]:
    ports = some(spec, "ports")
    seen_names: set[str] = set()
    seen_ports: set[tuple[str, int]] = set()
    seen_node_ports: set[tuple[str, int]] = set()
    for index, port in enumerate(ports):
        where = f"spec.ports[{index}]"
        name, protocol, target = port.get("name"), port.get("protocol") or "", port.get("targetPort")
        if not name:
            if len(ports) > 1:
                yield FieldError.required(f"{where}.name")
        elif (problem := names.dns_label(name)) is not None:
            yield FieldError.invalid(f"{where}.name", name, problem)
        elif name in seen_names:
            yield FieldError.duplicate(f"{where}.name", name)
        seen_names.add(name or "")
        yield from check_range(f"{where}.port", port["port"], 1, 65535)
        yield from check_choice(port, where, "protocol", _PROTOCOLS, is_required=True)
        if isinstance(target, int):
            yield from check_range(f"{where}.targetPort", target, 1, 65535)
        elif target is not None:
            yield from check_name(names.port_name, f"{where}.targetPort", target)
        yield from check_optional_name(names.qualified_name, f"{where}.appProtocol", port.get("appProtocol"))
        if (protocol, port["port"]) in seen_ports:
            yield FieldError.duplicate(where, {"port": port["port"], "protocol": protocol})
        seen_ports.add((protocol, port["port"]))
        node_port = port.get("nodePort")
        if node_port:
            if not may_have_node_ports(spec):
                yield FieldError.forbidden(f"{where}.nodePort", f"may not be used when `type` is '{kind}'")
            if (protocol, node_port) in seen_node_ports:
                yield FieldError.duplicate(f"{where}.nodePort", node_port)
            seen_node_ports.add((protocol, node_port))


def _check_affinity(spec: Spec) -> Iterator[FieldError]:
    yield from check_choice(spec, "spec", "sessionAffinity", _AFFINITIES, is_required=True)
    config = spec.get("sessionAffinityConfig")
    if spec.get("sessionAffinity") == "ClientIP":
        seconds = ((config or {}).get("clientIP") or {}).get("timeoutSeconds")
        if seconds is not None and not 0 < seconds <= _LONGEST_AFFINITY:
            detail = f"must be greater than 0 and less than {_LONGEST_AFFINITY}"
            yield FieldError.invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, detail)
    elif config is not None:
        detail = "must not be set when session affinity is None"
        yield FieldError.forbidden("spec.sessionAffinityConfig", detail)


def _check_balancer(spec: Spec, kind: str) -> Iterator[FieldError]:
    ranges = spec.get("loadBalancerSourceRanges") or ()
    if kind != LOAD_BALANCER:
        if ranges:
            yield FieldError.forbidden("spec.loadBalancerSourceRanges", _ONLY_BALANCED)
        for field in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if spec.get(field) is not None:
                yield FieldError.forbidden(f"spec.{field}", _ONLY_BALANCED)
        return
    for index, text in enumerate(ranges):
        yield from check_network(f"spec.loadBalancerSourceRanges[{index}]", text.strip())
    yield from check_optional_name(names.qualified_name, "spec.loadBalancerClass", spec.get("loadBalancerClass"))


def _check_traffic(spec: Spec) -> Iterator[FieldError]:
    policy = spec.get("externalTrafficPolicy")
    if policy and not is_externally_accessible(spec):
        detail = "may only be set for externally-accessible services"
        yield FieldError.invalid("spec.externalTrafficPolicy", policy, detail)
    else:
        yield from check_choice(spec, "spec", "externalTrafficPolicy", _TRAFFIC)
    port = spec.get("healthCheckNodePort")
    if port and not needs_health_check_port(spec):
        detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield FieldError.invalid("spec.healthCheckNodePort", port, detail)
    elif port:
        yield from check_range("spec.healthCheckNodePort", port, 1, 65535)
    yield from check_choice(spec, "spec", "internalTrafficPolicy", _TRAFFIC)
    yield from check_choice(spec, "spec", "trafficDistribution", _DISTRIBUTIONS)


def check_cluster_ips(spec: Spec) -> Iterator[FieldError]:
    """`clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`, as far as they are said, fit together."""
    addresses, families = spec.get("clusterIPs") or [], spec.get("ipFamilies") or []
    policy = spec.get("ipFamilyPolicy")
    if not needs_cluster_ip(spec):
        for field in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if spec.get(field):
                yield FieldError.forbidden(f"spec.{field}", _NOT_FOR_NAMES)
        return
    if addresses and (spec.get("clusterIP") or "") != addresses[0]:
        yield FieldError.invalid("spec.clusterIPs", addresses, "first value must match `clusterIP`")
    for index, family in enumerate(families):
        if family not in (IPV4, IPV6):
            yield FieldError.not_supported(f"spec.ipFamilies[{index}]", family, (IPV4, IPV6))
        elif family in families[:index]:
            yield FieldError.duplicate(f"spec.ipFamilies[{index}]", family)
    yield from check_choice(spec, "spec", "ipFamilyPolicy", (SINGLE_STACK, PREFER_DUAL_STACK, REQUIRE_DUAL_STACK))
    if HEADLESS in addresses:
        if len(addresses) > 1:
            detail = "'None' must be the first and only value"
            yield FieldError.invalid("spec.clusterIPs", addresses, detail)
        return
    problems = [
        each for index, text in enumerate(addresses) for each in check_address(f"spec.clusterIPs[{index}]", text)
    ]
    yield from problems
    if len(addresses) > 2:
        yield FieldError.invalid("spec.clusterIPs", addresses, "may only hold up to 2 values")
    if problems:
        return
    if len({family_of(text) for text in addresses}) < len(addresses):
        detail = "may specify no more than one IP for each IP family"
        yield FieldError.invalid("spec.clusterIPs", addresses, detail)
    for index, (text, family) in enumerate(zip(addresses, families, strict=False)):
        if family in (IPV4, IPV6) and family_of(text) != family:
            detail = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
            yield FieldError.invalid(f"spec.clusterIPs[{index}]", text, detail)
    if policy == SINGLE_STACK:
        for field, values in (("clusterIPs", addresses), ("ipFamilies", families)):
            if len(values) > 1:
                detail = f"may only hold up to 1 value when `ipFamilyPolicy` is '{SINGLE_STACK}'"
                yield FieldError.invalid(f"spec.{field}", values, detail)


def _check_update(spec: Spec, old: Spec) -> Iterator[FieldError]:
    if needs_cluster_ip(spec) and needs_cluster_ip(old):
        for field in ("clusterIPs", "ipFamilies"):
            new, before = spec.get(field) or [], old.get(field) or []
            if before and new and new[0] != before[0]:
                yield FieldError.invalid(f"spec.{field}[0]", new, _ONCE)
            elif field == "ipFamilies" and len(new) < len(before):
                continue  # they follow from the addresses
            elif before and not new:
                yield FieldError.invalid(f"spec.{field}[0]", new, "primary value may not be unset")
            elif len(before) > 1 and len(new) > 1 and new[1] != before[1]:
                yield FieldError.invalid(f"spec.{field}[1]", new, _ONCE)
            elif len(before) > 1 and len(new) == 1 and spec.get("ipFamilyPolicy") != SINGLE_STACK:
                detail = f"may only be unset when `ipFamilyPolicy` is set to '{SINGLE_STACK}'"
                yield FieldError.invalid(f"spec.{field}[1]", new, detail)
    chosen = spec.get("loadBalancerClass")
    if type_of(spec) == LOAD_BALANCER == type_of(old) and chosen != old.get("loadBalancerClass"):
        yield FieldError.invalid("spec.loadBalancerClass", chosen, _ONCE)


def validate_status(service: Object, old: Object | None) -> Iterable[FieldError]:
    """The status, as whoever runs load balancers writes it."""
    status = service.get("status") or {}
    yield from check_conditions(status, "status.conditions")
    ingress = some(status.get("loadBalancer"), "ingress")
    before = some(((old or {}).get("status") or {}).get("loadBalancer"), "ingress")
    if ingress and ingress != before and type_of(service["spec"]) != LOAD_BALANCER:
        detail = "may only be used when `spec.type` is LoadBalancer"
        yield FieldError.forbidden("status.loadBalancer.ingress", detail)
    for index, each in enumerate(ingress):
        where = f"status.loadBalancer.ingress[{index}]"
        address, mode = each.get("ip"), each.get("ipMode")
        if address:
            yield from check_address(f"{where}.ip", address)
        if mode is not None:
            if not address:
                yield FieldError.forbidden(f"{where}.ipMode", "may not be specified when `ip` is not set")
            yield from check_choice(each, where, "ipMode", ("Proxy", "VIP"))
        host = each.get("hostname")
        yield from check_optional_name(names.dns_subdomain, f"{where}.hostname", host)
        if host and address_of(host) is not None:
            yield FieldError.invalid(f"{where}.hostname", host, "must be a DNS name, not an IP address")
