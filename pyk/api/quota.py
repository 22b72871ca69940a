"""What objects use of resource quotas, and which quotas they fall under: pure functions for admission and recounts.

Amounts are exact fractions of a resource's unit (cores, bytes, things). Source: `pkg/quota/v1/evaluator/core` and the
Kubernetes documentation on resource quotas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from pyk.api.kinds import PERSISTENT_VOLUME_CLAIM, POD, SERVICE, Kind
from pyk.api.objects import Object
from pyk.api.quantity import format_amount, is_binary, parse_quantity
from pyk.api.rules.common import some
from pyk.api.rules.persistent_volumes import class_of
from pyk.api.rules.pods_resources import qos_class
from pyk.api.rules.resource_names import COMPUTE, OBJECT_COUNTS
from pyk.api.services import LOAD_BALANCER, takes_node_ports, type_of

Document = dict[str, Any]
Amounts = dict[str, Fraction]

_ENDED = ("Succeeded", "Failed")
_MUST_BE_SAID = ("cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory")
"""A quota of one of these asks every container to say how much it wants."""


def usage(kind: Kind, obj: Object) -> Amounts:
    """What one object uses, by the names that quotas have for it."""
    found: Amounts = {f"count/{kind.resource}": Fraction(1)}
    if kind.plural in OBJECT_COUNTS and not kind.group and kind is not POD:
        found[kind.plural] = Fraction(1)
    if kind is POD and not _has_ended(obj):
        found["pods"] = Fraction(1)
        found |= _pod_compute(obj["spec"])
    elif kind is PERSISTENT_VOLUME_CLAIM:
        found |= _claim_storage(obj)
    elif kind is SERVICE:
        found |= _service_counts(obj.get("spec") or {})
    return found


def _service_counts(spec: Document) -> Amounts:
    """A service that gets node ports is charged for all of them, one that does not for those that it asks for."""
    ports = some(spec, "ports")
    taken = len(ports) if takes_node_ports(spec) else sum(1 for port in ports if port.get("nodePort"))
    counted: Amounts = {"services.nodeports": Fraction(taken)} if taken else {}
    if type_of(spec) == LOAD_BALANCER:
        counted["services.loadbalancers"] = Fraction(1)
    return counted


def _has_ended(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in _ENDED


def pod_totals(spec: Document, field: str) -> Amounts:
    """The `requests` or `limits` of a pod as a whole, overhead and pod-level resources included.

    Init containers run one after the other before the others, restartable ones beside them.
    """
    sidecars: Amounts = {}
    peak: Amounts = {}
    for container in some(spec, "initContainers"):
        own = _amounts((container.get("resources") or {}).get(field))
        if container.get("restartPolicy") == "Always":
            sidecars = add(sidecars, own)
            peak = _largest(peak, sidecars)
        else:
            peak = _largest(peak, add(sidecars, own))
    total = sidecars
    for container in some(spec, "containers"):
        total = add(total, _amounts((container.get("resources") or {}).get(field)))
    total = _largest(total, peak) | _amounts((spec.get("resources") or {}).get(field))
    overhead = _amounts(spec.get("overhead"))
    if field == "limits":
        overhead = {name: amount for name, amount in overhead.items() if name in total}
    return add(total, overhead)


def _pod_compute(spec: Document) -> Amounts:
    found: Amounts = {}
    for name, amount in pod_totals(spec, "requests").items():
        found[f"requests.{name}"] = amount
        if name in COMPUTE or name.startswith("hugepages-"):
            found[name] = amount
    for name, amount in pod_totals(spec, "limits").items():
        if name in COMPUTE:
            found[f"limits.{name}"] = amount
    return found


def _claim_storage(claim: Object) -> Amounts:
    storage_class = class_of(claim)
    requests = ((claim.get("spec") or {}).get("resources") or {}).get("requests") or {}
    amount = parse_quantity(requests.get("storage") or "0")
    found = {"requests.storage": amount}
    if storage_class:
        prefix = f"{storage_class}.storageclass.storage.k8s.io/"
        found |= {f"{prefix}requests.storage": amount, f"{prefix}persistentvolumeclaims": Fraction(1)}
    return found


def _amounts(quantities: Mapping[str, str] | None) -> Amounts:
    return {name: parse_quantity(text) for name, text in (quantities or {}).items()}


def add(one: Amounts, other: Amounts) -> Amounts:
    """The sums, name by name."""
    return {name: one.get(name, Fraction(0)) + other.get(name, Fraction(0)) for name in {**one, **other}}


def _largest(one: Amounts, other: Amounts) -> Amounts:
    return {name: max(one.get(name, Fraction(0)), other.get(name, Fraction(0))) for name in {**one, **other}}


def counts(kind: Kind, name: str) -> bool:
    """Whether a resource that a quota limits is one that objects of the kind use."""
    if name == f"count/{kind.resource}":
        return True
    if kind is POD:
        bare = name.removeprefix("requests.").removeprefix("limits.")
        is_extended = name.startswith("requests.") and "/" in bare
        return name == "pods" or bare in COMPUTE or bare.startswith("hugepages-") or is_extended
    if kind is PERSISTENT_VOLUME_CLAIM:
        return name in ("persistentvolumeclaims", "requests.storage") or ".storageclass.storage.k8s.io/" in name
    if kind is SERVICE and name in ("services.nodeports", "services.loadbalancers"):
        return True
    return not kind.group and name == kind.plural


def selects(quota: Object, kind: Kind, obj: Object) -> bool:
    """Whether an object falls under the scopes of a quota."""
    spec = quota.get("spec") or {}
    terms: list[Document] = [{"scopeName": scope, "operator": "Exists"} for scope in spec.get("scopes") or ()]
    terms += some(spec.get("scopeSelector"), "matchExpressions")
    if not terms:
        return True
    return kind is POD and all(_in_scope(term, obj["spec"]) for term in terms)


def _in_scope(term: Document, spec: Document) -> bool:
    match term["scopeName"]:
        case "Terminating":
            return spec.get("activeDeadlineSeconds") is not None
        case "NotTerminating":
            return spec.get("activeDeadlineSeconds") is None
        case "BestEffort":
            return qos_class(spec) == "BestEffort"
        case "NotBestEffort":
            return qos_class(spec) != "BestEffort"
        case "CrossNamespacePodAffinity":
            return any(term.get("namespaces") or "namespaceSelector" in term for term in _affinity_terms(spec))
        case "PriorityClass":
            return _matches(term, spec.get("priorityClassName") or "")
    return False


def _matches(term: Document, value: str) -> bool:
    match term["operator"]:
        case "Exists":
            return bool(value)
        case "DoesNotExist":
            return not value
        case "In":
            return value in (term.get("values") or ())
        case "NotIn":
            return value not in (term.get("values") or ())
    return False


def _affinity_terms(spec: Document) -> Iterable[Document]:
    for field in ("podAffinity", "podAntiAffinity"):
        rules = (spec.get("affinity") or {}).get(field) or {}
        yield from some(rules, "requiredDuringSchedulingIgnoredDuringExecution")
        for weighted in some(rules, "preferredDuringSchedulingIgnoredDuringExecution"):
            yield weighted["podAffinityTerm"]


def unsaid(pod: Object, limited: Iterable[str]) -> str:
    """What containers must say because quotas limit it (`limits.cpu for: main`); empty when all is said."""
    spec = pod["spec"]
    missing: dict[str, list[str]] = {}
    for name in sorted(set(limited) & set(_MUST_BE_SAID)):
        field = "limits" if name.startswith("limits.") else "requests"
        bare = name.rpartition(".")[2]
        if bare in ((spec.get("resources") or {}).get(field) or {}):
            continue
        for container in (*some(spec, "containers"), *some(spec, "initContainers")):
            if bare not in ((container.get("resources") or {}).get(field) or {}):
                missing.setdefault(name, []).append(container["name"])
    return "; ".join(f"{name} for: {','.join(sorted(containers))}" for name, containers in missing.items())


def quantities(amounts: Amounts, like: Mapping[str, str]) -> dict[str, str]:
    """Amounts as quantities, each with binary suffixes where `like` writes the resource that way."""
    return {name: format_amount(amount, binary=is_binary(like.get(name, ""))) for name, amount in amounts.items()}


def shown(values: Mapping[str, str]) -> str:
    """`cpu=1,pods=2`, as messages have it."""
    return ",".join(f"{name}={values[name]}" for name in sorted(values))
