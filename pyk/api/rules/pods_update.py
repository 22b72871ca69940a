"""What may change in a pod once it is there.

Source: `ValidatePodUpdate` and `ValidatePodStatusUpdate` of `pkg/apis/core/validation/validation.go`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pyk.api.objects import Object, annotations_of
from pyk.api.rules.common import IMMUTABLE, MAX_INT32, differing_fields, some
from pyk.api.rules.pods_validation import MIRROR
from pyk.api.rules.scheduling_validation import check_tolerations
from pyk.api.status import FieldError

Document = dict[str, Any]

_ONLY = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
_SHOWN_DIFFERENCES = 8
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_TERM_FIELDS = ("matchExpressions", "matchFields")


def check_pod_update(pod: Object, old: Object) -> Iterator[FieldError]:
    """A write of the main resource: images, the deadline, tolerations and scheduling gates may change.

    Of a pod that is still gated what selects its node may become narrower.
    """
    new_spec, old_spec = pod.get("spec") or {}, old.get("spec") or {}
    if annotations_of(pod).get(MIRROR) != annotations_of(old).get(MIRROR):
        yield FieldError.forbidden(f"metadata.annotations[{MIRROR}]", "may not remove or update mirror pod annotation")
    for field in ("containers", "initContainers"):
        if len(some(new_spec, field)) != len(some(old_spec, field)):
            yield FieldError.forbidden(f"spec.{field}", "pod updates may not add or remove containers")
            return
        for index, container in enumerate(some(new_spec, field)):
            image = container.get("image") or ""
            if not image:
                yield FieldError.required(f"spec.{field}[{index}].image")
            elif image != image.strip():
                detail = "must not have leading or trailing whitespace"
                yield FieldError.invalid(f"spec.{field}[{index}].image", image, detail)
    if len(some(new_spec, "ephemeralContainers")) != len(some(old_spec, "ephemeralContainers")):
        yield FieldError.forbidden("spec.ephemeralContainers", "pod updates may not add or remove containers")
        return
    yield from _check_deadline(new_spec.get("activeDeadlineSeconds"), old_spec.get("activeDeadlineSeconds"))
    old_gates = {gate["name"] for gate in some(old_spec, "schedulingGates")}
    for gate in some(new_spec, "schedulingGates"):
        if gate["name"] not in old_gates:
            detail = f"only deletion is allowed, but found new scheduling gate '{gate['name']}'"
            yield FieldError.forbidden("spec.schedulingGates", detail)
    yield from _check_tolerations(some(new_spec, "tolerations"), some(old_spec, "tolerations"))
    yield from check_tolerations(some(new_spec, "tolerations"), "spec.tolerations")
    fixed, before = _fixed(new_spec), _fixed(old_spec)
    if old_gates:
        yield from _check_narrower(new_spec, old_spec)
        for spec in (fixed, before):
            _forget_node_choice(spec)
    changes = list(differing_fields(fixed, before, "spec")) if fixed != before else []
    if changes:
        lines = [
            f"  {path}: {_shown(_at(old, path))} -> {_shown(_at(pod, path))}" for path in changes[:_SHOWN_DIFFERENCES]
        ]
        if len(changes) > _SHOWN_DIFFERENCES:
            lines.append(f"  and {len(changes) - _SHOWN_DIFFERENCES} more")
        yield FieldError.forbidden("spec", "\n".join([_ONLY, *lines]))


def _check_narrower(new: Document, old: Document) -> Iterator[FieldError]:
    """Nodes may only be excluded: the scheduler has not looked at the pod yet, but who made it meant these nodes."""
    selector = new.get("nodeSelector") or {}
    if (old.get("nodeSelector") or {}).items() - selector.items():
        detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)"
        yield FieldError.invalid("spec.nodeSelector", selector, detail)
    before, terms = _required_terms(old), _required_terms(new)
    if not before:
        return
    where = f"spec.affinity.nodeAffinity.{_REQUIRED}.nodeSelectorTerms"
    if len(terms) != len(before):
        yield FieldError.invalid(where, terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")
        return
    for index, (term, was) in enumerate(zip(terms, before, strict=True)):
        is_longer = all(each in some(term, field) for field in _TERM_FIELDS for each in some(was, field))
        if not is_longer or (term != was and not any(some(was, field) for field in _TERM_FIELDS)):
            detail = "only additions are allowed (no mutations or deletions)"
            yield FieldError.invalid(f"{where}[{index}]", term, detail)


def _required_terms(spec: Document) -> list[Document]:
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    return some(affinity.get(_REQUIRED), "nodeSelectorTerms")


def _forget_node_choice(spec: Document) -> None:
    spec.pop("nodeSelector", None)
    affinity = {name: value for name, value in (spec.pop("affinity", None) or {}).items() if name != "nodeAffinity"}
    if affinity:
        spec["affinity"] = affinity


def _check_deadline(new: int | None, old: int | None) -> Iterator[FieldError]:
    where = "spec.activeDeadlineSeconds"
    if new is not None:
        if not 0 <= new <= MAX_INT32:
            yield FieldError.invalid(where, new, f"must be between 0 and {MAX_INT32}, inclusive")
        elif old is not None and old < new:
            yield FieldError.invalid(where, new, "must be less than or equal to previous value")
    elif old is not None:
        yield FieldError.invalid(where, None, "must not update from a positive integer to nil value")


def _check_tolerations(new: list[Document], old: list[Document]) -> Iterator[FieldError]:
    kept = [{**toleration, "tolerationSeconds": None} for toleration in new]
    for toleration in old:
        if {**toleration, "tolerationSeconds": None} not in kept:
            detail = "existing toleration can not be modified except its tolerationSeconds"
            yield FieldError.forbidden("spec.tolerations", detail)
            return


def _fixed(spec: Document) -> Document:
    """The spec without what may change."""
    fixed = {
        field: value
        for field, value in spec.items()
        if field not in ("activeDeadlineSeconds", "tolerations", "schedulingGates")
    }
    for field in ("containers", "initContainers"):
        if some(spec, field):
            fixed[field] = [{**container, "image": ""} for container in spec[field]]
    return fixed


def _at(document: Any, path: str) -> Any:
    """The value at a path of `differing_fields`; None when there is none."""
    for part in path.replace("[", ".[").split("."):
        if document is None:
            return None
        document = document[int(part[1:-1])] if part.startswith("[") else document.get(part)
    return document


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def check_pod_status(pod: Object, old: Object | None) -> Iterator[FieldError]:
    """A write of the status: containers do not come back from the dead where the restart policy forbids it."""
    if old is None:
        return
    status, old_status = pod.get("status") or {}, old.get("status") or {}
    if old_status.get("qosClass") and status.get("qosClass") not in (None, "", old_status["qosClass"]):
        yield FieldError.invalid("status.qosClass", status["qosClass"], IMMUTABLE)
    spec = old.get("spec") or {}
    for index, gate in enumerate(some(status, "conditions")):
        if not gate.get("type"):
            yield FieldError.required(f"status.conditions[{index}].type")
    yield from _check_states(spec, some(old_status, "containerStatuses"), some(status, "containerStatuses"))


def _check_states(spec: Document, before: list[Document], now: list[Document]) -> Iterator[FieldError]:
    policy = spec.get("restartPolicy")
    everyone = [*some(spec, "containers"), *some(spec, "initContainers")]
    rules = [rule for container in everyone for rule in some(container, "restartPolicyRules")]
    if policy not in ("Never", "OnFailure") or any(rule.get("action") == "RestartAllContainers" for rule in rules):
        return
    ended = {each["name"]: (each.get("state") or {}).get("terminated") for each in before}
    containers = {container["name"]: container for container in some(spec, "containers")}
    for index, current in enumerate(now):
        container, previous = containers.get(current["name"]) or {}, ended.get(current["name"])
        if previous is None or _restarts(container, str(policy), int(previous.get("exitCode") or 0)):
            continue
        if not (current.get("state") or {}).get("terminated"):
            detail = "may not be transitioned to non-terminated state"
            yield FieldError.forbidden(f"status.containerStatuses[{index}].state", detail)


def _restarts(container: Document, policy: str, exit_code: int) -> bool:
    """Whether a container that ended so may be started again."""
    for rule in some(container, "restartPolicyRules"):
        codes = rule.get("exitCodes") or {}
        if (exit_code in (codes.get("values") or ())) == (codes.get("operator") == "In"):
            return True
    if any(each.get("restartPolicy") == "RestartContainer" for each in some(container, "resizePolicy")):
        return True  # a resize restarts it whatever its policy
    own = container.get("restartPolicy") or policy
    return own == "Always" or (own == "OnFailure" and exit_code != 0)
