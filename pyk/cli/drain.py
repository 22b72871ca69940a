"""`pyk cordon`, `uncordon` and `drain`: take a node out of use, and back.

A drain evicts: pods that a PodDisruptionBudget keeps are asked for again whenever a budget changes, or every few
seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Collection
from typing import Any

from pyk.api.kinds import NODE, POD, POD_DISRUPTION_BUDGET
from pyk.api.objects import Object, annotations_of, controller_of, name_of, namespace_of, uid_of
from pyk.api.status import ApiError
from pyk.cli.session import Session, add_connection_options
from pyk.errors import UserError
from pyk.reconcile.clock import RealClock

_CLOCK = RealClock()
_RETRY_SECONDS = 5
MIRROR_POD = "kubernetes.io/config.mirror"


def register(subparsers: Any) -> None:
    for name, run, text in (
        ("cordon", _cordon, "place no more pods on a node"),
        ("uncordon", _uncordon, "place pods on a node again"),
        ("drain", _drain, "cordon a node and move its pods away"),
    ):
        parser = subparsers.add_parser(name, help=text)
        parser.add_argument("nodes", nargs="+", metavar="NODE")
        add_connection_options(parser, namespaced=False)
        if name == "drain":
            parser.add_argument("--ignore-daemonsets", action="store_true", help="leave the pods of DaemonSets")
            parser.add_argument(
                "--delete-emptydir-data", action="store_true", help="also pods whose emptyDir data will be lost"
            )
            parser.add_argument("--force", action="store_true", help="also pods that nothing will replace")
            parser.add_argument("--grace-period", type=int, default=None, metavar="SECONDS", help="time to end in")
            parser.add_argument("--timeout", type=float, default=0, metavar="SECONDS", help="give up then; 0: never")
            parser.add_argument(
                "--disable-eviction", action="store_true", help="delete pods whatever their disruption budgets say"
            )
        parser.set_defaults(run=run)


def _cordon(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    for name in arguments.nodes:
        _set_unschedulable(session, name, unschedulable=True)
    return 0


def _uncordon(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    for name in arguments.nodes:
        _set_unschedulable(session, name, unschedulable=False)
    return 0


def _set_unschedulable(session: Session, name: str, *, unschedulable: bool) -> None:
    name = name.removeprefix("node/")
    node = session.client.get(NODE, name)
    word = "cordoned" if unschedulable else "uncordoned"
    if bool((node.get("spec") or {}).get("unschedulable")) == unschedulable:
        print(f"node/{name} already {word}")
        return
    patch = {"spec": {"unschedulable": unschedulable or None}}
    session.client.json("PATCH", NODE.path("", name), body=patch, content_type="application/merge-patch+json")
    print(f"node/{name} {word}", flush=True)


def _drain(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    for name in (word.removeprefix("node/") for word in arguments.nodes):
        drain_node(session, name)
    return 0


def drain_node(session: Session, name: str, *, wait: bool = True) -> None:
    """Cordon the node, evict its pods by the command's options, and wait until they are gone. Raises `UserError`."""
    arguments = session.arguments
    deadline = _CLOCK.monotonic() + arguments.timeout if arguments.timeout else math.inf
    _set_unschedulable(session, name, unschedulable=True)
    listed = session.client.list(POD, field_selector=f"spec.nodeName={name}")
    leaving, refusals = pods_to_move(listed.get("items") or [], arguments)
    if refusals:
        raise UserError(f"cannot drain node {name!r}: {'; '.join(refusals)}")
    _evict_all(session, leaving, deadline)
    if wait:
        _wait_until_gone(session, name, {uid_of(pod) for pod in leaving}, deadline)
        print(f"node/{name} drained")


