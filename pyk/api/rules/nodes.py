"""Nodes: taints, addresses of pods, and what may change in a node's spec."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api import names
from pyk.api.kinds import Column, Rules
from pyk.api.objects import Object, condition_of, labels_of
from pyk.api.rules.common import AGE, NAME, check_choice, check_name, check_optional_name, set_default, some
from pyk.api.rules.scheduling_validation import EFFECTS
from pyk.api.status import FieldError

_ROLE_PREFIX, _ROLE_LABEL = "node-role.kubernetes.io/", "kubernetes.io/role"
_ONCE = 'node updates may not change {} except from "" to valid'
_ONLY = "node updates may only change labels, taints, or capacity"


def _default(node: Object) -> None:
    spec: dict[str, Any] = node.get("spec") or {}
    if spec.get("podCIDR") and not spec.get("podCIDRs"):
        spec["podCIDRs"] = [spec["podCIDR"]]
    elif spec.get("podCIDRs") and not spec.get("podCIDR"):
        spec["podCIDR"] = spec["podCIDRs"][0]
    node["spec"] = spec
    status = node.get("status") or {}
    if status.get("capacity"):
        set_default(status, "allocatable", dict(status["capacity"]))


def _validate(node: Object, old: Object | None) -> Iterable[FieldError]:
    spec = node.get("spec") or {}
    yield from _check_taints(some(spec, "taints"))
    for index, cidr in enumerate(spec.get("podCIDRs") or ()):
        if not _is_network(cidr):
            detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            yield FieldError.invalid(f"spec.podCIDRs[{index}]", cidr, detail)
    if spec.get("podCIDR") and spec["podCIDRs"][0] != spec["podCIDR"]:
        yield FieldError.invalid("spec.podCIDRs", spec["podCIDRs"], "podCIDRs[0] must be the same as podCIDR")
    if old is not None:
        yield from _check_update(spec, old.get("spec") or {})


def _check_update(spec: dict[str, Any], old: dict[str, Any]) -> Iterator[FieldError]:
    for field, path in (("podCIDRs", "spec.podCIDRs"), ("providerID", "spec.providerID")):
        if old.get(field) and spec.get(field) != old[field]:
            yield FieldError.forbidden(path, _ONCE.format("podCIDR" if field == "podCIDRs" else field))
    changeable = ("taints", "unschedulable", "podCIDR", "podCIDRs", "providerID", "configSource")
    fields = {field for field in {**spec, **old} if field not in changeable}
    if any((spec.get(field) or None) != (old.get(field) or None) for field in fields):
        yield FieldError.forbidden("spec", _ONLY)


def _check_taints(taints: list[dict[str, Any]]) -> Iterator[FieldError]:
    seen = set()
    for index, taint in enumerate(taints):
        where = f"spec.taints[{index}]"
        yield from check_name(names.qualified_name, f"{where}.key", taint["key"])
        yield from check_optional_name(names.label_value, f"{where}.value", taint.get("value"))
        yield from check_choice(taint, where, "effect", EFFECTS, is_required=True)
        pair = (taint["key"], taint["effect"])
        if pair in seen:
            detail = "taints must be unique by key and effect pair"
            yield FieldError(where, "FieldValueDuplicate", f"{FieldError.duplicate(where, taint).message}: {detail}")
        seen.add(pair)


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _status(node: Object, now: float) -> str:
    ready = condition_of(node, "Ready")
    words = ["Unknown" if ready is None else "Ready" if ready["status"] == "True" else "NotReady"]
    if (node.get("spec") or {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _roles(node: Object, now: float) -> str:
    roles = set()
    for label, value in labels_of(node).items():
        if label.startswith(_ROLE_PREFIX) and label != _ROLE_PREFIX:
            roles.add(label.removeprefix(_ROLE_PREFIX))
        elif label == _ROLE_LABEL and value:
            roles.add(value)
    return ",".join(sorted(roles)) or "<none>"


def _address(kind: str) -> Any:
    def cell(node: Object, now: float) -> str:
        for address in some(node.get("status"), "addresses"):
            if address["type"] == kind:
                return str(address["address"])
        return "<none>"

    return cell


def _info(field: str, missing: str = "<unknown>") -> Any:
    return lambda node, now: ((node.get("status") or {}).get("nodeInfo") or {}).get(field) or missing


RULES = Rules(
    default=_default,
    validate=_validate,
    columns=(
        NAME,
        Column("Status", _status, description="The status of the node"),
        Column("Roles", _roles, description="The roles of the node"),
        AGE,
        Column("Version", _info("kubeletVersion", "")),
        Column("Internal-IP", _address("InternalIP"), priority=1),
        Column("External-IP", _address("ExternalIP"), priority=1),
        Column("OS-Image", _info("osImage"), priority=1),
        Column("Kernel-Version", _info("kernelVersion"), priority=1),
        Column("Container-Runtime", _info("containerRuntimeVersion"), priority=1),
    ),
    fields={
        "spec.unschedulable": lambda node: "true" if (node.get("spec") or {}).get("unschedulable") else "false",
    },
)
