"""Jobs: defaults, the selector that the server makes, checks of the spec, and columns.

Source: `pkg/apis/batch/validation/validation.go` and `pkg/registry/batch/job/strategy.go`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

from pyk.api import names
from pyk.api.duration import human_duration, seconds_of
from pyk.api.kinds import Column, Rules
from pyk.api.objects import Object, is_condition_true, is_deleting, labels_of, uid_of
from pyk.api.rules.common import (
    AGE,
    MAX_INT32,
    NAME,
    check_label_selector,
    check_not_negative,
    check_unchanged,
    differing_fields,
    set_default,
    some,
)
from pyk.api.rules.jobpolicies import check_failure_policy, check_success_policy
from pyk.api.rules.jobstatus import check_status
from pyk.api.rules.pods_defaults import default_template
from pyk.api.rules.pods_validation import check_template
from pyk.api.rules.workloads import TEMPLATE_COLUMNS, Document, check_labels_selected
from pyk.api.selectors import BadSelector, from_document, matches
from pyk.api.status import FieldError

JOB_NAME, CONTROLLER_UID = "batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid"
_OLD_JOB_NAME, _OLD_CONTROLLER_UID = "job-name", "controller-uid"
_REPLACEMENT = ("Failed", "TerminatingOrFailed")
_MOST_PARALLEL = _MOST_FAILED_INDEXES = 100_000
_MANY_COMPLETIONS, _LIMIT_FOR_MANY = 100_000, 10_000
_LONGEST_MANAGER = 63


def _default(job: Object) -> None:
    spec = job.setdefault("spec", {})
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = spec["parallelism"] = 1
    set_default(spec, "parallelism", 1)
    set_default(spec, "backoffLimit", 6 if spec.get("backoffLimitPerIndex") is None else MAX_INT32)
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
    if labels and not job["metadata"].get("labels"):
        job["metadata"]["labels"] = dict(labels)
    set_default(spec, "completionMode", "NonIndexed")
    set_default(spec, "suspend", False)
    set_default(spec, "manualSelector", False)
    set_default(spec, "podReplacementPolicy", "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed")
    default_policy(spec)
    default_template(job)


def default_policy(spec: Document) -> None:
    """Conditions of a pod failure policy are meant to hold."""
    for rule in some(spec.get("podFailurePolicy"), "rules"):
        for pattern in some(rule, "onPodConditions"):
            pattern["status"] = pattern.get("status") or "True"


def _prepare(job: Object, old: Object | None) -> None:
    """A new Job gets a selector of its own uid, and its pods the labels for it."""
    spec = job["spec"]
    if old is not None or spec.get("manualSelector"):
        return
    template = spec.setdefault("template", {})
    metadata = template["metadata"] = template.get("metadata") or {}
    own = metadata.get("labels") or {}
    follows = not labels_of(job) or labels_of(job) == own
    labels = metadata["labels"] = {**_generated_labels(job), **own}
    if follows:
        job["metadata"]["labels"] = dict(labels)
    selector = spec["selector"] = spec.get("selector") or {}
    selector["matchLabels"] = {CONTROLLER_UID: uid_of(job), **(selector.get("matchLabels") or {})}


def _generated_labels(job: Object) -> dict[str, str]:
    """The labels that tell a Job's pods from all others, under their old names and their new ones."""
    name, uid = job["metadata"].get("name") or "", uid_of(job)
    return {_OLD_JOB_NAME: name, JOB_NAME: name, _OLD_CONTROLLER_UID: uid, CONTROLLER_UID: uid}


def _validate(job: Object, old: Object | None) -> Iterable[FieldError]:
    spec = job["spec"]
    if not spec.get("manualSelector"):
        yield from _check_generated(job)
    yield from check_job_spec(spec, "spec")
    selector = spec.get("selector")
    if selector is None:
        yield FieldError.required("spec.selector")
    else:
        yield from check_label_selector(selector, "spec.selector")
        yield from check_labels_selected(selector, spec.get("template") or {})
    completions = spec.get("completions") or 0
    if spec["completionMode"] == "Indexed" and completions > 0:
        longest = f"{job['metadata'].get('name') or ''}-{completions - 1}"
        if names.dns_label(longest) is not None:
            detail = f"will not able to create pod with invalid DNS label: {longest}"
            yield FieldError.invalid("metadata.name", job["metadata"].get("name"), detail)
    if old is not None:
        yield from _check_update(job, old)


