"""`pyk rollout`: the history of a Deployment: its progress, its revisions, the way back."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from pyk.api.kinds import DEPLOYMENT, REPLICA_SET
from pyk.api.objects import Object, annotations_of, condition_of, controller_of, name_of, namespace_of, uid_of
from pyk.api.status import ApiError
from pyk.cli.printers import TablePrinter, to_yaml
from pyk.cli.session import Session, add_connection_options, parse_wanted
from pyk.errors import UserError
from pyk.reconcile.clock import RealClock, timestamp

REVISION = "deployment.kubernetes.io/revision"
CHANGE_CAUSE = "kubernetes.io/change-cause"
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
POD_TEMPLATE_HASH = "pod-template-hash"


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("rollout", help="follow, list, undo, restart, pause or resume rollouts")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, run, text in (
        ("status", _status, "follow the rollout until it is complete"),
        ("history", _history, "list the revisions"),
        ("undo", _undo, "go back to an earlier revision"),
        ("restart", _restart, "replace all pods, one after the other"),
        ("pause", _pause, "stop rolling out changes"),
        ("resume", _resume, "go on rolling out changes"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("what", nargs="+", metavar="deployment/NAME")
        add_connection_options(action)
        if name in ("history",):
            action.add_argument("--revision", type=int, default=0, metavar="N", help="show this one in detail")
        if name == "undo":
            action.add_argument("--to-revision", type=int, default=0, metavar="N", help="default: the one before")
        if name == "status":
            action.add_argument("--no-watch", action="store_true", help="tell the present state only")
        action.set_defaults(run=run)


def _deployments(session: Session) -> list[Object]:
    found = []
    for one in parse_wanted(session.arguments.what, need_names=True):
        if one.kind is not DEPLOYMENT:
            raise UserError(f"{one.kind.plural} have no rollouts: name a deployment")
        found += [session.client.get(DEPLOYMENT, name, session.namespace) for name in one.names]
    return found


def _revisions(session: Session, deployment: Object) -> dict[int, Object]:
    """The ReplicaSets of the deployment by their revision."""
    listed = session.client.list(REPLICA_SET, namespace_of(deployment)).get("items") or []
    owned = [rs for rs in listed if (controller_of(rs) or {}).get("uid") == uid_of(deployment)]
    return {int(annotations_of(rs).get(REVISION, 0)): rs for rs in owned}


# Status


def _status(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    for deployment in _deployments(session):
        done = _tell(deployment, "")
        if done or arguments.no_watch:
            continue
        _follow(session, deployment)
    return 0


def _follow(session: Session, deployment: Object) -> None:
    name, namespace = name_of(deployment), namespace_of(deployment)
    said = status_line(deployment)[0]
    while True:
        params = {"fieldSelector": f"metadata.name={name}", "watch": "true"}
        params["resourceVersion"] = deployment["metadata"]["resourceVersion"]
        for line in session.client.lines(DEPLOYMENT.path(namespace), params=params):
            event = json.loads(line)
            if event["type"] == "ERROR":
                break
            if event["type"] == "DELETED":
                raise UserError(f"deployment {name!r} was deleted while its rollout was followed")
            deployment = event["object"]
            text, done = status_line(deployment)
            if text != said:
                _tell(deployment, said)
                said = text
            if done:
                return
        deployment = session.client.get(DEPLOYMENT, name, namespace)
        if _tell(deployment, said):
            return


def _tell(deployment: Object, said: str) -> bool:
    text, done = status_line(deployment)
    if text != said:
        print(text, flush=True)
    return done


def status_line(deployment: Object) -> tuple[str, bool]:
    """What `rollout status` says, and whether the rollout is complete. Raises `UserError` when it has failed.

    Source: kubectl's `polymorphichelpers` for deployments, whose sentences scripts look for.
    """
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


# History


def _history(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    for deployment in _deployments(session):
        revisions = _revisions(session, deployment)
        if arguments.revision:
            chosen = revisions.get(arguments.revision)
            if chosen is None:
                raise UserError(f"deployment {name_of(deployment)!r} has no revision {arguments.revision}")
            print(f"deployment.apps/{name_of(deployment)} with revision #{arguments.revision}")
            print(to_yaml({"Pod Template": _template(chosen)}), end="")
            continue
        print(f"deployment.apps/{name_of(deployment)}")
        rows = [
            [str(number), annotations_of(rs).get(CHANGE_CAUSE, "<none>")] for number, rs in sorted(revisions.items())
        ]
        TablePrinter().print_rows(("REVISION", "CHANGE-CAUSE"), rows)
    return 0


def _template(replica_set: Object) -> Object:
    """The pod template of a revision, without the label that tells revisions apart."""
    template: Object = json.loads(json.dumps(replica_set["spec"]["template"]))
    (template["metadata"].get("labels") or {}).pop(POD_TEMPLATE_HASH, None)
    return template


def _undo(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    for deployment in _deployments(session):
        name = name_of(deployment)
        if deployment["spec"].get("paused"):
            raise UserError(f"deployment {name!r} is paused: run 'pyk rollout resume deployment/{name}' first")
        revisions = _revisions(session, deployment)
        now = int(annotations_of(deployment).get(REVISION, 0))
        earlier = [number for number in sorted(revisions) if number != now]
        wanted = arguments.to_revision or (earlier[-1] if earlier else 0)
        if wanted not in revisions:
            raise UserError(f"deployment {name!r} has no revision {wanted or 'before this one'} to go back to")
        template = _template(revisions[wanted])
        if template == deployment["spec"]["template"]:
            print(f"deployment.apps/{name} skipped rollback (current template already matches revision {wanted})")
            continue
        patch = [{"op": "replace", "path": "/spec/template", "value": template}]
        _patch(session, deployment, patch, "application/json-patch+json")
        print(f"deployment.apps/{name} rolled back")
    return 0


# Changes


def _restart(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    at = timestamp(RealClock().time())
    for deployment in _deployments(session):
        if deployment["spec"].get("paused"):
            raise UserError(f"deployment {name_of(deployment)!r} is paused: resume it first")
        annotations = {"metadata": {"annotations": {RESTARTED_AT: at}}}
        _patch(session, deployment, {"spec": {"template": annotations}})
        print(f"deployment.apps/{name_of(deployment)} restarted")
    return 0


def _pause(arguments: argparse.Namespace) -> int:
    return _set_paused(arguments, paused=True)


def _resume(arguments: argparse.Namespace) -> int:
    return _set_paused(arguments, paused=False)


def _set_paused(arguments: argparse.Namespace, *, paused: bool) -> int:
    session, status = Session(arguments), 0
    for deployment in _deployments(session):
        word = "paused" if paused else "resumed"
        if bool(deployment["spec"].get("paused")) == paused:
            print(f"pyk: deployment {name_of(deployment)!r} is {word} already", file=sys.stderr)
            status = 1
            continue
        _patch(session, deployment, {"spec": {"paused": paused or None}})
        print(f"deployment.apps/{name_of(deployment)} {word}")
    return status


def _patch(session: Session, deployment: Object, patch: Any, form: str = "application/merge-patch+json") -> None:
    path = DEPLOYMENT.path(namespace_of(deployment), name_of(deployment))
    try:
        session.client.json("PATCH", path, params={"fieldManager": "pyk"}, body=patch, content_type=form)
    except ApiError as error:
        raise UserError(f"deployment {name_of(deployment)!r}: {error.message}") from error
