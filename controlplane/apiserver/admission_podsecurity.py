"""PodSecurity: a namespace's labels say which Pod Security Standard its pods must meet.

`pod-security.kubernetes.io/enforce` refuses pods, `warn` warns of pods and of workloads whose template breaks the
standard; `audit` is checked for what it says only. Who tightens a namespace is told which of its pods break the new
level. Versions of a level (`enforce-version`) are all the newest here. Source: `k8s.io/pod-security-admission`.
"""

from __future__ import annotations

import re

from controlplane.apiserver.admission_chain import Review
from controlplane.apiserver.encoding import decode
from controlplane.apiserver.podsecurity import LEVELS, findings, told
from controlplane.apiserver.watchcache import WatchCache
from pyk.api.kinds import NAMESPACE, POD
from pyk.api.objects import Object, labels_of, name_of
from pyk.api.status import FieldError, invalid

_PREFIX = "pod-security.kubernetes.io/"
_MODES = ("enforce", "audit", "warn")
_VERSION = re.compile(r"(latest|v1\.(0|[1-9][0-9]*))\Z")
_MOST_PODS_TOLD = 10


class PodSecurity:
    """The plugin."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache

    async def __call__(self, review: Review) -> None:
        if review.object is None:
            return
        if review.kind is NAMESPACE and not review.subresource:
            self._see_to_namespace(review, review.object)
        elif review.subresource in ("", "ephemeralcontainers"):
            pod = _pod_in(review)
            if pod is not None:
                self._judge(review, pod)

    def _judge(self, review: Review, pod: Object) -> None:
        namespace = self._cache.lookup(NAMESPACE, "", review.namespace)
        if namespace is None:
            return
        labels = labels_of(namespace)
        level, version = _level(labels, "enforce")
        if review.kind is POD and (found := findings(level, pod)):
            raise review.refusal(f'violates PodSecurity "{level}:{version}": {told(found)}')
        warned, version = _level(labels, "warn")
        if found := findings(warned, pod):
            review.warnings.append(f'would violate PodSecurity "{warned}:{version}": {told(found)}')

    def _see_to_namespace(self, review: Review, namespace: Object) -> None:
        labels = labels_of(namespace)
        problems = list(_problems(labels, labels_of(review.old) if review.old is not None else {}))
        if problems:
            raise invalid("", "Namespace", review.name, problems)
        level, version = _level(labels, "enforce")
        before = _level(labels_of(review.old), "enforce")[0] if review.old is not None else level
        if LEVELS.index(level) <= LEVELS.index(before):
            return
        violations: dict[str, list[str]] = {}
        for entry in self._cache.of(POD).entries(name_of(namespace)):
            pod = decode(entry.data)
            reasons = ", ".join(reason for reason, _ in findings(level, pod))
            if reasons:
                violations.setdefault(reasons, []).append(name_of(pod))
        if violations:
            review.warnings.append(
                f'existing pods in namespace "{name_of(namespace)}" violate the new PodSecurity enforce level '
                f'"{level}:{version}"'
            )
        for reasons, names in sorted(violations.items(), key=lambda each: each[1])[:_MOST_PODS_TOLD]:
            others = len(names) - 1
            more = f" (and {others} other pod{'s' if others > 1 else ''})" if others else ""
            review.warnings.append(f"{names[0]}{more}: {reasons}")


def _level(labels: dict[str, str], mode: str) -> tuple[str, str]:
    """The level and version of a mode; `privileged` and `latest` when they are not set."""
    level = labels.get(f"{_PREFIX}{mode}", "privileged")
    if level not in LEVELS:
        level = "restricted"  # a label that cannot be read closes the door
    return level, labels.get(f"{_PREFIX}{mode}-version", "latest")


def _problems(labels: dict[str, str], before: dict[str, str]) -> list[FieldError]:
    """Labels of a namespace that cannot be read, as far as they are new."""
    found = []
    for mode in _MODES:
        key = f"{_PREFIX}{mode}"
        level, version = labels.get(key), labels.get(f"{key}-version")
        if level is not None and level not in LEVELS and level != before.get(key):
            detail = "must be one of privileged, baseline, restricted"
            found.append(FieldError.invalid(f"metadata.labels[{key}]", level, detail))
        if version is not None and not _VERSION.match(version) and version != before.get(f"{key}-version"):
            detail = 'must be "latest" or "v1.x"'
            found.append(FieldError.invalid(f"metadata.labels[{key}-version]", version, detail))
    return found


def _pod_in(review: Review) -> Object | None:
    """The pod that is written, or the one that a workload would make; None when its spec did not change."""
    obj, old = review.object or {}, review.old
    if review.kind is POD:
        pod, before = obj, old
    elif review.kind.kind == "PodTemplate":
        pod, before = obj.get("template") or {}, (old or {}).get("template")
    elif review.kind.namespaced and isinstance((obj.get("spec") or {}).get("template"), dict):
        pod, before = obj["spec"]["template"], ((old or {}).get("spec") or {}).get("template")
    else:
        return None
    if not isinstance(pod.get("spec"), dict) or "containers" not in pod["spec"]:
        return None
    if before is not None and before.get("spec") == pod["spec"]:
        return None
    return {"metadata": pod.get("metadata") or {}, "spec": pod["spec"]}