def _check_generated(job: Object) -> Iterator[FieldError]:
    expected = _generated_labels(job)
    labels = (((job["spec"].get("template") or {}).get("metadata") or {}).get("labels")) or {}
    for label, value in expected.items():
        where = f"spec.template.metadata.labels[{label}]"
        if label not in labels:
            yield FieldError.required(where, f"must be '{value}'")
        elif labels[label] != value:
            yield FieldError.invalid(where, labels, f"must be '{value}'")
    try:
        requirements = from_document(job["spec"].get("selector"))
    except BadSelector:
        return  # reported by the selector's own check
    if requirements is not None and not matches(requirements, expected):
        yield FieldError.invalid("spec.selector", job["spec"]["selector"], "`selector` not auto-generated")


_COUNTS = (
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
)


def check_job_spec(spec: Document, path: str) -> Iterator[FieldError]:
    """The spec at `path`, of a Job or of a CronJob's template; the selector aside."""
    yield from check_not_negative(spec, path, *_COUNTS)
    if spec.get("maxFailedIndexes") is not None and spec.get("backoffLimitPerIndex") is None:
        yield FieldError.required(f"{path}.backoffLimitPerIndex", "when maxFailedIndexes is specified")
    manager = spec.get("managedBy")
    if manager is not None:
        yield from _check_manager(manager, f"{path}.managedBy")
    mode = spec.get("completionMode") or "NonIndexed"
    if mode not in ("NonIndexed", "Indexed"):
        yield FieldError.not_supported(f"{path}.completionMode", mode, ("NonIndexed", "Indexed"))
    elif mode == "Indexed":
        yield from _check_indexed(spec, path)
    else:
        for field in ("backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"):
            if spec.get(field) is not None:
                yield FieldError.invalid(f"{path}.{field}", spec[field], "requires indexed completion mode")
    if spec.get("podFailurePolicy") is not None:
        yield from check_failure_policy(spec, f"{path}.podFailurePolicy")
    if spec.get("successPolicy") is not None and mode == "Indexed":
        yield from check_success_policy(spec, f"{path}.successPolicy")
    replacement = spec.get("podReplacementPolicy")
    allowed = ("Failed",) if spec.get("podFailurePolicy") is not None else _REPLACEMENT
    if replacement is not None and replacement not in allowed:
        yield FieldError.not_supported(f"{path}.podReplacementPolicy", replacement, allowed)
    yield from check_template(spec.get("template") or {}, f"{path}.template")
    yield from _check_restart_policy(spec, f"{path}.template.spec.restartPolicy")


def _check_manager(manager: str, path: str) -> Iterator[FieldError]:
    domain, slash, rest = manager.partition("/")
    if not slash or not domain or not rest:
        yield FieldError.invalid(path, manager, 'must be a domain-prefixed path (such as "acme.io/foo")')
    elif (problem := names.dns_subdomain(domain)) is not None:
        yield FieldError.invalid(path, domain, problem)
    if len(manager) > _LONGEST_MANAGER:
        yield FieldError.too_long(path, f"may not be more than {_LONGEST_MANAGER} bytes")


def _check_indexed(spec: Document, path: str) -> Iterator[FieldError]:
    completions, parallelism, most = (spec.get(key) for key in ("completions", "parallelism", "maxFailedIndexes"))
    if completions is None:
        yield FieldError.required(f"{path}.completions", "when completion mode is Indexed")
    if parallelism is not None and parallelism > _MOST_PARALLEL:
        detail = f"must be less than or equal to {_MOST_PARALLEL} when completion mode is Indexed"
        yield FieldError.invalid(f"{path}.parallelism", parallelism, detail)
    if completions is not None and most is not None and most > completions:
        yield FieldError.invalid(f"{path}.maxFailedIndexes", most, "must be less than or equal to completions")
    if most is not None and most > _MOST_FAILED_INDEXES:
        detail = f"must be less than or equal to {_MOST_FAILED_INDEXES}"
        yield FieldError.invalid(f"{path}.maxFailedIndexes", most, detail)
    if (completions or 0) <= _MANY_COMPLETIONS or spec.get("backoffLimitPerIndex") is None:
        return
    if most is None:
        detail = f"must be specified when completions is above {_MANY_COMPLETIONS}"
        yield FieldError.required(f"{path}.maxFailedIndexes", detail)
    for field in ("parallelism", "maxFailedIndexes"):
        if (spec.get(field) or 0) > _LIMIT_FOR_MANY:
            detail = (
                f"must be less than or equal to {_LIMIT_FOR_MANY} when completions are above {_MANY_COMPLETIONS} "
                "and used with backoff limit per index"
            )
            yield FieldError.invalid(f"{path}.{field}", spec[field], detail)


