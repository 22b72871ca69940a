"""What a rollout is for each kind that has one: how far it is, its revisions, and the template of each.

Source of the sentences: kubectl's `polymorphichelpers`, whose words scripts look for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyk.api.kinds import CONTROLLER_REVISION, DAEMON_SET, DEPLOYMENT, REPLICA_SET, STATEFUL_SET, Kind
from pyk.api.objects import Object, annotations_of, condition_of, controller_of, name_of, namespace_of, uid_of
from pyk.cli.session import Session
from pyk.errors import UserError

REVISION = "deployment.kubernetes.io/revision"
POD_TEMPLATE_HASH = "pod-template-hash"


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of a workload: its pod template, and the annotations that tell of it."""

    template: Object
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rollout:
    """How one kind rolls out. `status_line` tells the progress and whether it is complete; it raises `UserError`."""

    kind: Kind
    status_line: Callable[[Object], tuple[str, bool]]
    revisions: Callable[[Session, Object], dict[int, Revision]]


def deployment_status(deployment: Object) -> tuple[str, bool]:
    """What `rollout status` says of a Deployment. Raises `UserError` when it has failed."""
    name, spec, status = name_of(deployment), deployment["spec"], deployment.get("status") or {}
    if deployment["metadata"].get("generation", 0) > status.get("observedGeneration", 0):
        return "Waiting for deployment spec update to be observed...", False
    progressing = condition_of(deployment, "Progressing") or {}
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        raise UserError(f"deployment \"{name}\" exceeded its progress deadline: see 'pyk describe deployment/{name}'")
    want, updated = spec.get("replicas", 1), status.get("updatedReplicas", 0)
    total, available = status.get("replicas", 0), status.get("availableReplicas", 0)
    waiting = f'Waiting for deployment "{name}" rollout to finish: '
    if updated < want:
        return f"{waiting}{updated} out of {want} new replicas have been updated...", False
    if total > updated:
        return f"{waiting}{total - updated} old replicas are pending termination...", False
    if available < updated:
        return f"{waiting}{available} of {updated} updated replicas are available...", False
    return f'deployment "{name}" successfully rolled out', True


def _strategy(workload: Object) -> Object:
    """The update strategy. Raises `UserError` when it is one that nobody can follow."""
    strategy: Object = workload["spec"].get("updateStrategy") or {}
    if strategy.get("type") != "RollingUpdate":
        raise UserError("rollout status is only available for RollingUpdate strategy type")
    return strategy


def daemon_set_status(daemon_set: Object) -> tuple[str, bool]:
    """What `rollout status` says of a DaemonSet."""
    _strategy(daemon_set)
    name, status = name_of(daemon_set), daemon_set.get("status") or {}
    if daemon_set["metadata"].get("generation", 0) > status.get("observedGeneration", 0):
        return "Waiting for daemon set spec update to be observed...", False
    want = status.get("desiredNumberScheduled", 0)
    updated, available = status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0)
    waiting = f'Waiting for daemon set "{name}" rollout to finish: '
    if updated < want:
        return f"{waiting}{updated} out of {want} new pods have been updated...", False
    if available < want:
        return f"{waiting}{available} of {want} updated pods are available...", False
    return f'daemon set "{name}" successfully rolled out', True


def stateful_set_status(stateful_set: Object) -> tuple[str, bool]:
    """What `rollout status` says of a StatefulSet."""
    strategy = _strategy(stateful_set)
    spec, status = stateful_set["spec"], stateful_set.get("status") or {}
    if stateful_set["metadata"].get("generation", 0) > status.get("observedGeneration", 0):
        return "Waiting for statefulset spec update to be observed...", False
    want, ready = spec.get("replicas", 1), status.get("readyReplicas", 0)
    if ready < want:
        return f"Waiting for {want - ready} pods to be ready...", False
    updated = status.get("updatedReplicas", 0)
    partition = (strategy.get("rollingUpdate") or {}).get("partition")
    if partition is not None:
        if updated < want - partition:
            told = f"{updated} out of {want - partition} new pods have been updated..."
            return f"Waiting for partitioned roll out to finish: {told}", False
        return f"partitioned roll out complete: {updated} new pods have been updated...", True
    revision = status.get("updateRevision", "")
    if revision != status.get("currentRevision"):
        return f"waiting for statefulset rolling update to complete {updated} pods at revision {revision}...", False
    current = status.get("currentReplicas", 0)
    return f"statefulset rolling update complete {current} pods at revision {revision}...", True


def _owned(session: Session, kind: Kind, owner: Object) -> list[Object]:
    listed = session.client.list(kind, namespace_of(owner)).get("items") or []
    return [obj for obj in listed if (controller_of(obj) or {}).get("uid") == uid_of(owner)]


def _replica_sets(session: Session, deployment: Object) -> dict[int, Revision]:
    """The ReplicaSets of a Deployment, without the label that tells revisions apart."""
    found = {}
    for replica_set in _owned(session, REPLICA_SET, deployment):
        template: Object = json.loads(json.dumps(replica_set["spec"]["template"]))
        (template["metadata"].get("labels") or {}).pop(POD_TEMPLATE_HASH, None)
        found[int(annotations_of(replica_set).get(REVISION, 0))] = Revision(template, annotations_of(replica_set))
    return found


def _controller_revisions(session: Session, workload: Object) -> dict[int, Revision]:
    """The ControllerRevisions of a DaemonSet or StatefulSet."""
    found = {}
    for revision in _owned(session, CONTROLLER_REVISION, workload):
        template = dict(revision["data"]["spec"]["template"])
        template.pop("$patch", None)
        found[int(revision.get("revision", 0))] = Revision(template, annotations_of(revision))
    return found


ROLLOUTS: Mapping[Kind, Rollout] = {
    rollout.kind: rollout
    for rollout in (
        Rollout(DEPLOYMENT, deployment_status, _replica_sets),
        Rollout(DAEMON_SET, daemon_set_status, _controller_revisions),
        Rollout(STATEFUL_SET, stateful_set_status, _controller_revisions),
    )
}
