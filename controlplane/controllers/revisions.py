"""Revisions of a Deployment: which ReplicaSet is the new one, the annotations that number them, what history to drop.

Pure functions. `kubectl rollout history` and `undo` read the annotations `deployment.kubernetes.io/revision` and
`kubernetes.io/change-cause` of the ReplicaSets, so they are kept exactly as Kubernetes keeps them: a set that becomes
the new one again gets the next number and remembers its old ones in `revision-history`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from controlplane.controllers.pods import created_at
from controlplane.controllers.rollout import DESIRED_REPLICAS, MAX_REPLICAS, actual, size, size_annotations
from controlplane.controllers.templates import HASH_LABEL, is_same_template, template_hash
from pyk.api.objects import Object, annotations_of, is_deleting, name_of, namespace_of, owner_reference, uid_of

REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"

LONGEST_HISTORY = 2000
"""Characters of `revision-history`; the oldest numbers go first."""

_NOT_COPIED = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        "deprecated.deployment.rollback.to",
        REVISION,
        REVISION_HISTORY,
        DESIRED_REPLICAS,
        MAX_REPLICAS,
    }
)


def oldest_first(replica_sets: Iterable[Object]) -> list[Object]:
    """By creation; by name where the time is the same."""
    return sorted(replica_sets, key=lambda replica_set: (created_at(replica_set), name_of(replica_set)))


def split_new(deployment: Object, replica_sets: Iterable[Object]) -> tuple[Object | None, list[Object]]:
    """The set of the Deployment's present template (the oldest, if there are several), and all the others by age."""
    ordered = oldest_first(replica_sets)
    template = deployment["spec"]["template"]
    new = next((each for each in ordered if is_same_template(each["spec"].get("template") or {}, template)), None)
    return new, [each for each in ordered if each is not new]


def revision_of(replica_set: Object) -> int:
    """The set's revision; 0 when it has none or a malformed one."""
    text = annotations_of(replica_set).get(REVISION, "")
    return int(text) if text.isdecimal() else 0


def annotations_of_new(deployment: Object, new: Object, others: Sequence[Object]) -> dict[str, str]:
    """The annotations that the new set must have: the Deployment's own, the next revision, the revisions it had."""
    annotations = dict(annotations_of(new))
    annotations.update({key: value for key, value in annotations_of(deployment).items() if key not in _NOT_COPIED})
    revision = max((revision_of(other) for other in others), default=0) + 1
    if revision_of(new) < revision:
        if old := annotations.get(REVISION):
            annotations[REVISION_HISTORY] = _remembered(annotations.get(REVISION_HISTORY, ""), old)
        annotations[REVISION] = str(revision)
    return annotations


def _remembered(history: str, revision: str) -> str:
    numbers = [number for number in history.split(",") if number]
    numbers.append(revision)
    while len(",".join(numbers)) > LONGEST_HISTORY:
        numbers.pop(0)
    return ",".join(numbers)


def new_replica_set(deployment: Object, others: Sequence[Object], replicas: int) -> Object:
    """The ReplicaSet for the Deployment's present template, named by its hash."""
    template = deployment["spec"]["template"]
    hashed = template_hash(template, (deployment.get("status") or {}).get("collisionCount") or 0)
    metadata = template.get("metadata") or {}
    labels = {**(metadata.get("labels") or {}), HASH_LABEL: hashed}
    selector = deployment["spec"]["selector"]
    replica_set: Object = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{name_of(deployment)}-{hashed}",
            "namespace": namespace_of(deployment),
            "labels": labels,
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": deployment["spec"].get("minReadySeconds") or 0,
            "selector": {**selector, "matchLabels": {**(selector.get("matchLabels") or {}), HASH_LABEL: hashed}},
            "template": {**template, "metadata": {**metadata, "labels": labels}},
        },
    }
    annotations = annotations_of_new(deployment, replica_set, others)
    replica_set["metadata"]["annotations"] = {**annotations, **size_annotations(deployment)}
    return replica_set


def is_collision(deployment: Object, existing: Object) -> bool:
    """Whether the set that has the new set's name is another's, or of another template."""
    owners = existing["metadata"].get("ownerReferences") or ()
    is_ours = any(owner.get("controller") and owner["uid"] == uid_of(deployment) for owner in owners)
    return not (is_ours and is_same_template(existing["spec"].get("template") or {}, deployment["spec"]["template"]))


def surplus_history(deployment: Object, old: Iterable[Object]) -> list[Object]:
    """Old sets beyond `revisionHistoryLimit`, lowest revision first; only those that are empty and known to be so."""
    limit = deployment["spec"].get("revisionHistoryLimit")
    if limit is None:
        return []
    kept = [each for each in old if not is_deleting(each)]
    kept.sort(key=lambda each: (revision_of(each), created_at(each), name_of(each)))
    return [each for each in kept[: max(0, len(kept) - limit)] if _is_empty(each)]


def _is_empty(replica_set: Object) -> bool:
    observed = (replica_set.get("status") or {}).get("observedGeneration") or 0
    seen = (replica_set["metadata"].get("generation") or 0) <= observed
    return seen and size(replica_set) == 0 and actual(replica_set) == 0
