"""The pods of a Job: which have failed and when, which index each works on, what a new one looks like.

Pure functions. Each pod carries the finalizer `batch.kubernetes.io/job-tracking` until the Job's status has counted it,
so that no result is lost however soon a pod is deleted. Pods of an Indexed Job know their index by annotation, label,
host name and the variable JOB_COMPLETION_INDEX.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.controllers.jobpolicies import verdict_of
from controlplane.controllers.podcontrol import LONGEST_PREFIX, new_pod
from controlplane.controllers.pods import created_at, is_active
from pyk.api.objects import Object, annotations_of, condition_of, is_deleting, name_of
from pyk.api.rules.common import some
from pyk.reconcile.clock import parse_timestamp

FINALIZER = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
FAILURES = "batch.kubernetes.io/job-index-failure-count"
IGNORED_FAILURES = "batch.kubernetes.io/job-index-ignored-failure-count"
_VARIABLE = "JOB_COMPLETION_INDEX"

FIRST_DELAY_SECONDS = 10.0
LONGEST_DELAY_SECONDS = 600.0


def is_tracked(pod: Object) -> bool:
    """Whether the Job has not counted the pod yet."""
    return FINALIZER in (pod["metadata"].get("finalizers") or ())


def phase_of(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase") or "")


def is_indexed(job: Object) -> bool:
    return bool(job["spec"].get("completionMode") == "Indexed")


def counts_per_index(job: Object) -> bool:
    return job["spec"].get("backoffLimitPerIndex") is not None


def replaces_only_failed(job: Object) -> bool:
    """Whether a pod that is on its way out is replaced when it has ended, and not before."""
    return job["spec"].get("podReplacementPolicy") == "Failed" or job["spec"].get("podFailurePolicy") is not None


def is_failed(job: Object, pod: Object) -> bool:
    """Whether the pod counts as a failure: it ended so, or it is being deleted and its end is not waited for."""
    if phase_of(pod) == "Failed":
        return True
    return not replaces_only_failed(job) and is_deleting(pod) and phase_of(pod) != "Succeeded"


def index_of(job: Object, pod: Object) -> int | None:
    """The index that the pod works on; None when it has none, or one that the Job no longer wants."""
    text = annotations_of(pod).get(INDEX, "")
    if not text.isascii() or not text.isdecimal() or int(text) >= (job["spec"].get("completions") or 0):
        return None
    return int(text)


def counts(job: Object, pod: Object) -> bool:
    """Whether the Job's numbers are about the pod at all."""
    return not is_indexed(job) or index_of(job, pod) is not None


def _number(pod: Object, annotation: str) -> int:
    text = annotations_of(pod).get(annotation, "")
    return int(text) if text.isascii() and text.isdecimal() else 0


def index_failures(pod: Object) -> int:
    """The counted failures of the pod's index before it."""
    return _number(pod, FAILURES)


def all_index_failures(pod: Object) -> int:
    return _number(pod, FAILURES) + _number(pod, IGNORED_FAILURES)


def finished_at(pod: Object) -> float:
    """When the pod ended, as well as can be told: by its containers, its readiness, its deletion, its creation."""
    ends: list[str] = []
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        ends.append(((status.get("state") or {}).get("terminated") or {}).get("finishedAt") or "")
    if ends and all(ends):
        return max(map(parse_timestamp, ends))
    ready = condition_of(pod, "Ready")
    if ready is not None and ready["status"] == "False" and ready.get("lastTransitionTime"):
        return parse_timestamp(ready["lastTransitionTime"])
    if is_deleting(pod):
        grace = pod["metadata"].get("deletionGracePeriodSeconds") or 0
        return parse_timestamp(pod["metadata"]["deletionTimestamp"]) - grace
    return created_at(pod)


def delay_after(failures: int, last: float, now: float) -> float:
    """Seconds until the next try after so many failures in a row, the last of them at `last`."""
    if not failures:
        return 0.0
    delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * float(2 ** min(failures - 1, 10)))
    return max(0.0, last + delay - now)


