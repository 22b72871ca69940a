"""NetworkPolicies. Source: `pkg/apis/networking/validation/validation.go` and the defaults beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api import names
from pyk.api.kind import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.addresses import check_network, network_of
from pyk.api.rules.common import (
    AGE,
    NAME,
    check_choice,
    check_label_selector,
    check_name,
    check_range,
    some,
)
from pyk.api.selectors import format_selector, from_document
from pyk.api.status import FieldError

Document = dict[str, Any]

INGRESS, EGRESS = "Ingress", "Egress"
_PROTOCOLS = ("SCTP", "TCP", "UDP")


def _default(policy: Object) -> None:
    spec: Document = policy.setdefault("spec", {})
    if spec.get("podSelector") is None:
        spec["podSelector"] = {}
    if not spec.get("policyTypes"):
        spec["policyTypes"] = [INGRESS, EGRESS] if some(spec, "egress") else [INGRESS]
    for field in ("ingress", "egress"):
        for rule in some(spec, field):
            for port in some(rule, "ports"):
                if not port.get("protocol"):
                    port["protocol"] = "TCP"


def _validate(policy: Object, old: Object | None) -> Iterable[FieldError]:
    spec = policy["spec"]
    yield from check_label_selector(spec.get("podSelector"), "spec.podSelector")
    for field, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(some(spec, field)):
            where = f"spec.{field}[{index}]"
            for position, port in enumerate(some(rule, "ports")):
                yield from _check_port(port, f"{where}.ports[{position}]")
            for position, peer in enumerate(some(rule, peers)):
                yield from _check_peer(peer, f"{where}.{peers}[{position}]")
    types = spec.get("policyTypes") or []
    if len(types) > 2:
        yield FieldError.invalid("spec.policyTypes", types, "may not specify more than two policyTypes")
    for index, kind in enumerate(types):
        if kind not in (INGRESS, EGRESS):
            yield FieldError.not_supported(f"spec.policyTypes[{index}]", kind, (EGRESS, INGRESS))


def _check_port(port: Document, path: str) -> Iterator[FieldError]:
    yield from check_choice(port, path, "protocol", _PROTOCOLS)
    value, end = port.get("port"), port.get("endPort")
    if isinstance(value, int):
        yield from check_range(f"{path}.port", value, 1, 65535)
        if end is not None:
            if end < value:
                yield FieldError.invalid(f"{path}.endPort", end, "must be greater than or equal to `port`")
            yield from check_range(f"{path}.endPort", end, 1, 65535)
        return
    if value is not None:
        yield from check_name(names.port_name, f"{path}.port", value)
        if end is not None:
            detail = "may not be specified when `port` is non-numeric"
            yield FieldError.invalid(f"{path}.endPort", end, detail)
    elif end is not None:
        yield FieldError.invalid(f"{path}.endPort", end, "may not be specified when `port` is not specified")


def _check_peer(peer: Document, path: str) -> Iterator[FieldError]:
    given = [field for field in ("podSelector", "namespaceSelector", "ipBlock") if peer.get(field) is not None]
    yield from check_label_selector(peer.get("podSelector"), f"{path}.podSelector")
    yield from check_label_selector(peer.get("namespaceSelector"), f"{path}.namespaceSelector")
    if not given:
        yield FieldError.required(path, "must specify a peer")
    elif "ipBlock" in given:
        if len(given) > 1:
            yield FieldError.forbidden(path, "may not specify both ipBlock and another peer")
        yield from _check_block(peer["ipBlock"], f"{path}.ipBlock")


def _check_block(block: Document, path: str) -> Iterator[FieldError]:
    if not block.get("cidr"):
        yield FieldError.required(f"{path}.cidr")
        return
    yield from check_network(f"{path}.cidr", block["cidr"])
    whole = network_of(block["cidr"])
    for index, text in enumerate(block.get("except") or ()):
        where = f"{path}.except[{index}]"
        part = network_of(text)
        yield from check_network(where, text)
        if part is None or whole is None:
            continue
        if part.version != whole.version or part == whole or not _is_within(part, whole):
            yield FieldError.invalid(where, text, "must be a strict subset of `cidr`")


def _is_within(part: Any, whole: Any) -> bool:
    found: bool = part.subnet_of(whole)
    return found


def _pod_selector(policy: Object, now: float) -> str:
    selector = from_document((policy.get("spec") or {}).get("podSelector"))
    return format_selector(selector) if selector else "<none>"


RULES = Rules(
    default=_default,
    validate=_validate,
    columns=(NAME, Column("Pod-Selector", _pod_selector, description="The pods that the policy is about."), AGE),
)
