"""The identity of a StatefulSet's pods: names and ordinals, labels, and the volume claims that stay with a name.

Pure functions. Pod `web-2` of the set `web` has the ordinal 2, the host name `web-2` below the set's service, and for
each claim template `data` the claim `data-web-2`. Whoever owns such a claim decides how long it lives
(`persistentVolumeClaimRetentionPolicy`): the set, when claims go with it; the pod, when claims go with a scale-down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.controllers.controllerrevisions import POD_HASH_LABEL, template_of
from controlplane.controllers.podcontrol import new_pod
from controlplane.controllers.pods import is_available, is_ready
from pyk.api.kinds import PERSISTENT_VOLUME_CLAIM
from pyk.api.objects import (
    Object,
    controller_of,
    is_deleting,
    labels_of,
    name_of,
    namespace_of,
    owner_reference,
    uid_of,
)
from pyk.api.rules.common import some
from pyk.reconcile.actions import Action, Create, Patch

POD_NAME_LABEL = "statefulset.kubernetes.io/pod-name"
POD_INDEX_LABEL = "apps.kubernetes.io/pod-index"

Claims = Mapping[str, Object]
"""The claims of a namespace that are there, by name; their metadata is enough."""


def ordinal_of(stateful_set: Object, pod: Object) -> int | None:
    """The pod's ordinal; None when its name is not of this set."""
    prefix, dash, number = name_of(pod).rpartition("-")
    if not dash or prefix != name_of(stateful_set) or not number.isascii() or not number.isdecimal():
        return None
    return int(number)


def ordinals(stateful_set: Object) -> range:
    """The ordinals that the set wants."""
    spec = stateful_set["spec"]
    start = (spec.get("ordinals") or {}).get("start") or 0
    replicas = spec.get("replicas")
    return range(start, start + (1 if replicas is None else int(replicas)))


def revision_name(pod: Object) -> str:
    """The name of the revision that the pod was made from."""
    return labels_of(pod).get(POD_HASH_LABEL, "")


def is_running(pod: Object) -> bool:
    """Whether it runs and is ready."""
    return (pod.get("status") or {}).get("phase") == "Running" and is_ready(pod)


def is_settled(pod: Object, min_ready_seconds: int, now: float) -> bool:
    """Whether it runs, has been ready for long enough, and stays."""
    return is_running(pod) and not is_deleting(pod) and is_available(pod, min_ready_seconds, now)


def stateful_pod(stateful_set: Object, revision: Object, ordinal: int) -> Object:
    """The pod of an ordinal, made from the revision's template."""
    pod = new_pod(stateful_set, template_of(revision))
    name = f"{name_of(stateful_set)}-{ordinal}"
    labels = {**(pod["metadata"].get("labels") or {}), **identity_labels(name, ordinal)}
    labels[POD_HASH_LABEL] = name_of(revision)
    metadata = {key: value for key, value in pod["metadata"].items() if key != "generateName"}
    spec = {**pod["spec"], "hostname": name, "subdomain": stateful_set["spec"].get("serviceName") or ""}
    claimed = {template["metadata"]["name"]: claim for template, claim in _claim_names(stateful_set, ordinal)}
    if claimed:
        own = [volume for volume in some(spec, "volumes") if volume["name"] not in claimed]
        mounted = [{"name": volume, "persistentVolumeClaim": {"claimName": claim}} for volume, claim in claimed.items()]
        spec["volumes"] = [*mounted, *own]
    return {**pod, "metadata": {**metadata, "name": name, "labels": labels}, "spec": spec}


def identity_labels(name: str, ordinal: int) -> dict[str, str]:
    return {POD_NAME_LABEL: name, POD_INDEX_LABEL: str(ordinal)}


def _claim_names(stateful_set: Object, ordinal: int) -> Iterable[tuple[Object, str]]:
    """Each claim template, and what its claim for the ordinal is called."""
    for template in some(stateful_set["spec"], "volumeClaimTemplates"):
        yield template, f"{template['metadata']['name']}-{name_of(stateful_set)}-{ordinal}"


def missing_claims(stateful_set: Object, ordinal: int, claims: Claims) -> list[Action]:
    """Create the claims of the ordinal that are not there."""
    selector = (stateful_set["spec"].get("selector") or {}).get("matchLabels") or {}
    actions: list[Action] = []
    for template, name in _claim_names(stateful_set, ordinal):
        if name in claims:
            continue
        metadata = dict(template["metadata"])
        metadata |= {"name": name, "namespace": namespace_of(stateful_set)}
        metadata["labels"] = {**(metadata.get("labels") or {}), **selector}
        if _policy(stateful_set, "whenDeleted") == "Delete":
            metadata["ownerReferences"] = [owner_reference(stateful_set)]
        kind = PERSISTENT_VOLUME_CLAIM
        claim = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": template["spec"]}
        actions.append(Create(claim))
    return actions


def has_stale_claim(stateful_set: Object, ordinal: int, claims: Claims) -> bool:
    """Whether a claim of the ordinal belongs to a pod that is gone: it goes too, and a new pod waits for that."""
    if _policy(stateful_set, "whenScaled") != "Delete":
        return False
    found = (claims.get(name) for _, name in _claim_names(stateful_set, ordinal))
    return any(
        claim is not None and (is_deleting(claim) or any(owner["kind"] == "Pod" for owner in _owners(claim)))
        for claim in found
    )


def claim_owners(stateful_set: Object, pod: Object, ordinal: int, claims: Claims) -> list[Action]:
    """Bring the owners of the pod's claims to what the retention policy says."""
    actions: list[Action] = []
    for _, name in _claim_names(stateful_set, ordinal):
        claim = claims.get(name)
        if claim is None or is_deleting(claim) or _is_anothers(stateful_set, claim):
            continue
        before = _owners(claim)
        rest = [owner for owner in before if owner["uid"] not in (uid_of(stateful_set), uid_of(pod))]
        after = [*rest, *_retained_by(stateful_set, pod, is_condemned=ordinal not in ordinals(stateful_set))]
        if {owner["uid"] for owner in before} != {owner["uid"] for owner in after}:
            metadata = {
                "uid": uid_of(claim),
                "resourceVersion": claim["metadata"]["resourceVersion"],
                "ownerReferences": after or None,
            }
            actions.append(Patch(PERSISTENT_VOLUME_CLAIM, namespace_of(claim), name, {"metadata": metadata}))
    return actions


def _owners(claim: Object) -> list[dict[str, Any]]:
    return list(claim["metadata"].get("ownerReferences") or ())


def _is_anothers(stateful_set: Object, claim: Object) -> bool:
    controller = controller_of(claim)
    return controller is not None and controller["uid"] != uid_of(stateful_set)


def _policy(stateful_set: Object, event: str) -> str:
    policy = stateful_set["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
    return str(policy.get(event) or "Retain")


def _retained_by(stateful_set: Object, pod: Object, *, is_condemned: bool) -> list[dict[str, Any]]:
    if is_condemned and _policy(stateful_set, "whenScaled") == "Delete":
        reference = owner_reference({**pod, "apiVersion": "v1", "kind": "Pod"}, controller=False)
        return [{key: value for key, value in reference.items() if key not in ("controller", "blockOwnerDeletion")}]
    return [owner_reference(stateful_set)] if _policy(stateful_set, "whenDeleted") == "Delete" else []