def delay_of(job: Object, pods: Iterable[Object], now: float) -> float:
    """Seconds until new pods may be made: by the failures since the last success."""
    pods = [pod for pod in pods if counts(job, pod)]
    success = max((finished_at(pod) for pod in pods if phase_of(pod) == "Succeeded"), default=0.0)
    failures = [end for pod in pods if is_failed(job, pod) and (end := finished_at(pod)) > success]
    return delay_after(len(failures), max(failures, default=0.0), now)


@dataclass(frozen=True, slots=True)
class Predecessors:
    """For each index that waits for a new pod, the last one that failed: it is kept until the new one is made."""

    of: Mapping[int, Object]

    @staticmethod
    def among(job: Object, pods: Iterable[Object], done: frozenset[int]) -> Predecessors:
        """`done` are the indexes that have succeeded or failed for good."""
        pods = list(pods)
        active = {index_of(job, pod) for pod in pods if is_active(pod)}
        found: dict[int, Object] = {}
        for pod in pods:
            index = index_of(job, pod)
            if not is_tracked(pod) or not is_failed(job, pod) or index is None or index in done or index in active:
                continue
            known = found.get(index)
            if known is None or _is_later(pod, known):
                found[index] = pod
        return Predecessors(found)

    def keeps(self, index: int | None, pod: Object) -> bool:
        known = self.of.get(index) if index is not None else None
        return known is not None and name_of(known) == name_of(pod)

    def delay(self, index: int, now: float) -> float:
        """Seconds until the index may be tried again."""
        known = self.of.get(index)
        return 0.0 if known is None else delay_after(all_index_failures(known) + 1, finished_at(known), now)


def _is_later(pod: Object, known: Object) -> bool:
    return all_index_failures(pod) >= all_index_failures(known) and finished_at(pod) >= finished_at(known)


def job_pod(job: Object, index: int | None = None, predecessor: Object | None = None) -> Object:
    """A new pod of the Job; for an index, its identity, and what its index has failed before."""
    pod = new_pod(job, job["spec"]["template"])
    metadata = pod["metadata"]
    finalizers = [*(metadata.get("finalizers") or ()), FINALIZER]
    metadata = {**metadata, "finalizers": list(dict.fromkeys(finalizers))}
    if index is None:
        return {**pod, "metadata": metadata}
    suffix = f"-{index}-"
    annotations = {**(metadata.get("annotations") or {}), INDEX: str(index)}
    if counts_per_index(job):
        annotations |= _failures_so_far(job, predecessor)
    metadata |= {
        "generateName": f"{name_of(job)[: LONGEST_PREFIX - len(suffix)]}{suffix}",
        "annotations": annotations,
        "labels": {**(metadata.get("labels") or {}), INDEX: str(index)},
    }
    spec = {**pod["spec"], "hostname": f"{name_of(job)}-{index}"}
    for field in ("initContainers", "containers"):
        if some(spec, field):
            spec[field] = [_with_index(container) for container in spec[field]]
    return {**pod, "metadata": metadata, "spec": spec}


def _failures_so_far(job: Object, predecessor: Object | None) -> dict[str, str]:
    counted = ignored = 0
    if predecessor is not None:
        counted, ignored = _number(predecessor, FAILURES), _number(predecessor, IGNORED_FAILURES)
        if verdict_of(job, predecessor).is_counted:
            counted += 1
        else:
            ignored += 1
    return {FAILURES: str(counted), **({IGNORED_FAILURES: str(ignored)} if ignored else {})}


def _with_index(container: dict[str, Any]) -> dict[str, Any]:
    variables = some(container, "env")
    if any(variable["name"] == _VARIABLE for variable in variables):
        return container
    source = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
    return {**container, "env": [*variables, {"name": _VARIABLE, "valueFrom": source}]}
