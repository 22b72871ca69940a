"""A pod that the node ends for want of resources: why, how fast, and how that is found again after a restart."""

from __future__ import annotations

from dataclasses import dataclass

from pyk.api.objects import Object, condition_of

EVICTED = "Evicted"
DISRUPTION_TARGET = "DisruptionTarget"
BY_KUBELET = "TerminationByKubelet"
IMMEDIATE_GRACE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Eviction:
    """`message` is the status'; `grace` are the seconds that the containers get. `disrupts` says that the pod is not to
    blame itself, which its condition DisruptionTarget tells."""

    message: str
    grace: float = IMMEDIATE_GRACE_SECONDS
    disrupts: bool = True


def eviction_of_status(pod: Object) -> Eviction | None:
    """The eviction that an agent before this one had begun and told of."""
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return None
    condition = condition_of(pod, DISRUPTION_TARGET)
    if condition is None or condition.get("status") != "True" or condition.get("reason") != BY_KUBELET:
        return None
    return Eviction(condition.get("message") or "")