def _check_restart_policy(spec: Document, path: str) -> Iterator[FieldError]:
    policy = ((spec.get("template") or {}).get("spec") or {}).get("restartPolicy") or "Always"
    if policy == "Always":
        yield FieldError.required(path, 'valid values: "OnFailure", "Never"')
    elif policy == "OnFailure" and spec.get("podFailurePolicy") is not None:
        detail = 'only "Never" is supported when podFailurePolicy is specified'
        yield FieldError.invalid(path, policy, detail)


def _check_update(job: Object, old: Object) -> Iterator[FieldError]:
    spec, before = job["spec"], old["spec"]
    if spec.get("completions") != before.get("completions"):
        where = "spec.completions"
        if spec["completionMode"] != "Indexed":
            yield from check_unchanged(where, spec.get("completions"), before.get("completions"))
        elif spec.get("completions") is not None and spec["completions"] != spec["parallelism"]:
            detail = "can only be modified in tandem with spec.parallelism"
            yield FieldError.invalid(where, spec["completions"], detail)
    fixed = (
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    )
    for field in fixed:
        yield from check_unchanged(f"spec.{field}", spec.get(field), before.get(field))
    template = spec.get("template") or {}
    if any(differing_fields(template, _with_what_may_change(template, old), "")):
        yield FieldError.invalid("spec.template", template, "field is immutable")


_SCHEDULING = ("nodeSelector", "tolerations", "schedulingGates")


def _with_what_may_change(template: Document, old: Object) -> Document:
    """The old template, with what a suspended Job without pods may change taken over from the new one."""
    allowed: Document = copy.deepcopy(old["spec"]["template"])
    if not old["spec"].get("suspend") or ((old.get("status") or {}).get("active") or 0) > 0:
        return allowed
    metadata, spec, new = allowed.setdefault("metadata", {}), allowed["spec"], template.get("spec") or {}
    for field in ("annotations", "labels"):
        metadata[field] = (template.get("metadata") or {}).get(field)
    for field in _SCHEDULING:
        spec[field] = new.get(field)
    affinity = {**(spec.get("affinity") or {}), "nodeAffinity": (new.get("affinity") or {}).get("nodeAffinity")}
    spec["affinity"] = {kind: rules for kind, rules in affinity.items() if rules is not None}
    for field in ("initContainers", "containers"):
        given = {container["name"]: container for container in some(new, field)}
        for container in some(spec, field):
            container["resources"] = (given.get(container["name"]) or {}).get("resources")
    return allowed


def _status_word(job: Object, now: float) -> str:
    for condition, word in (("Complete", "Complete"), ("Failed", "Failed")):
        if is_condition_true(job, condition):
            return word
    if is_deleting(job):
        return "Terminating"
    for condition in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if is_condition_true(job, condition):
            return condition
    return "Running"


def _completions(job: Object, now: float) -> str:
    spec, succeeded = job["spec"], (job.get("status") or {}).get("succeeded") or 0
    if spec.get("completions") is not None:
        return f"{succeeded}/{spec['completions']}"
    parallelism = spec.get("parallelism") or 0
    return f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"


def _duration(job: Object, now: float) -> str:
    status = job.get("status") or {}
    if not status.get("startTime"):
        return ""
    end = seconds_of(status["completionTime"]) if status.get("completionTime") else now
    return human_duration(end - seconds_of(status["startTime"]))


RULES = Rules(
    default=_default,
    validate=_validate,
    validate_status=check_status,
    prepare=_prepare,
    columns=(
        NAME,
        Column("Status", _status_word, description="Status of the job."),
        Column("Completions", _completions),
        Column("Duration", _duration, description="Time required to complete the job."),
        AGE,
        *TEMPLATE_COLUMNS,
    ),
    fields={"status.successful": lambda job: str((job.get("status") or {}).get("succeeded") or 0)},
)
