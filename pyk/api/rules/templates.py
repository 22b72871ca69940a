"""PodTemplates and ControllerRevisions: what other objects are made from, kept by itself."""

from __future__ import annotations

from collections.abc import Iterable

from pyk.api.kind import Column, Rules
from pyk.api.objects import Object, controller_of
from pyk.api.rules.common import AGE, NAME, check_annotations, check_labels, check_not_negative, check_unchanged, some
from pyk.api.rules.pods_defaults import default_pod_spec
from pyk.api.rules.pods_validation import check_pod_spec
from pyk.api.selectors import format_selector, from_labels
from pyk.api.status import FieldError


def _default_template(template: Object) -> None:
    spec = (template.get("template") or {}).get("spec")
    if spec is not None:
        default_pod_spec(spec)


def _validate_template(obj: Object, old: Object | None) -> Iterable[FieldError]:
    template = obj.get("template") or {}
    metadata = template.get("metadata") or {}
    yield from check_labels(metadata.get("labels"), "template.labels")
    yield from check_annotations(metadata.get("annotations"), "template.annotations")
    yield from check_pod_spec(template.get("spec") or {}, "template.spec")


def _containers(obj: Object) -> list[Object]:
    return some((obj.get("template") or {}).get("spec"), "containers")


def _pod_labels(obj: Object, now: float) -> str:
    labels = ((obj.get("template") or {}).get("metadata") or {}).get("labels")
    return format_selector(from_labels(labels)) or "<none>"


POD_TEMPLATE = Rules(
    default=_default_template,
    validate=_validate_template,
    columns=(
        NAME,
        Column("Containers", lambda obj, now: ",".join(each["name"] for each in _containers(obj))),
        Column("Images", lambda obj, now: ",".join(each.get("image") or "" for each in _containers(obj))),
        Column("Pod Labels", _pod_labels),
    ),
)


def _validate_revision(revision: Object, old: Object | None) -> Iterable[FieldError]:
    if old is not None:
        yield from check_unchanged("data", revision.get("data"), old.get("data"))
    elif revision.get("data") is None:
        yield FieldError.required("data", "data is mandatory")
    yield from check_not_negative(revision, "", "revision")


def _controller(revision: Object, now: float) -> str:
    controller = controller_of(revision)
    if controller is None:
        return "<none>"
    group = controller["apiVersion"].rpartition("/")[0]
    return f"{controller['kind'].lower()}{'.' if group else ''}{group}/{controller['name']}"


CONTROLLER_REVISION = Rules(
    validate=_validate_revision,
    columns=(
        NAME,
        Column("Controller", _controller, description="Controller of the object"),
        Column("Revision", lambda revision, now: revision.get("revision") or 0),
        AGE,
    ),
)
