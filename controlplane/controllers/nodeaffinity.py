"""Whether a node is one that a pod asks for: its node selector and its required node affinity. Pure.

Source: Kubernetes' documentation "Assigning Pods to Nodes".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pyk.api.objects import Object, labels_of, name_of
from pyk.api.rules.common import some

Document = Mapping[str, Any]

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}\Z")


def is_asked_for(spec: Document, node: Object) -> bool:
    """Whether the node meets the node selector and the required node affinity of a pod's spec."""
    selector: Mapping[str, str] = spec.get("nodeSelector") or {}
    if not selector.items() <= labels_of(node).items():
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return required is None or any(_meets(term, node) for term in some(required, "nodeSelectorTerms"))


def _meets(term: Document, node: Object) -> bool:
    """Whether the node meets all of a selector term; an empty term is met by none."""
    fields = {"metadata.name": name_of(node)}
    asked = [(entry, labels_of(node)) for entry in term.get("matchExpressions") or ()]
    asked += [(entry, fields) for entry in term.get("matchFields") or ()]
    return bool(asked) and all(_holds(entry, values) for entry, values in asked)


def _holds(entry: Document, values: Mapping[str, str]) -> bool:
    value = values.get(entry["key"])
    wanted: Sequence[str] = entry.get("values") or ()
    match entry["operator"]:
        case "In":
            return value in wanted
        case "NotIn":
            return value not in wanted
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" if value is not None and len(wanted) == 1:
            if not _INTEGER.match(value) or not _INTEGER.match(wanted[0]):
                return False
            return int(value) > int(wanted[0]) if entry["operator"] == "Gt" else int(value) < int(wanted[0])
    return False
