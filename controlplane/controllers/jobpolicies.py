"""What a Job's policies say: of a failed pod, and of the indexes that have succeeded. Pure functions.

Source: Kubernetes' documentation of Jobs ("Pod failure policy", "Success policy").
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pyk.api.indexes import known_indexes
from pyk.api.objects import Object, name_of, namespace_of
from pyk.api.rules.common import some

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the first matching rule says of a failed pod: its action (empty: no rule matches) and why."""

    action: str = ""
    reason: str = ""

    @property
    def is_counted(self) -> bool:
        return self.action != "Ignore"


def verdict_of(job: Object, pod: Object) -> Verdict:
    """The verdict of the Job's failure policy on a failed pod."""
    for number, rule in enumerate(some(job["spec"].get("podFailurePolicy"), "rules")):
        what = _exited(rule["onExitCodes"], pod) if rule.get("onExitCodes") is not None else _has(rule, pod)
        if what:
            return Verdict(rule["action"], f"{what} matching {rule['action']} rule at index {number}")
    return Verdict()


def _exited(rule: Document, pod: Object) -> str:
    """Which container ended with a code that the rule is about; empty when none did."""
    status = pod.get("status") or {}
    for container in (*some(status, "containerStatuses"), *some(status, "initContainerStatuses")):
        code = ((container.get("state") or {}).get("terminated") or {}).get("exitCode")
        if not code or (rule.get("containerName") is not None and rule["containerName"] != container["name"]):
            continue
        if (code in rule["values"]) == (rule["operator"] == "In"):
            place = f"{namespace_of(pod)}/{name_of(pod)}"
            return f"Container {container['name']} for pod {place} failed with exit code {code}"
    return ""


def _has(rule: Document, pod: Object) -> str:
    """Which condition of the rule the pod has; empty when none."""
    held = {(each["type"], each["status"]) for each in some(pod.get("status"), "conditions")}
    for pattern in rule.get("onPodConditions") or ():
        if (pattern["type"], pattern.get("status") or "True") in held:
            return f"Pod {namespace_of(pod)}/{name_of(pod)} has condition {pattern['type']}"
    return ""


def met_success_rule(job: Object, succeeded: Collection[int]) -> str:
    """Which rule of the success policy is met; empty when none is."""
    completions = job["spec"].get("completions") or 0
    for number, rule in enumerate(some(job["spec"].get("successPolicy"), "rules")):
        wanted = rule.get("succeededCount")
        if rule.get("succeededIndexes") is None:
            is_met = wanted is not None and len(succeeded) >= wanted
        else:
            required = known_indexes(rule["succeededIndexes"], completions)
            is_met = len(required.intersection(succeeded)) >= (len(required) if wanted is None else wanted)
        if is_met:
            return f"Matched rules at index {number}"
    return ""
