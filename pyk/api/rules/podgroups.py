"""PodGroups and Workloads: which pods are scheduled together, and how many at least.

Source: the validation tags of `staging/src/k8s.io/api/scheduling/v1alpha2/types.go`, with the feature gates
GenericWorkload and GangScheduling on. What belongs to other gates (topology, disruption mode, priority and resource
claims of a group) is left out of what is stored, as Kubernetes does where a gate is off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api import names
from pyk.api.kind import Rules
from pyk.api.objects import Object
from pyk.api.rules.common import (
    AGE,
    NAME,
    check_conditions,
    check_name,
    check_optional_name,
    check_required,
    check_unchanged,
    check_unique,
    some,
)
from pyk.api.status import FieldError

Document = dict[str, Any]

MOST_TEMPLATES = 8
GATED = ("schedulingConstraints", "resourceClaims", "disruptionMode", "priorityClassName", "priority")
"""Fields of feature gates that are off, of a group and of a template."""


def _drop_gated(document: Document) -> None:
    for field in GATED:
        document.pop(field, None)


def _check_policy(policy: Document, path: str) -> Iterator[FieldError]:
    named = [field for field in ("basic", "gang") if policy.get(field) is not None]
    if not named:
        yield FieldError.invalid(path, "", "must specify one of: `basic`, `gang`")
    elif len(named) > 1:
        yield FieldError.invalid(path, f"{{{', '.join(named)}}}", "must specify exactly one of: `basic`, `gang`")
    if (gang := policy.get("gang")) is not None:
        yield from _check_least(gang["minCount"], f"{path}.gang.minCount")


def _check_least(least: int, path: str) -> Iterator[FieldError]:
    if least == 0:
        yield FieldError.required(path)
    elif least < 1:
        yield FieldError.invalid(path, least, "must be greater than or equal to 1")


def _prepare_group(group: Object, old: Object | None) -> None:
    _drop_gated(group["spec"])


def _validate_group(group: Object, old: Object | None) -> Iterable[FieldError]:
    spec = group["spec"]
    if old is not None:
        for field in ("podGroupTemplateRef", "schedulingPolicy"):
            yield from check_unchanged(f"spec.{field}", spec.get(field), old["spec"].get(field))
        return
    yield from _check_policy(spec["schedulingPolicy"], "spec.schedulingPolicy")
    reference = spec.get("podGroupTemplateRef")
    if reference is not None:
        path = "spec.podGroupTemplateRef"
        workload = reference.get("workload")
        if workload is None:
            yield FieldError.invalid(path, "", "must specify one of: `workload`")
        else:
            yield from check_required(workload, f"{path}.workload", "workloadName", "podGroupTemplateName")
            where = f"{path}.workload.workloadName"
            yield from check_optional_name(names.dns_subdomain, where, workload["workloadName"])
            where = f"{path}.workload.podGroupTemplateName"
            yield from check_optional_name(names.dns_label, where, workload["podGroupTemplateName"])


def _validate_group_status(group: Object, old: Object | None) -> Iterable[FieldError]:
    yield from check_conditions(group.get("status") or {}, "status.conditions")


POD_GROUP = Rules(
    prepare=_prepare_group,
    validate=_validate_group,
    validate_status=_validate_group_status,
    columns=(NAME, AGE),
)


def _prepare_workload(workload: Object, old: Object | None) -> None:
    for template in some(workload["spec"], "podGroupTemplates"):
        _drop_gated(template)


def _validate_workload(workload: Object, old: Object | None) -> Iterable[FieldError]:
    spec = workload["spec"]
    if old is not None:
        for field in ("controllerRef", "podGroupTemplates"):
            yield from check_unchanged(f"spec.{field}", spec.get(field), old["spec"].get(field))
        return
    if (controller := spec.get("controllerRef")) is not None:
        yield from check_optional_name(names.dns_subdomain, "spec.controllerRef.apiGroup", controller.get("apiGroup"))
        yield from check_required(controller, "spec.controllerRef", "kind", "name")
        for field in ("kind", "name"):
            yield from check_optional_name(names.path_segment, f"spec.controllerRef.{field}", controller[field])
    path, templates = "spec.podGroupTemplates", some(spec, "podGroupTemplates")
    if not templates:
        yield FieldError.required(path)
    if len(templates) > MOST_TEMPLATES:
        yield FieldError.too_many(path, len(templates), MOST_TEMPLATES)
        return
    yield from check_unique(path, templates, "name")
    for index, template in enumerate(templates):
        if not template["name"]:
            yield FieldError.required(f"{path}[{index}].name")
        else:
            yield from check_name(names.dns_label, f"{path}[{index}].name", template["name"])
        yield from _check_policy(template["schedulingPolicy"], f"{path}[{index}].schedulingPolicy")


WORKLOAD = Rules(prepare=_prepare_workload, validate=_validate_workload, columns=(NAME, AGE))
