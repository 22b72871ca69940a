"""Which claims a pod uses, and through which volumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controlplane.controllers.pods import is_terminated
from pyk.api.objects import Object, name_of


def ephemeral_claim_name(pod: Object, volume: dict[str, Any]) -> str:
    """The name of the claim that a pod's generic ephemeral volume gets."""
    return f"{name_of(pod)}-{volume['name']}"


def claims_of_pod(pod: Object) -> Iterator[str]:
    """The names of the claims that a pod refers to."""
    for volume in pod["spec"].get("volumes") or ():
        if source := volume.get("persistentVolumeClaim"):
            yield str(source["claimName"])
        elif volume.get("ephemeral"):
            yield ephemeral_claim_name(pod, volume)


def uses_claims(pod: Object) -> bool:
    """Whether a pod's claims are in use: it has not ended, and somebody has taken it on or still may."""
    return not is_terminated(pod)
