"""`pyk rollout`: the history of a Deployment, DaemonSet or StatefulSet: its progress, its revisions, the way back."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from pyk.api.kinds import DEPLOYMENT, Kind, kind_of
from pyk.api.objects import Object, name_of, namespace_of
from pyk.api.status import ApiError
from pyk.cli.printers import TablePrinter, to_yaml
from pyk.cli.rollouts import ROLLOUTS, Rollout
from pyk.cli.session import Session, add_connection_options, parse_wanted
from pyk.errors import UserError
from pyk.reconcile.clock import RealClock, timestamp

CHANGE_CAUSE = "kubernetes.io/change-cause"
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("rollout", help="follow, list, undo, restart, pause or resume rollouts")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, run, text in (
        ("status", _status, "follow the rollout until it is complete"),
        ("history", _history, "list the revisions"),
        ("undo", _undo, "go back to an earlier revision"),
        ("restart", _restart, "replace all pods, one after the other"),
        ("pause", _pause, "stop rolling out changes of a deployment"),
        ("resume", _resume, "go on rolling out changes of a deployment"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("what", nargs="+", metavar="KIND/NAME", help="deployment/web, ds/log, sts/db")
        add_connection_options(action)
        if name in ("history",):
            action.add_argument("--revision", type=int, default=0, metavar="N", help="show this one in detail")
        if name == "undo":
            action.add_argument("--to-revision", type=int, default=0, metavar="N", help="default: the one before")
        if name == "status":
            action.add_argument("--no-watch", action="store_true", help="tell the present state only")
        action.set_defaults(run=run)


def _workloads(session: Session) -> list[tuple[Rollout, Object]]:
    found = []
    for one in parse_wanted(session.arguments.what, need_names=True):
        rollout = ROLLOUTS.get(one.kind)
        if rollout is None:
            raise UserError(f"{one.kind.plural} have no rollouts: name a deployment, daemonset or statefulset")
        for name in one.names:
            found.append((rollout, _typed(one.kind, session.client.get(one.kind, name, session.namespace))))
    return found


def _typed(kind: Kind, obj: Object) -> Object:
    return {**obj, "apiVersion": kind.api_version, "kind": kind.kind}


def _shown(workload: Object) -> str:
    """`deployment.apps/web`."""
    return f"{kind_of(workload).resource_name}/{name_of(workload)}"


# Status


def _status(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    for rollout, workload in _workloads(session):
        done = _tell(rollout, workload, "")
        if done or arguments.no_watch:
            continue
        _follow(session, rollout, workload)
    return 0


def _follow(session: Session, rollout: Rollout, workload: Object) -> None:
    kind, name, namespace = rollout.kind, name_of(workload), namespace_of(workload)
    said = rollout.status_line(workload)[0]
    while True:
        params = {"fieldSelector": f"metadata.name={name}", "watch": "true"}
        params["resourceVersion"] = workload["metadata"]["resourceVersion"]
        for line in session.client.lines(kind.path(namespace), params=params):
            event = json.loads(line)
            if event["type"] == "ERROR":
                break
            if event["type"] == "DELETED":
                raise UserError(f"{kind.singular} {name!r} was deleted while its rollout was followed")
            workload = event["object"]
            text, done = rollout.status_line(workload)
            if text != said:
                _tell(rollout, workload, said)
                said = text
            if done:
                return
        workload = session.client.get(kind, name, namespace)
        if _tell(rollout, workload, said):
            return


def _tell(rollout: Rollout, workload: Object, said: str) -> bool:
    text, done = rollout.status_line(workload)
    if text != said:
        print(text, flush=True)
    return done


# History


def _history(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    for rollout, workload in _workloads(session):
        revisions = rollout.revisions(session, workload)
        if arguments.revision:
            chosen = revisions.get(arguments.revision)
            if chosen is None:
                raise UserError(f"{rollout.kind.singular} {name_of(workload)!r} has no revision {arguments.revision}")
            print(f"{_shown(workload)} with revision #{arguments.revision}")
            print(to_yaml({"Pod Template": chosen.template}), end="")
            continue
        print(_shown(workload))
        rows = [
            [str(number), revision.annotations.get(CHANGE_CAUSE, "<none>")]
            for number, revision in sorted(revisions.items())
        ]
        TablePrinter().print_rows(("REVISION", "CHANGE-CAUSE"), rows)
    return 0


def _undo(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    for rollout, workload in _workloads(session):
        name = name_of(workload)
        _check_not_paused(workload)
        revisions = rollout.revisions(session, workload)
        earlier = sorted(revisions)[:-1]  # the highest number is the present one
        wanted = arguments.to_revision or (earlier[-1] if earlier else 0)
        if wanted not in revisions:
            told = wanted or "before this one"
            raise UserError(f"{rollout.kind.singular} {name!r} has no revision {told} to go back to")
        template = revisions[wanted].template
        if template == workload["spec"]["template"]:
            print(f"{_shown(workload)} skipped rollback (current template already matches revision {wanted})")
            continue
        patch = [{"op": "replace", "path": "/spec/template", "value": template}]
        _patch(session, workload, patch, "application/json-patch+json")
        print(f"{_shown(workload)} rolled back")
    return 0


def _check_not_paused(workload: Object) -> None:
    if workload["spec"].get("paused"):
        name = name_of(workload)
        raise UserError(f"deployment {name!r} is paused: run 'pyk rollout resume deployment/{name}' first")


# Changes


def _restart(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    at = timestamp(RealClock().time())
    for _, workload in _workloads(session):
        _check_not_paused(workload)
        annotations = {"metadata": {"annotations": {RESTARTED_AT: at}}}
        _patch(session, workload, {"spec": {"template": annotations}})
        print(f"{_shown(workload)} restarted")
    return 0


def _pause(arguments: argparse.Namespace) -> int:
    return _set_paused(arguments, paused=True)


def _resume(arguments: argparse.Namespace) -> int:
    return _set_paused(arguments, paused=False)


def _set_paused(arguments: argparse.Namespace, *, paused: bool) -> int:
    session, status = Session(arguments), 0
    for rollout, deployment in _workloads(session):
        word = "paused" if paused else "resumed"
        if rollout.kind is not DEPLOYMENT:
            raise UserError(f"{rollout.kind.plural} cannot be {word}: name a deployment")
        if bool(deployment["spec"].get("paused")) == paused:
            print(f"pyk: deployment {name_of(deployment)!r} is {word} already", file=sys.stderr)
            status = 1
            continue
        _patch(session, deployment, {"spec": {"paused": paused or None}})
        print(f"{_shown(deployment)} {word}")
    return status


def _patch(session: Session, workload: Object, patch: Any, form: str = "application/merge-patch+json") -> None:
    kind = kind_of(workload)
    path = kind.path(namespace_of(workload), name_of(workload))
    try:
        session.client.json("PATCH", path, params={"fieldManager": "pyk"}, body=patch, content_type=form)
    except ApiError as error:
        raise UserError(f"{kind.singular} {name_of(workload)!r}: {error.message}") from error
