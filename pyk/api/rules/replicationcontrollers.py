"""ReplicationControllers. Source: `ValidateReplicationController` of `pkg/apis/core/validation/validation.go`."""

from __future__ import annotations

from collections.abc import Iterable

from pyk.api.kinds import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import AGE, NAME, check_labels, check_not_negative, set_default
from pyk.api.rules.pods_defaults import default_template
from pyk.api.rules.pods_validation import check_lasting_template
from pyk.api.rules.workloads import TEMPLATE_COLUMNS, check_status_counts, count
from pyk.api.selectors import format_selector, from_labels
from pyk.api.status import FieldError


def _default(controller: Object) -> None:
    spec = controller.setdefault("spec", {})
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
    if labels:
        if not spec.get("selector"):
            spec["selector"] = dict(labels)
        if not controller["metadata"].get("labels"):
            controller["metadata"]["labels"] = dict(labels)
    set_default(spec, "replicas", 1)
    default_template(controller)


def _validate(controller: Object, old: Object | None) -> Iterable[FieldError]:
    spec = controller["spec"]
    yield from check_not_negative(spec, "spec", "minReadySeconds", "replicas")
    selector = spec.get("selector") or {}
    if not selector:
        yield FieldError.required("spec.selector")
    yield from check_labels(selector, "spec.selector")
    template = spec.get("template")
    if template is None:
        yield FieldError.required("spec.template")
        return
    labels = (template.get("metadata") or {}).get("labels") or {}
    if not selector.items() <= labels.items():
        detail = "`selector` does not match template `labels`"
        yield FieldError.invalid("spec.template.metadata.labels", labels, detail)
    yield from check_lasting_template(template, "spec.template", "ReplicationController")


def _validate_status(controller: Object, old: Object | None) -> Iterable[FieldError]:
    counts = ("fullyLabeledReplicas", "readyReplicas", "availableReplicas")
    yield from check_status_counts(controller.get("status") or {}, *counts)


def _selector(controller: Object, now: float) -> str:
    return format_selector(from_labels(controller["spec"].get("selector"))) or "<none>"


RULES = Rules(
    default=_default,
    validate=_validate,
    validate_status=_validate_status,
    columns=(
        NAME,
        Column("Desired", count("spec", "replicas"), kind="integer"),
        Column("Current", count("status", "replicas"), kind="integer"),
        Column("Ready", count("status", "readyReplicas"), kind="integer"),
        AGE,
        *TEMPLATE_COLUMNS[:2],
        Column("Selector", _selector, priority=1),
    ),
    fields={"status.replicas": lambda controller: str((controller.get("status") or {}).get("replicas") or 0)},
)
