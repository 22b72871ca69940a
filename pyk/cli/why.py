"""`pyk why`: why a pod is where it is, or nowhere; and what would happen if.

Of a pod the scheduler has its latest decision on record, at an address that it tells in a ConfigMap; whoever may get
the pod may read it there. Where nothing is on record, and for what is only imagined, this module gathers what the
scheduler's rules read, with the rights of whoever asks, and hands it to `python -m scheduler.why`: the scheduler's own
code decides about a picture of the cluster, which stays as it is. The answer says which of the two it is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

from pyk.api.kinds import BY_KIND, CONFIG_MAP, POD
from pyk.api.objects import Object
from pyk.api.scheduler import DECISIONS_ADDRESS, DECISIONS_NAMESPACE, DECISIONS_PATH, KEY, SERVER_NAME
from pyk.api.status import ApiError
from pyk.cli.manifests import read_manifests
from pyk.cli.session import Session, add_connection_options
from pyk.client.blocking import BlockingClient, ServerUnreachable
from pyk.errors import UserError

NEEDED = (("v1", "Node"), ("v1", "Pod"))
HELPFUL = (
    ("v1", "Namespace"),
    ("v1", "Service"),
    ("v1", "ReplicationController"),
    ("apps/v1", "ReplicaSet"),
    ("apps/v1", "StatefulSet"),
    ("policy/v1", "PodDisruptionBudget"),
    ("scheduling.k8s.io/v1", "PriorityClass"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "PersistentVolume"),
    ("storage.k8s.io/v1", "StorageClass"),
    ("storage.k8s.io/v1", "CSINode"),
    ("storage.k8s.io/v1", "CSIDriver"),
    ("storage.k8s.io/v1", "CSIStorageCapacity"),
)
"""What some rules read besides; whoever may not list it gets an answer without it, and is told."""

CHANGES = {
    "add-node": "cpu=4,memory=8Gi[,count=3][,NODE][,LABEL=VALUE]: nodes more; a node's name is a pattern",
    "remove-node": "a node less",
    "cordon": "no new pods on the node",
    "uncordon": "new pods on the node again",
    "drain": "cordoned, and its pods have to go elsewhere",
    "taint": "NODE:key=value:Effect, or NODE:key- to take it away",
    "label": "NODE:key=value, or NODE:key- to take it away",
}


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("why", help="tell why a pod is where it is or nowhere, and what would happen if")
    parser.add_argument("pod", nargs="?", metavar="POD", help="the pod to explain")
    parser.add_argument("--what-if", action="store_true", help="imagine -f and the changes below; nothing is changed")
    parser.add_argument("-f", "--filename", action="append", default=[], metavar="SOURCE", help="what might be applied")
    for change, text in CHANGES.items():
        metavar = "WHAT" if change in ("add-node", "taint", "label") else "NODE"
        parser.add_argument(f"--{change}", action=_InOrder, dest="changes", metavar=metavar, help=f"imagine: {text}")
    parser.add_argument("--all", action="store_true", help="show all nodes and pods, not only the first")
    parser.add_argument("--config", metavar="FILE", help="the scheduler's configuration, where it has one")
    parser.add_argument("--anew", action="store_true", help="decide anew, whatever the scheduler has recorded")
    add_connection_options(parser)
    parser.set_defaults(run=run, changes=[])


class _InOrder(argparse.Action):
    """Keeps options of several names in the order in which they were given."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.changes = [*namespace.changes, [(option_string or "").lstrip("-"), values]]


def run(arguments: argparse.Namespace) -> int:
    if (arguments.changes or arguments.filename) and not arguments.what_if:
        raise UserError("manifests and changes of nodes are imagined with --what-if only")
    if not arguments.pod and not arguments.what_if:
        raise UserError("name a pod: 'pyk why POD', or ask 'pyk why --what-if -f FILE'")
    if arguments.pod and arguments.filename:
        raise UserError("ask about a pod or about manifests, not both at once")
    session = Session(arguments)
    name = (arguments.pod or "").removeprefix("pod/")
    if name:
        session.client.get(POD, name, session.namespace)
        if not (arguments.what_if or arguments.anew or arguments.all):
            lines, missing = _recorded(session, name)
            if lines:
                print("As the scheduler recorded it:", *lines, sep="\n")
                return 0
            print(f"{missing}; decided anew, as things are now:")
    question = {
        "objects": _objects(session),
        "pod": f"{session.namespace}/{name}" if name else "",
        "manifests": [_in_namespace(each.obj, session.namespace) for each in _manifests(arguments)],
        "changes": arguments.changes,
        "all": arguments.all,
        "config": os.path.abspath(arguments.config) if arguments.config else "",
    }
    sys.stdout.flush()
    command = [sys.executable, "-m", "scheduler.why"]
    return subprocess.run(command, input=json.dumps(question).encode(), check=False).returncode


def _recorded(session: Session, name: str) -> tuple[list[str], str]:
    """The scheduler's record of its latest decision about the pod, in lines; or none, and why there is none."""
    try:
        found = session.client.get(CONFIG_MAP, DECISIONS_ADDRESS, DECISIONS_NAMESPACE)
    except ApiError as error:
        if error.code in (403, 404):
            return [], "The scheduler does not say where it records its decisions"
        raise
    config = replace(session.config, server=found["data"][KEY], server_name=SERVER_NAME)
    client = BlockingClient(config, user_agent="pyk")
    try:
        document = client.json("GET", f"{DECISIONS_PATH}/{session.namespace}/{name}")
    except ApiError as error:
        if error.code == 404:
            return [], "The scheduler has no decision about the pod on record"
        return [], f"The scheduler's record cannot be read ({error.message})"
    except ServerUnreachable as error:
        return [], f"The scheduler's record cannot be read ({error})"
    finally:
        client.close()
    return document["text"], ""


def _manifests(arguments: argparse.Namespace) -> list[Any]:
    return read_manifests(arguments.filename) if arguments.filename else []


def _in_namespace(document: Object, namespace: str) -> Object:
    metadata = document.get("metadata") or {}
    return {**document, "metadata": {**metadata, "namespace": metadata.get("namespace") or namespace}}


def _objects(session: Session) -> list[Object]:
    found: list[Object] = []
    for key in (*NEEDED, *HELPFUL):
        kind = BY_KIND.get(key)
        if kind is None:
            continue
        try:
            items = session.client.list(kind)["items"] or []
        except ApiError as error:
            if key in NEEDED or error.code != 403:
                raise
            print(f"pyk: without {kind.plural}, which you may not list", file=sys.stderr)
            continue
        found += [{**item, "apiVersion": kind.api_version, "kind": kind.kind} for item in items]
    return found
