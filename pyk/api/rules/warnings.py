"""What is allowed and yet likely a mistake: the warnings that the server sends with its answer.

Pure functions of the new object and the old one (None for a creation); a warning is a sentence that begins with the
path of its field. Source: `pkg/api/pod/warnings.go`, and the `WarningsOnCreate` and `WarningsOnUpdate` of the
registry's strategies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from pyk.api import names
from pyk.api.objects import Object
from pyk.api.quantity import parse_quantity
from pyk.api.rules.common import some

_STANDARD_FINALIZERS = ("orphan", "foregroundDeletion", "kubernetes")
_NODE_LABELS = {
    "beta.kubernetes.io/arch": 'deprecated since v1.14; use "kubernetes.io/arch" instead',
    "beta.kubernetes.io/os": 'deprecated since v1.14; use "kubernetes.io/os" instead',
    "failure-domain.beta.kubernetes.io/region": 'deprecated since v1.17; use "topology.kubernetes.io/region" instead',
    "failure-domain.beta.kubernetes.io/zone": 'deprecated since v1.17; use "topology.kubernetes.io/zone" instead',
    "beta.kubernetes.io/instance-type": 'deprecated since v1.17; use "node.kubernetes.io/instance-type" instead',
}
_ANNOTATIONS = {
    "scheduler.alpha.kubernetes.io/critical-pod": 'non-functional in v1.16+; use the "priorityClassName" field instead',
    "security.alpha.kubernetes.io/sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
    "security.alpha.kubernetes.io/unsafe-sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
}
_VOLUMES = {
    "photonPersistentDisk": "deprecated in v1.11, non-functional in v1.16+",
    "gitRepo": "deprecated in v1.11, and disabled by default in v1.33+",
    "scaleIO": "deprecated in v1.16, non-functional in v1.22+",
    "flocker": "deprecated in v1.22, non-functional in v1.25+",
    "storageos": "deprecated in v1.22, non-functional in v1.25+",
    "quobyte": "deprecated in v1.22, non-functional in v1.25+",
    "glusterfs": "deprecated in v1.25, non-functional in v1.26+",
    "cephfs": "deprecated in v1.28, non-functional in v1.31+",
    "rbd": "deprecated in v1.28, non-functional in v1.31+",
}
_TEMPLATES = {
    "Deployment": "spec.template",
    "ReplicaSet": "spec.template",
    "DaemonSet": "spec.template",
    "StatefulSet": "spec.template",
    "ReplicationController": "spec.template",
    "Job": "spec.template",
    "CronJob": "spec.jobTemplate.spec.template",
    "PodTemplate": "template",
}
_NAMES_OF_PODS = ("Deployment", "ReplicaSet", "StatefulSet", "ReplicationController", "Job", "CronJob")
"""The kinds whose name becomes part of hostnames."""


def warnings_of(kind: str, new: Object, old: Object | None) -> Iterator[str]:
    """What to tell the writer of an object. An update warns only of what its change brings in."""
    yield from _finalizers(new, old)
    if kind == "Pod":
        if old is None:
            yield from _name(new, "the Pod's hostname")
            yield from _pod("", new)
    elif (path := _TEMPLATES.get(kind)) is not None:
        if old is None and kind in _NAMES_OF_PODS:
            yield from _name(new, "Pod names and hostnames")
        template = _at(new, path)
        if template and (old is None or template != _at(old, path)):
            yield from _pod(path, template)


def _at(obj: Object, path: str) -> Object:
    found: Any = obj
    for step in path.split("."):
        found = (found or {}).get(step)
    return found or {}


def _finalizers(new: Object, old: Object | None) -> Iterator[str]:
    before = (old or {}).get("metadata", {}).get("finalizers") or ()
    for name in new["metadata"].get("finalizers") or ():
        if "/" not in name and name not in before and name not in _STANDARD_FINALIZERS:
            yield (
                f'metadata.finalizers: "{name}": prefer a domain-qualified finalizer name including a path (/) to '
                "avoid accidental conflicts with other finalizer writers"
            )


def _name(obj: Object, used_in: str) -> Iterator[str]:
    if (problem := names.dns_label(obj["metadata"].get("name") or "a")) is not None:
        shown = "must not contain dots" if "." in obj["metadata"]["name"] and len(problem) > 60 else problem
        yield (
            f"metadata.name: this is used in {used_in}, which can result in surprising behavior; a DNS label is "
            f"recommended: [{shown}]"
        )


def _pod(path: str, pod: Object) -> Iterator[str]:
    """What to tell of a pod or a template (at `path`)."""
    prefix = f"{path}." if path else ""
    spec, annotations = pod.get("spec") or {}, (pod.get("metadata") or {}).get("annotations") or {}
    yield from _labels_of_nodes(f"{prefix}spec", spec)
    for key, message in _ANNOTATIONS.items():
        if key in annotations:
            yield f"{prefix}metadata.annotations[{key}]: {message}"
    for index, volume in enumerate(some(spec, "volumes")):
        for kind, message in _VOLUMES.items():
            if volume.get(kind) is not None:
                yield f"{prefix}spec.volumes[{index}].{kind}: {message}"
    for field, key, word in (("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")):
        yield from _doubled(f"{prefix}spec.{field}", some(spec, field), key, word)
    yield from _containers(f"{prefix}spec", spec)
    grace = spec.get("terminationGracePeriodSeconds")
    if grace is not None and grace < 0:
        path = f"{prefix}spec.terminationGracePeriodSeconds"
        yield f"{path}: must be >= 0; negative values are invalid and will be treated as 1"


def _labels_of_nodes(path: str, spec: Mapping[str, Any]) -> Iterator[str]:
    for key in spec.get("nodeSelector") or ():
        if key in _NODE_LABELS:
            yield f"{path}.nodeSelector[{key}]: {_NODE_LABELS[key]}"
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity")) or {}
    where = f"{path}.affinity.nodeAffinity"
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    for index, term in enumerate(some(affinity.get(required), "nodeSelectorTerms")):
        yield from _term(f"{where}.{required}.nodeSelectorTerms[{index}]", term)
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    for index, each in enumerate(some(affinity, preferred)):
        yield from _term(f"{where}.{preferred}[{index}].preference", each.get("preference") or {})
    for index, constraint in enumerate(some(spec, "topologySpreadConstraints")):
        key = constraint.get("topologyKey")
        if key in _NODE_LABELS:
            yield f"{path}.topologySpreadConstraints[{index}].topologyKey: {key} is {_NODE_LABELS[key]}"
        if constraint.get("labelSelector") is None:
            where = f"{path}.topologySpreadConstraints[{index}].labelSelector"
            yield f"{where}: a null labelSelector results in matching no pod"


def _term(path: str, term: Mapping[str, Any]) -> Iterator[str]:
    for index, expression in enumerate(some(term, "matchExpressions")):
        key = expression.get("key")
        if key in _NODE_LABELS:
            yield f"{path}.matchExpressions[{index}].key: {key} is {_NODE_LABELS[key]}"


def _doubled(path: str, items: Iterable[Mapping[str, Any]], key: str, word: str) -> Iterator[str]:
    seen: set[str] = set()
    for index, item in enumerate(items):
        value = str(item.get(key) or "")
        if value in seen:
            yield f'{path}[{index}].{key}: duplicate {word} "{value}"'
        elif not value and key == "name":
            yield f'{path}[{index}].name: invalid empty name ""'
        seen.add(value)


def _containers(path: str, spec: Mapping[str, Any]) -> Iterator[str]:
    ports: dict[tuple[int, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(some(spec, field)):
            where = f"{path}.{field}[{index}]"
            yield from _resources(where, container.get("resources") or {})
            yield from _hidden_variables(where, some(container, "env"))
            for number, port in enumerate(some(container, "ports")):
                at = f"{where}.ports[{number}]"
                others = ports.setdefault((port.get("containerPort") or 0, port.get("protocol") or "TCP"), [])
                yield from _overlaps(at, port, others)
                others.append((at, port))


def _resources(path: str, resources: Mapping[str, Any]) -> Iterator[str]:
    for field in ("limits", "requests"):
        for name in ("memory", "ephemeral-storage"):
            amount = (resources.get(field) or {}).get(name)
            # Thousandths of a byte and less: nobody means that.
            if amount is not None and Fraction(parse_quantity(amount)).denominator != 1:
                shown = f'fractional byte value "{amount}" is invalid, must be an integer'
                yield f"{path}.resources.{field}[{name}]: {shown}"


def _hidden_variables(path: str, variables: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    seen: set[str] = set()
    for index, variable in enumerate(variables):
        name, value = variable.get("name") or "", variable.get("value") or ""
        reference = f"$({name})"
        builds_on = variable.get("valueFrom") is None and reference in value and value != reference
        if name in seen and not builds_on:
            yield f'{path}.env[{index}]: hides previous definition of "{name}", which may be dropped when using apply'
        seen.add(name)


def _overlaps(path: str, port: Mapping[str, Any], others: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    host = (port.get("hostIP") or "", port.get("hostPort") or 0)
    for at, other in others:
        taken = (other.get("hostIP") or "", other.get("hostPort") or 0)
        if host == taken:
            yield f"{path}: duplicate port definition with {at}"
        elif not host[1] or not taken[1] or (host[1] == taken[1] and (not host[0] or not taken[0])):
            yield f"{path}: overlapping port definition with {at}"
