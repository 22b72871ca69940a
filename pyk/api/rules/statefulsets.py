"""StatefulSets. Source: `ValidateStatefulSetSpec` and its update in `pkg/apis/apps/validation/validation.go`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pyk.api import names
from pyk.api.kinds import PERSISTENT_VOLUME_CLAIM, Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import (
    AGE,
    NAME,
    check_not_negative,
    check_optional_name,
    check_required,
    differing_fields,
    set_default,
    some,
)
from pyk.api.rules.pods_defaults import default_template
from pyk.api.rules.pods_validation import check_lasting_template
from pyk.api.rules.workloads import (
    TEMPLATE_COLUMNS,
    Document,
    check_at_most_all,
    check_collisions,
    check_count_or_percent,
    check_labels_selected,
    check_selector,
    is_none,
)
from pyk.api.status import FieldError

_MUTABLE = (
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)
_RETENTION = ("Delete", "Retain")


def _default(stateful_set: Object) -> None:
    spec = stateful_set["spec"]
    spec["podManagementPolicy"] = spec.get("podManagementPolicy") or "OrderedReady"
    strategy = spec["updateStrategy"] = spec.get("updateStrategy") or {}
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
        set_default(strategy, "rollingUpdate", {})
    if strategy["type"] == "RollingUpdate" and strategy.get("rollingUpdate") is not None:
        set_default(strategy["rollingUpdate"], "partition", 0)
    retention = spec["persistentVolumeClaimRetentionPolicy"] = spec.get("persistentVolumeClaimRetentionPolicy") or {}
    for event in ("whenDeleted", "whenScaled"):
        retention[event] = retention.get(event) or "Retain"
    set_default(spec, "replicas", 1)
    set_default(spec, "revisionHistoryLimit", 10)
    set_default(spec, "serviceName", "")
    default_template(stateful_set)
    for claim in some(spec, "volumeClaimTemplates"):
        claim["apiVersion"], claim["kind"] = PERSISTENT_VOLUME_CLAIM.api_version, PERSISTENT_VOLUME_CLAIM.kind
        set_default(claim, "metadata", {})
        PERSISTENT_VOLUME_CLAIM.rules.default(claim)
        claim["status"] = {**(claim.get("status") or {}), "phase": "Pending"}


def _validate(stateful_set: Object, old: Object | None) -> Iterable[FieldError]:
    spec = stateful_set["spec"]
    if old is None:
        yield from check_optional_name(names.dns_label, "spec.serviceName", spec.get("serviceName"))
        yield from _check_claims(spec)
    else:
        fixed, before = ({k: v for k, v in each["spec"].items() if k not in _MUTABLE} for each in (stateful_set, old))
        if any(differing_fields(fixed, before, "")):
            listed = ", ".join(f"'{field}'" for field in _MUTABLE[:-1])
            detail = f"updates to statefulset spec for fields other than {listed} and '{_MUTABLE[-1]}' are forbidden"
            yield FieldError.forbidden("spec", detail)
    policy = spec["podManagementPolicy"]
    if policy not in ("OrderedReady", "Parallel"):
        yield FieldError.invalid("spec.podManagementPolicy", policy, "must be 'OrderedReady' or 'Parallel'")
    yield from _check_strategy(spec["updateStrategy"])
    for event, choice in spec["persistentVolumeClaimRetentionPolicy"].items():
        if choice not in _RETENTION:
            where = f"spec.persistentVolumeClaimRetentionPolicy.{event}"
            yield FieldError.not_supported(where, choice, _RETENTION)
    yield from check_not_negative(spec, "spec", "replicas", "minReadySeconds", "revisionHistoryLimit")
    yield from check_not_negative(spec.get("ordinals") or {}, "spec.ordinals", "start")
    yield from check_selector(spec, None, "statefulset")
    yield from check_labels_selected(spec.get("selector"), spec.get("template") or {})
    yield from check_lasting_template(_with_claims(spec), "spec.template", "StatefulSet")


def _with_claims(spec: Document) -> Document:
    """The template with a volume for each claim template, as its pods will have it."""
    template = spec.get("template") or {}
    pod_spec = template.get("spec")
    claims = [(claim.get("metadata") or {}).get("name") or "" for claim in some(spec, "volumeClaimTemplates")]
    if pod_spec is None or not claims:
        return dict(template)
    own = [volume for volume in some(pod_spec, "volumes") if volume["name"] not in claims]
    mounted = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims if name]
    return {**template, "spec": {**pod_spec, "volumes": [*own, *mounted]}}


def _check_claims(spec: Document) -> Iterator[FieldError]:
    for index, claim in enumerate(some(spec, "volumeClaimTemplates")):
        where = f"spec.volumeClaimTemplates[{index}]"
        yield from check_required(claim.get("metadata") or {}, f"{where}.metadata", "name")
        for error in PERSISTENT_VOLUME_CLAIM.rules.validate(claim, None):
            yield FieldError(f"{where}.{error.field}", error.reason, error.message)


def _check_strategy(strategy: Document) -> Iterator[FieldError]:
    where = "spec.updateStrategy"
    rolling = strategy.get("rollingUpdate")
    match strategy["type"]:
        case "OnDelete":
            if rolling is not None:
                detail = "only allowed for updateStrategy 'RollingUpdate'"
                yield FieldError.invalid(f"{where}.rollingUpdate", rolling, detail)
        case "RollingUpdate":
            yield from check_not_negative(rolling or {}, f"{where}.rollingUpdate", "partition")
            unavailable = (rolling or {}).get("maxUnavailable")
            if unavailable is not None:
                yield from check_count_or_percent(unavailable, f"{where}.rollingUpdate.maxUnavailable")
                yield from check_at_most_all(unavailable, f"{where}.rollingUpdate.maxUnavailable")
                if is_none(unavailable):
                    yield FieldError.invalid(f"{where}.rollingUpdate.maxUnavailable", unavailable, "cannot be 0")
        case _:
            yield FieldError.invalid(where, strategy, "must be 'RollingUpdate' or 'OnDelete'")


_COUNTS = ("readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas")


def _validate_status(stateful_set: Object, old: Object | None) -> Iterable[FieldError]:
    status = stateful_set.get("status") or {}
    yield from check_not_negative(status, "status", "replicas", "observedGeneration", *_COUNTS)
    yield from check_collisions(stateful_set, old)
    for field in _COUNTS:
        if (status.get(field) or 0) > (status.get("replicas") or 0):
            yield FieldError.invalid(f"status.{field}", status[field], "cannot be greater than status.replicas")
    if (status.get("availableReplicas") or 0) > (status.get("readyReplicas") or 0):
        detail = "cannot be greater than status.readyReplicas"
        yield FieldError.invalid("status.availableReplicas", status["availableReplicas"], detail)


def _ready(stateful_set: Object, now: float) -> str:
    ready = (stateful_set.get("status") or {}).get("readyReplicas") or 0
    return f"{ready}/{stateful_set['spec'].get('replicas') or 0}"


RULES = Rules(
    default=_default,
    validate=_validate,
    validate_status=_validate_status,
    columns=(
        NAME,
        Column("Ready", _ready, description="Number of the pod with ready state"),
        AGE,
        *TEMPLATE_COLUMNS[:2],
    ),
)
