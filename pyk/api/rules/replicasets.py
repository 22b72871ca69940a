"""ReplicaSets."""

from __future__ import annotations

from collections.abc import Iterable

from pyk.api.kinds import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import AGE, NAME, check_not_negative, set_default
from pyk.api.rules.pods_defaults import default_template
from pyk.api.rules.workloads import TEMPLATE_COLUMNS, check_selector_and_template, check_status_counts, count
from pyk.api.status import FieldError


def _default(replica_set: Object) -> None:
    set_default(replica_set["spec"], "replicas", 1)
    default_template(replica_set)


def _validate(replica_set: Object, old: Object | None) -> Iterable[FieldError]:
    spec = replica_set["spec"]
    yield from check_not_negative(spec, "spec", "replicas", "minReadySeconds")
    yield from check_selector_and_template(spec, None if old is None else old["spec"], "ReplicaSet")


def _validate_status(replica_set: Object, old: Object | None) -> Iterable[FieldError]:
    counts = ("fullyLabeledReplicas", "readyReplicas", "availableReplicas")
    yield from check_status_counts(replica_set.get("status") or {}, *counts)


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
        *TEMPLATE_COLUMNS,
    ),
    fields={"status.replicas": lambda replica_set: str((replica_set.get("status") or {}).get("replicas") or 0)},
)
