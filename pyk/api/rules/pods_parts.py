"""The parts of a pod's spec that subresources write: `ephemeralcontainers` adds containers for debugging, `resize`
changes requests and limits of containers that run.

Source: `ValidatePodEphemeralContainersUpdate` and `ValidatePodResize` of `pkg/apis/core/validation/validation.go`, and
the strategies of `pkg/registry/core/pod`, which drop whatever else a client sends along.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from pyk.api.kind import Part
from pyk.api.objects import Object, annotations_of
from pyk.api.rules.common import differing_fields, some
from pyk.api.rules.containers_validation import (
    check_ephemeral_containers,
    check_pod_level_resources,
    check_resize_policy,
    check_resources,
)
from pyk.api.rules.pods_resources import qos_class
from pyk.api.rules.pods_validation import MIRROR
from pyk.api.status import FieldError

Document = dict[str, Any]

_LISTS = ("containers", "initContainers")
_RESIZED = ("cpu", "memory")


def _with_ephemeral_containers(new: Object, old: Object) -> Object:
    spec = copy.deepcopy(old["spec"])
    spec.pop("ephemeralContainers", None)
    if given := some(new.get("spec"), "ephemeralContainers"):
        spec["ephemeralContainers"] = given
    return {**old, "spec": spec}


def _check_ephemeral_containers(pod: Object, old: Object) -> Iterator[FieldError]:
    if MIRROR in annotations_of(old):
        yield FieldError.forbidden("", "static pods do not support ephemeral containers")
        return
    yield from check_ephemeral_containers(pod["spec"], "spec")
    where = "spec.ephemeralContainers"
    present = {container["name"]: container for container in some(pod["spec"], "ephemeralContainers")}
    for container in some(old["spec"], "ephemeralContainers"):
        name = container["name"]
        if name not in present:
            yield FieldError.forbidden(where, f'existing ephemeral containers "{name}" may not be removed\n')
        elif changes := list(differing_fields(present[name], container, "")):
            told = "\n".join(f"  {path.removeprefix('.')}" for path in changes)
            yield FieldError.forbidden(where, f'existing ephemeral containers "{name}" may not be changed\n{told}')


def _with_resources(new: Object, old: Object) -> Object:
    """The old pod with the requests, limits and resize policies of the new one, where both have the same containers."""
    given, spec = new.get("spec") or {}, copy.deepcopy(old["spec"])
    for field in _LISTS:
        if len(some(given, field)) != len(some(spec, field)):
            return {**old, "spec": given}  # for the checks to refuse
        wanted = {container["name"]: container for container in some(given, field)}
        if [container["name"] for container in some(given, field)] != [each["name"] for each in some(spec, field)]:
            return {**old, "spec": given}
        for container in some(spec, field):
            for part in ("resources", "resizePolicy"):
                container.pop(part, None)
                if (value := wanted[container["name"]].get(part)) is not None:
                    container[part] = value
    spec.pop("resources", None)
    if given.get("resources") is not None:
        spec["resources"] = given["resources"]
    return {**old, "spec": spec}


def _check_resize(pod: Object, old: Object) -> Iterator[FieldError]:
    if MIRROR in annotations_of(old):
        yield FieldError.forbidden("", "static pods cannot be resized")
        return
    spec, old_spec = pod["spec"], old["spec"]
    before = (old.get("status") or {}).get("qosClass") or qos_class(old_spec)
    if qos_class(spec) != before:
        yield FieldError.invalid("spec", qos_class(spec), "Pod QOS Class may not change as a result of resizing")
    problems = list(_check_order(spec, old_spec))
    yield from problems
    if problems:
        return
    for field in _LISTS:
        for index, (container, known) in enumerate(zip(some(spec, field), some(old_spec, field), strict=True)):
            where = f"spec.{field}[{index}]"
            is_fixed = field == "initContainers" and container.get("restartPolicy") != "Always"
            if is_fixed and container.get("resources") != known.get("resources"):
                detail = "resources for non-sidecar init containers are immutable"
                yield FieldError.forbidden(f"{where}.resources", detail)
                continue
            yield from check_resources(container.get("resources") or {}, f"{where}.resources")
            yield from check_resize_policy(container, spec, where)
            yield from _check_change(container.get("resources"), known.get("resources"), f"{where}.resources")
    if spec.get("resources") or old_spec.get("resources"):
        yield from check_pod_level_resources(spec, "spec")
        yield from _check_change(spec.get("resources"), old_spec.get("resources"), "spec.resources")


def _check_order(spec: Document, old: Document) -> Iterator[FieldError]:
    for field in _LISTS:
        names, known = ([each["name"] for each in some(one, field)] for one in (spec, old))
        if len(names) != len(known):
            yield FieldError.forbidden(f"spec.{field}", f"{field} may not be added or removed on resize")
            continue
        for index, (name, other) in enumerate(zip(names, known, strict=True)):
            if name != other:
                detail = f"{field} may not be renamed or reordered on resize"
                yield FieldError.forbidden(f"spec.{field}[{index}].name", detail)


def _check_change(new: Document | None, old: Document | None, path: str) -> Iterator[FieldError]:
    """One list of requests and limits: only cpu and memory change, and what is there stays."""
    for field in ("requests", "limits"):
        present, before = (new or {}).get(field) or {}, (old or {}).get(field) or {}
        if any(name in before and name not in present for name in _RESIZED):
            yield FieldError.forbidden(f"{path}.{field}", f"resource {field} cannot be removed")
        if {name: value for name, value in present.items() if name not in _RESIZED} != {
            name: value for name, value in before.items() if name not in _RESIZED
        }:
            yield FieldError.forbidden("spec", f"only cpu and memory resources are mutable\n  {path}.{field}")
    if ((new or {}).get("claims") or []) != ((old or {}).get("claims") or []):
        yield FieldError.forbidden("spec", f"only cpu and memory resources are mutable\n  {path}.claims")


PARTS = {
    "ephemeralcontainers": Part(_with_ephemeral_containers, _check_ephemeral_containers),
    "resize": Part(_with_resources, _check_resize),
}
