"""Namespaces: their phase, their finalizer, and the label that selectors find them by."""

from __future__ import annotations

from collections.abc import Iterable

from pyk.api.kinds import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import AGE, NAME
from pyk.api.status import FieldError

NAME_LABEL = "kubernetes.io/metadata.name"


def _prepare(namespace: Object, old: Object | None) -> None:
    metadata = namespace["metadata"]
    if name := metadata.get("name"):  # one without a name is refused by the checks that follow
        metadata["labels"] = (metadata.get("labels") or {}) | {NAME_LABEL: name}
    spec = namespace.get("spec") or {}
    if old is None:
        finalizers = spec.get("finalizers") or []
        spec["finalizers"] = [*finalizers, *({"kubernetes"} - set(finalizers))]
        namespace["status"] = {"phase": "Active"}
    else:
        # Only the `finalize` subresource changes the finalizers of the spec.
        spec["finalizers"] = (old.get("spec") or {}).get("finalizers") or []
    namespace["spec"] = spec


def _validate_status(namespace: Object, old: Object | None) -> Iterable[FieldError]:
    phase = (namespace.get("status") or {}).get("phase") or "Active"
    expected = "Terminating" if namespace["metadata"].get("deletionTimestamp") else "Active"
    if phase != expected:
        reason = "is not empty" if expected == "Terminating" else "is empty"
        yield FieldError.invalid("status.Phase", phase, f"may only be '{expected}' if `deletionTimestamp` {reason}")


def _phase(namespace: Object) -> str:
    return str((namespace.get("status") or {}).get("phase") or "")


RULES = Rules(
    prepare=_prepare,
    validate_status=_validate_status,
    columns=(NAME, Column("Status", lambda namespace, now: _phase(namespace)), AGE),
    fields={"status.phase": _phase},
)
