"""What the workloads have in common: a selector, a pod template, replica counts, columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pyk.api.kinds import Column
from pyk.api.objects import Object
from pyk.api.rules.common import AT_LEAST_ZERO, check_label_selector, check_not_negative, check_unchanged, some
from pyk.api.rules.pods_validation import check_lasting_template
from pyk.api.selectors import BadSelector, format_selector, from_document, matches
from pyk.api.status import FieldError

Document = dict[str, Any]

_PERCENT = re.compile(r"[0-9]+%\Z")


def check_selector_and_template(spec: Document, old: Document | None, kind: str) -> Iterator[FieldError]:
    """The selector is right, selects something, never changes, and selects the pods of the template."""
    owner = "ReplicaSet" if kind == "Deployment" else kind
    yield from check_selector(spec, old, "deployment" if kind == "ReplicaSet" else kind.lower())
    template = spec.get("template")
    if template is None:
        yield FieldError.required("spec.template")
        return
    yield from check_labels_selected(spec.get("selector"), template)
    yield from check_lasting_template(template, "spec.template", owner)


def check_selector(spec: Document, old: Document | None, kind: str) -> Iterator[FieldError]:
    """The selector is right, selects something, and is what it was."""
    selector = spec.get("selector")
    if selector is None:
        yield FieldError.required("spec.selector")
    else:
        yield from check_label_selector(selector, "spec.selector")
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            yield FieldError.invalid("spec.selector", selector, f"empty selector is invalid for {kind}")
    if old is not None:
        yield from check_unchanged("spec.selector", selector, old.get("selector"))


def check_labels_selected(selector: Document | None, template: Document) -> Iterator[FieldError]:
    """The template's pods are those that the selector selects."""
    labels = (template.get("metadata") or {}).get("labels") or {}
    if _is_mismatch(selector, labels):
        detail = "`selector` does not match template `labels`"
        yield FieldError.invalid("spec.template.metadata.labels", labels, detail)


def _is_mismatch(selector: Document | None, labels: dict[str, str]) -> bool:
    if selector is None:
        return True  # it selects nothing
    try:
        requirements = from_document(selector)
    except BadSelector:
        return False  # reported by the selector's own check
    return bool(requirements) and not matches(requirements or (), labels)


def check_status_counts(status: Document, *fields: str) -> Iterator[FieldError]:
    """Counts are not negative, and of `replicas` no more are ready, available or up to date than there are."""
    yield from check_not_negative(status, "status", "replicas", "observedGeneration", *fields)
    replicas, ready = status.get("replicas") or 0, status.get("readyReplicas") or 0
    for field in fields:
        if field != "unavailableReplicas" and (status.get(field) or 0) > replicas:
            yield FieldError.invalid(f"status.{field}", status[field], "cannot be greater than status.replicas")
    if (status.get("availableReplicas") or 0) > ready:
        detail = "cannot be greater than readyReplicas"
        yield FieldError.invalid("status.availableReplicas", status["availableReplicas"], detail)


def check_count_or_percent(value: int | str, path: str) -> Iterator[FieldError]:
    """A count that is not negative, or a share such as `25%`."""
    if isinstance(value, int):
        if value < 0:
            yield FieldError.invalid(path, value, AT_LEAST_ZERO)
    elif _PERCENT.match(value) is None:
        detail = (
            "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', "
            "regex used for validation is '[0-9]+%')"
        )
        yield FieldError.invalid(path, value, detail)


def check_at_most_all(value: int | str, path: str) -> Iterator[FieldError]:
    """A share, when it is one, is at most 100%."""
    if isinstance(value, str) and _PERCENT.match(value) and int(value[:-1]) > 100:
        yield FieldError.invalid(path, value, "must not be greater than 100%")


def check_collisions(obj: Object, old: Object | None) -> Iterator[FieldError]:
    """`status.collisionCount` never goes down."""
    now = (obj.get("status") or {}).get("collisionCount")
    before = ((old or {}).get("status") or {}).get("collisionCount")
    yield from check_not_negative(obj.get("status") or {}, "status", "collisionCount")
    if before is not None and (now or 0) < before:
        yield FieldError.invalid("status.collisionCount", now, "cannot be decremented")


def is_none(value: int | str | None) -> bool:
    """Whether a count or share comes to nothing: 0, `0%`."""
    return value is None or value == 0 or (isinstance(value, str) and value.rstrip("%").strip("0") == "")


def count(section: str, field: str) -> Any:
    """A cell with an integer of the spec or status."""
    return lambda obj, now: (obj.get(section) or {}).get(field) or 0


def _containers(obj: Object) -> list[Document]:
    template = (obj.get("spec") or {}).get("template") or {}
    return some(template.get("spec"), "containers")


def _selector(obj: Object, now: float) -> str:
    try:
        requirements = from_document((obj.get("spec") or {}).get("selector"))
    except BadSelector:
        return "<error>"
    return format_selector(requirements) if requirements else "<none>"


TEMPLATE_COLUMNS = (
    Column(
        "Containers",
        lambda obj, now: ",".join(container["name"] for container in _containers(obj)),
        priority=1,
        description="Names of each container in the template.",
    ),
    Column(
        "Images",
        lambda obj, now: ",".join(container.get("image") or "" for container in _containers(obj)),
        priority=1,
        description="Images referenced by each container in the template.",
    ),
    Column("Selector", _selector, priority=1),
)
