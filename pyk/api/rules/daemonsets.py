"""DaemonSets. Source: `ValidateDaemonSetSpec` of `pkg/apis/apps/validation/validation.go`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pyk.api.kinds import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import AGE, NAME, check_not_negative, differing_fields, set_default
from pyk.api.rules.pods_defaults import default_template
from pyk.api.rules.workloads import (
    TEMPLATE_COLUMNS,
    Document,
    check_at_most_all,
    check_collisions,
    check_count_or_percent,
    check_selector_and_template,
    count,
    is_none,
)
from pyk.api.selectors import format_selector, from_labels
from pyk.api.status import FieldError

TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"
_STRATEGIES = ("OnDelete", "RollingUpdate")


def _default(daemon_set: Object) -> None:
    spec = daemon_set["spec"]
    set_default(spec, "revisionHistoryLimit", 10)
    strategy = spec["updateStrategy"] = spec.get("updateStrategy") or {}
    strategy["type"] = strategy.get("type") or "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        set_default(strategy, "rollingUpdate", {})
        set_default(strategy["rollingUpdate"], "maxUnavailable", 1)
        set_default(strategy["rollingUpdate"], "maxSurge", 0)
    default_template(daemon_set)


def _count_templates(daemon_set: Object, old: Object | None) -> None:
    """The annotation that numbers the templates, which the oldest clients read."""
    annotations = dict(daemon_set["metadata"].get("annotations") or {})
    number = "1"
    if old is not None:
        number = (old["metadata"].get("annotations") or {}).get(TEMPLATE_GENERATION, "1")
        is_changed = any(differing_fields(daemon_set["spec"].get("template"), old["spec"].get("template"), ""))
        if is_changed and number.isdecimal():
            number = str(int(number) + 1)
    daemon_set["metadata"]["annotations"] = {**annotations, TEMPLATE_GENERATION: number}


def _validate(daemon_set: Object, old: Object | None) -> Iterable[FieldError]:
    spec = daemon_set["spec"]
    yield from check_selector_and_template(spec, None if old is None else old["spec"], "DaemonSet")
    yield from check_not_negative(spec, "spec", "minReadySeconds", "revisionHistoryLimit")
    yield from _check_strategy(spec["updateStrategy"])


def _check_strategy(strategy: Document) -> Iterator[FieldError]:
    where = "spec.updateStrategy"
    if strategy["type"] not in _STRATEGIES:
        yield FieldError.not_supported(where, strategy, _STRATEGIES)
        return
    if strategy["type"] == "OnDelete":
        return
    rolling = strategy["rollingUpdate"]
    where = f"{where}.rollingUpdate"
    unavailable, surge = rolling["maxUnavailable"], rolling["maxSurge"]
    yield from check_count_or_percent(unavailable, f"{where}.maxUnavailable")
    yield from check_count_or_percent(surge, f"{where}.maxSurge")
    yield from check_at_most_all(unavailable, f"{where}.maxUnavailable")
    yield from check_at_most_all(surge, f"{where}.maxSurge")
    if not is_none(unavailable) and not is_none(surge):
        yield FieldError.invalid(f"{where}.maxSurge", surge, "may not be set when maxUnavailable is non-zero")
    elif is_none(unavailable) and is_none(surge):
        yield FieldError.required(f"{where}.maxUnavailable", "cannot be 0 when maxSurge is 0")


_COUNTS = (
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
)


def _validate_status(daemon_set: Object, old: Object | None) -> Iterable[FieldError]:
    yield from check_not_negative(daemon_set.get("status") or {}, "status", *_COUNTS)
    yield from check_collisions(daemon_set, old)


def _node_selector(daemon_set: Object, now: float) -> str:
    selector = ((daemon_set["spec"].get("template") or {}).get("spec") or {}).get("nodeSelector")
    return format_selector(from_labels(selector)) or "<none>"


RULES = Rules(
    default=_default,
    validate=_validate,
    validate_status=_validate_status,
    prepare=_count_templates,
    columns=(
        NAME,
        Column("Desired", count("status", "desiredNumberScheduled"), kind="integer"),
        Column("Current", count("status", "currentNumberScheduled"), kind="integer"),
        Column("Ready", count("status", "numberReady"), kind="integer"),
        Column("Up-to-date", count("status", "updatedNumberScheduled"), kind="integer"),
        Column("Available", count("status", "numberAvailable"), kind="integer"),
        Column("Node Selector", _node_selector),
        AGE,
        *TEMPLATE_COLUMNS,
    ),
)
