"""Leases: heartbeats of nodes and locks of leaders."""

from __future__ import annotations

from collections.abc import Iterable

from pyk.api.kinds import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import AGE, NAME, check_not_negative
from pyk.api.status import FieldError


def _validate(lease: Object, old: Object | None) -> Iterable[FieldError]:
    spec = lease.get("spec") or {}
    duration = spec.get("leaseDurationSeconds")
    if duration is not None and duration <= 0:
        yield FieldError.invalid("spec.leaseDurationSeconds", duration, "must be greater than 0")
    yield from check_not_negative(spec, "spec", "leaseTransitions")
    if spec.get("preferredHolder") and not spec.get("strategy"):
        yield FieldError.forbidden("spec.preferredHolder", "may only be specified when `strategy` is defined")


RULES = Rules(
    validate=_validate,
    columns=(
        NAME,
        Column("Holder", lambda lease, now: (lease.get("spec") or {}).get("holderIdentity") or ""),
        AGE,
    ),
)