def _evict_all(session: Session, pods: list[Object], deadline: float) -> None:
    """Ask for every pod's eviction, and again for those that a budget keeps, until all are granted."""
    for pod in pods:
        print(f"evicting pod {namespace_of(pod)}/{name_of(pod)}", flush=True)
    while pods:
        version = session.client.list(POD_DISRUPTION_BUDGET)["metadata"]["resourceVersion"]
        kept = []
        for pod in pods:
            refusal = _evict(session, pod)
            if refusal:
                kept.append(pod)
                place = f'pods/"{name_of(pod)}" -n "{namespace_of(pod)}"'
                text = f"error when evicting {place} (will retry after {_RETRY_SECONDS} s or sooner): {refusal}"
                print(text, file=sys.stderr, flush=True)
        pods = kept
        if pods:
            _check_deadline(deadline, pods)
            _await_budgets(session, version, deadline)


def _evict(session: Session, pod: Object) -> str:
    """Ask for one pod's eviction; why a budget refuses it, or nothing when it is granted or the pod is gone."""
    arguments = session.arguments
    options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid_of(pod)}}
    if arguments.grace_period is not None:
        options["gracePeriodSeconds"] = arguments.grace_period
    try:
        if arguments.disable_eviction:
            session.client.json("DELETE", POD.path(namespace_of(pod), name_of(pod)), body=options)
        else:
            metadata = {"name": name_of(pod), "namespace": namespace_of(pod)}
            eviction = {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": metadata, "deleteOptions": options}
            session.client.json("POST", POD.path(namespace_of(pod), name_of(pod), "eviction"), body=eviction)
    except ApiError as error:
        if error.code == 429:
            return error.message
        if error.code not in (404, 409):
            raise
    return ""


def _await_budgets(session: Session, version: str, deadline: float) -> None:
    """Return when some disruption budget has changed since that version, or a while later."""
    seconds = max(1, int(min(_RETRY_SECONDS, deadline - _CLOCK.monotonic())))
    params = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(seconds)}
    for _ in session.client.lines(POD_DISRUPTION_BUDGET.path(), params=params):
        return


def _check_deadline(deadline: float, pods: Collection[object]) -> None:
    if _CLOCK.monotonic() >= deadline:
        raise UserError(f"the time is over: {len(pods)} pods are still there")


def pods_to_move(pods: list[Object], arguments: argparse.Namespace) -> tuple[list[Object], list[str]]:
    """The pods that a drain removes, and a sentence for each reason that keeps it from starting."""
    leaving, refusals = [], []
    for pod in pods:
        name = f"{namespace_of(pod)}/{name_of(pod)}"
        finished = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        owner = controller_of(pod)
        if MIRROR_POD in annotations_of(pod):
            continue
        if owner is not None and owner["kind"] == "DaemonSet":
            if not arguments.ignore_daemonsets:
                refusals.append(f"{name} belongs to a DaemonSet (--ignore-daemonsets leaves such pods)")
            continue
        if not finished and owner is None and not arguments.force:
            refusals.append(f"nothing would replace {name} (--force deletes such pods)")
        volumes = pod["spec"].get("volumes") or ()
        if not finished and any("emptyDir" in volume for volume in volumes) and not arguments.delete_emptydir_data:
            refusals.append(f"{name} has an emptyDir, whose data would be lost (--delete-emptydir-data allows it)")
        leaving.append(pod)
    return leaving, refusals


def _wait_until_gone(session: Session, node: str, uids: set[str], deadline: float) -> None:
    selector = {"fieldSelector": f"spec.nodeName={node}"}
    while True:
        listed = session.client.json("GET", POD.path(), params=selector)
        uids &= {uid_of(pod) for pod in listed.get("items") or []}
        if not uids:
            return
        _check_deadline(deadline, uids)
        params = {**selector, "watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        if deadline != math.inf:
            params["timeoutSeconds"] = str(max(1, math.ceil(deadline - _CLOCK.monotonic())))
        for line in session.client.lines(POD.path(), params=params):
            event = json.loads(line)
            if event["type"] == "ERROR":
                break
            if event["type"] == "DELETED" and uid_of(event["object"]) in uids:
                print(f"pod/{name_of(event['object'])} evicted", flush=True)
                uids.discard(uid_of(event["object"]))
                if not uids:
                    return
        sys.stdout.flush()
