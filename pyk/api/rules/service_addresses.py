"""ServiceCIDRs and IPAddresses. Source: `pkg/apis/networking/validation/validation.go`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pyk.api import names
from pyk.api.kind import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.addresses import address_of, network_of
from pyk.api.rules.common import AGE, IMMUTABLE, NAME, check_conditions, check_name, check_optional_name
from pyk.api.status import FieldError

MANAGED_BY = "ipaddress.kubernetes.io/managed-by"
FAMILY_LABEL = "ipaddress.kubernetes.io/ip-family"
READY = "Ready"


def _cidrs(obj: Object) -> list[str]:
    return list((obj.get("spec") or {}).get("cidrs") or ())


def _validate_cidr(service_cidr: Object, old: Object | None) -> Iterable[FieldError]:
    cidrs = _cidrs(service_cidr)
    before = _cidrs(old) if old is not None else cidrs
    becomes_dual = len(before) == 1 and len(cidrs) == 2 and cidrs[0] == before[0]
    if cidrs != before and not becomes_dual:
        yield FieldError.invalid("spec.cidrs", cidrs, IMMUTABLE)
        return
    if not cidrs:
        yield FieldError.required("spec.cidrs", "at least one CIDR required")
        return
    if len(cidrs) > 2:
        yield FieldError.invalid("spec", {"cidrs": cidrs}, "may only hold up to 2 values")
    networks = [network_of(text) for text in cidrs]
    for index, (text, network) in enumerate(zip(cidrs, networks, strict=True)):
        where = f"spec.cidrs[{index}]"
        if network is None:
            yield FieldError.invalid(where, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
        elif str(network) != text:
            yield FieldError.invalid(where, text, f'must be in canonical form ("{network}")')
    versions = [network.version for network in networks if network is not None]
    if len(versions) == 2 and versions[0] == versions[1]:
        detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
        yield FieldError.invalid("spec", {"cidrs": cidrs}, detail)


def _validate_address(address: Object, old: Object | None) -> Iterable[FieldError]:
    name = address["metadata"].get("name") or ""
    found = address_of(name)
    if found is None:
        yield FieldError.invalid("metadata.name", name, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
    elif str(found) != name:
        yield FieldError.invalid("metadata.name", name, f'must be in canonical form ("{found}")')
    parent: dict[str, Any] | None = (address.get("spec") or {}).get("parentRef")
    if old is not None and parent != (old.get("spec") or {}).get("parentRef"):
        yield FieldError.invalid("spec.parentRef", parent, IMMUTABLE)
        return
    if parent is None:
        yield FieldError.required("spec.parentRef")
        return
    where = "spec.parentRef"
    yield from check_optional_name(names.dns_subdomain, f"{where}.group", parent.get("group"))
    yield from check_name(names.path_segment, f"{where}.resource", parent.get("resource"))
    yield from check_optional_name(names.path_segment, f"{where}.namespace", parent.get("namespace"))
    yield from check_name(names.path_segment, f"{where}.name", parent.get("name"))


def _parent(address: Object, now: float) -> str:
    parent = (address.get("spec") or {}).get("parentRef") or {}
    resource = parent.get("resource") or ""
    if parent.get("group"):
        resource += f".{parent['group']}"
    return "/".join(filter(None, [resource, parent.get("namespace"), parent.get("name")]))


def _parent_field(field: str) -> Callable[[Object], str]:
    return lambda address: ((address.get("spec") or {}).get("parentRef") or {}).get(field) or ""


SERVICE_CIDR = Rules(
    validate=_validate_cidr,
    validate_status=lambda service_cidr, old: check_conditions(service_cidr.get("status") or {}, "status.conditions"),
    columns=(
        NAME,
        Column("CIDRs", lambda service_cidr, now: ",".join(_cidrs(service_cidr)), description="The ranges."),
        AGE,
    ),
)
IP_ADDRESS = Rules(
    validate=_validate_address,
    columns=(NAME, Column("ParentRef", _parent, description="What has the address."), AGE),
    fields={f"spec.parentRef.{field}": _parent_field(field) for field in ("group", "resource", "namespace", "name")},
)
