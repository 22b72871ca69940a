"""The downward API: fields of the pod and resources of its containers as text, for environment and volumes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Any

from pyk.api.objects import Object, annotations_of, labels_of, name_of, namespace_of, uid_of
from pyk.api.quantity import parse_quantity

_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.*)'\]\Z")


class UnknownField(Exception):
    """The downward API has no such field or resource; the text is for people."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is not in the pod object itself: its addresses, the node's, and the node's allocatable resources (a
    resource list), which stand in for limits that a container does not have."""

    pod_addresses: Sequence[str] = ()
    node_addresses: Sequence[str] = ()
    allocatable: Mapping[str, str] = field(default_factory=dict)


def field_value(pod: Object, path: str, facts: Facts) -> str:
    """The text of a `fieldRef`. Raises `UnknownField`."""
    if match := _SUBSCRIPT.match(path):
        values = labels_of(pod) if match.group(1) == "labels" else annotations_of(pod)
        return values.get(match.group(2), "")
    match path:
        case "metadata.name":
            return name_of(pod)
        case "metadata.namespace":
            return namespace_of(pod)
        case "metadata.uid":
            return uid_of(pod)
        case "metadata.labels":
            return _lines(labels_of(pod))
        case "metadata.annotations":
            return _lines(annotations_of(pod))
        case "spec.nodeName":
            return str(pod["spec"].get("nodeName") or "")
        case "spec.serviceAccountName":
            return str(pod["spec"].get("serviceAccountName") or "")
        case "status.hostIP":
            return next(iter(facts.node_addresses), "")
        case "status.hostIPs":
            return ",".join(facts.node_addresses)
        case "status.podIP":
            return next(iter(facts.pod_addresses), "")
        case "status.podIPs":
            return ",".join(facts.pod_addresses)
    raise UnknownField(f"unsupported fieldPath: {path}")


def _lines(values: Mapping[str, str]) -> str:
    return "\n".join(f"{key}={_quoted(value)}" for key, value in sorted(values.items()))


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\x7f")


def resource_value(pod: Object, container_name: str, selector: Mapping[str, Any], facts: Facts) -> str:
    """The number of a `resourceFieldRef`, divided by its divisor and rounded up.

    A limit that the container does not have is the node's allocatable amount. Raises `UnknownField`.
    """
    name = selector.get("containerName") or container_name
    container = _container(pod, name)
    kind, _, resource = str(selector.get("resource", "")).partition(".")
    resources = container.get("resources") or {}
    if kind == "limits":
        text = (resources.get("limits") or {}).get(resource) or facts.allocatable.get(resource)
    elif kind == "requests":
        text = (resources.get("requests") or {}).get(resource) or (resources.get("limits") or {}).get(resource)
    else:
        raise UnknownField(f"unsupported container resource: {selector.get('resource')}")
    divisor = parse_quantity(str(selector.get("divisor") or "1")) or Fraction(1)
    return str(ceil(parse_quantity(text or "0") / divisor))


def _container(pod: Object, name: str) -> Mapping[str, Any]:
    spec = pod["spec"]
    candidates: list[Mapping[str, Any]] = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    for container in candidates:
        if container["name"] == name:
            return container
    raise UnknownField(f"container {name} not found")


def shows_itself(pod: Object) -> bool:
    """Whether a volume of the pod shows its labels or annotations."""
    for volume in pod["spec"].get("volumes") or ():
        sources = [volume, *((volume.get("projected") or {}).get("sources") or ())]
        if any("downwardAPI" in source for source in sources):
            return True
    return False
