"""Endpoints and EndpointSlices: the addresses behind a service.

Source: `ValidateEndpoints` of `pkg/apis/core/validation` and `pkg/apis/discovery/validation/validation.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api import names
from pyk.api.kind import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.addresses import ADDRESS_FORM, address_of, check_reachable
from pyk.api.rules.common import (
    AGE,
    NAME,
    check_choice,
    check_name,
    check_optional_name,
    check_range,
    check_unchanged,
    set_default,
    some,
)
from pyk.api.status import FieldError

Document = dict[str, Any]

_PROTOCOLS = ("SCTP", "TCP", "UDP")
_ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
_MOST_ENDPOINTS, _MOST_PORTS, _MOST_ADDRESSES = 1000, 20000, 100
_SHOWN = 3


def _default(endpoints: Object) -> None:
    for subset in some(endpoints, "subsets"):
        for port in some(subset, "ports"):
            set_default(port, "protocol", "TCP")


def _validate(endpoints: Object, old: Object | None) -> Iterable[FieldError]:
    for index, subset in enumerate(some(endpoints, "subsets")):
        where = f"subsets[{index}]"
        ready, others = some(subset, "addresses"), some(subset, "notReadyAddresses")
        if not ready and not others:
            yield FieldError.required(where, "must specify `addresses` or `notReadyAddresses`")
        for field, addresses in (("addresses", ready), ("notReadyAddresses", others)):
            for position, address in enumerate(addresses):
                yield from _check_address(address, f"{where}.{field}[{position}]")
        ports = some(subset, "ports")
        for position, port in enumerate(ports):
            place = f"{where}.ports[{position}]"
            if len(ports) > 1 and not port.get("name"):
                yield FieldError.required(f"{place}.name")
            yield from check_optional_name(names.dns_label, f"{place}.name", port.get("name"))
            yield from check_range(f"{place}.port", port["port"], 1, 65535)
            yield from check_choice(port, place, "protocol", _PROTOCOLS, is_required=True)


def _check_address(address: Document, path: str) -> Iterator[FieldError]:
    found = address_of(address["ip"])
    if found is None:
        yield FieldError.invalid(f"{path}.ip", address["ip"], ADDRESS_FORM)
    else:
        yield from check_reachable(found, f"{path}.ip")
    yield from check_optional_name(names.dns_label, f"{path}.hostname", address.get("hostname"))
    yield from check_optional_name(names.dns_subdomain, f"{path}.nodeName", address.get("nodeName"))


def _shown(items: list[str]) -> str:
    if not items:
        return "<none>"
    more = f" + {len(items) - _SHOWN} more..." if len(items) > _SHOWN else ""
    return ",".join(items[:_SHOWN]) + more


def _targets(endpoints: Object, now: float) -> str:
    found = []
    for subset in some(endpoints, "subsets"):
        for address in some(subset, "addresses"):
            host = f"[{address['ip']}]" if ":" in address["ip"] else address["ip"]
            ports = some(subset, "ports")
            found += [f"{host}:{port['port']}" for port in ports] or [address["ip"]]
    return _shown(found)


ENDPOINTS = Rules(default=_default, validate=_validate, columns=(NAME, Column("Endpoints", _targets), AGE))


def _default_slice(endpoint_slice: Object) -> None:
    for port in some(endpoint_slice, "ports"):
        set_default(port, "name", "")
        set_default(port, "protocol", "TCP")


def _validate_slice(endpoint_slice: Object, old: Object | None) -> Iterable[FieldError]:
    kind = endpoint_slice["addressType"]
    yield from check_choice(endpoint_slice, "", "addressType", _ADDRESS_TYPES, is_required=True)
    endpoints, ports = some(endpoint_slice, "endpoints"), some(endpoint_slice, "ports")
    if len(endpoints) > _MOST_ENDPOINTS:
        yield FieldError("endpoints", "FieldValueTooMany", f"Too many: {len(endpoints)}: must have at most 1000 items")
    for index, endpoint in enumerate(endpoints):
        yield from _check_endpoint(endpoint, kind, f"endpoints[{index}]")
    seen = set()
    if len(ports) > _MOST_PORTS:
        yield FieldError("ports", "FieldValueTooMany", f"Too many: {len(ports)}: must have at most 20000 items")
    for index, port in enumerate(ports):
        where, name = f"ports[{index}]", port["name"]
        if name in seen:
            yield FieldError.duplicate(f"{where}.name", name)
        seen.add(name)
        yield from check_optional_name(names.dns_label, f"{where}.name", name)
        yield from check_range(f"{where}.port", port.get("port"), 1, 65535)
        yield from check_choice(port, where, "protocol", _PROTOCOLS, is_required=True)
    if old is not None:
        yield from check_unchanged("addressType", kind, old.get("addressType"))


def _check_endpoint(endpoint: Document, kind: str, path: str) -> Iterator[FieldError]:
    addresses = endpoint["addresses"]
    if not addresses:
        yield FieldError.required(f"{path}.addresses", "must contain at least 1 address")
    elif len(addresses) > _MOST_ADDRESSES:
        detail = f"Too many: {len(addresses)}: must have at most {_MOST_ADDRESSES} items"
        yield FieldError(f"{path}.addresses", "FieldValueTooMany", detail)
    for index, text in enumerate(addresses):
        where = f"{path}.addresses[{index}]"
        if kind == "FQDN":
            yield from check_name(names.dns_subdomain, where, text)
            continue
        found = address_of(text)
        if found is None or (kind in _ADDRESS_TYPES and found.version != int(kind[-1])):
            example = "an IPv4 address" if kind == "IPv4" else "an IPv6 address"
            yield FieldError.invalid(where, text, f"must be {example}")
        else:
            yield from check_reachable(found, where)
    yield from check_optional_name(names.dns_label, f"{path}.hostname", endpoint.get("hostname"))
    yield from check_optional_name(names.dns_subdomain, f"{path}.nodeName", endpoint.get("nodeName"))
    if "kubernetes.io/hostname" in (endpoint.get("deprecatedTopology") or {}):
        detail = "may not set kubernetes.io/hostname in topology"
        yield FieldError.invalid(f"{path}.deprecatedTopology[kubernetes.io/hostname]", "", detail)


def _ports(endpoint_slice: Object, now: float) -> str:
    ports = [str(port["port"]) if port.get("port") else "*" for port in some(endpoint_slice, "ports")]
    return _shown(ports) if ports else "<unset>"


def _members(endpoint_slice: Object, now: float) -> str:
    found = [address for each in some(endpoint_slice, "endpoints") for address in each["addresses"]]
    return _shown(found) if found else "<unset>"


ENDPOINT_SLICE = Rules(
    default=_default_slice,
    validate=_validate_slice,
    columns=(
        NAME,
        Column("AddressType", lambda endpoint_slice, now: endpoint_slice.get("addressType") or ""),
        Column("Ports", _ports),
        Column("Endpoints", _members),
        AGE,
    ),
)
