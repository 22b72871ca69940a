"""`matchLabelKeys` and `mismatchLabelKeys`: a pod's own labels, put into the selectors that name their keys.

The API server does this once, when a pod is created; who reads the pod afterwards goes by the selectors alone, even
when its labels have changed since. Source: `applyMatchLabelKeysAndMismatchLabelKeys` of Kubernetes' pod strategy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyk.api.objects import Object, labels_of

_REQUIRED, _PREFERRED = (
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
)


def merge_label_keys(pod: Object) -> None:
    """Put the pod's labels into its selectors. What of the spec changes is made anew: others may share it."""
    spec, own = pod.get("spec") or {}, labels_of(pod)
    for field in ("podAffinity", "podAntiAffinity"):
        rules = (spec.get("affinity") or {}).get(field) or {}
        required = [_merged(term, own) for term in rules.get(_REQUIRED) or ()]
        weighted = rules.get(_PREFERRED) or ()
        preferred = [{**entry, "podAffinityTerm": _merged(entry["podAffinityTerm"], own)} for entry in weighted]
        merged = {**rules, _REQUIRED: required, _PREFERRED: preferred}
        if any(rules.get(each) and rules[each] != merged[each] for each in (_REQUIRED, _PREFERRED)):
            spec["affinity"] = {**spec["affinity"], field: {key: merged[key] for key in rules}}
    constraints = spec.get("topologySpreadConstraints") or ()
    spread = [_merged(constraint, own) for constraint in constraints]
    if spread != list(constraints):
        spec["topologySpreadConstraints"] = spread


def _merged(term: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, Any]:
    selector = term.get("labelSelector")
    added = [
        {"key": key, "operator": operator, "values": [own[key]]}
        for field, operator in (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn"))
        for key in term.get(field) or ()
        if key in own
    ]
    if selector is None or not added:
        return dict(term)
    expressions = [*(selector.get("matchExpressions") or ()), *added]
    return {**term, "labelSelector": {**selector, "matchExpressions": expressions}}
