"""`pyk node rm`: take a machine out of the cluster for good, so that what it holds opens nothing any more.

Its pods are moved away first (by eviction, within their disruption budgets), its certificates are declared void, and
then its Node, its lease and its requests for certificates are deleted. A certificate cannot be called back; the API
server therefore keeps up to which moment a node's are void, and refuses them at each request. A machine of the same
name may join again with a new token.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from pyk.api.joining import REMOVED, REMOVED_NAMESPACE, voided_until
from pyk.api.kinds import CERTIFICATE_SIGNING_REQUEST, CONFIG_MAP, LEASE, NODE, Kind
from pyk.api.objects import is_condition_true, name_of
from pyk.api.signers import NODE_PREFIX
from pyk.api.status import ApiError
from pyk.cli.drain import drain_node
from pyk.cli.session import Session, add_connection_options
from pyk.client.blocking import BlockingClient
from pyk.reconcile.clock import RealClock, parse_timestamp

DRAIN_SECONDS = 300.0
LONGEST_LIFE_SECONDS = 366 * 86400.0
"""Of a node's certificate: what was voided longer ago has ended by itself, and is forgotten."""
_VOID_SECONDS = 2.0
"""Certificates tell their time in whole seconds: so long a new one could be taken for one from before the removal."""
_LEASES = "kube-node-lease"


def register(actions: Any) -> None:
    """Add the command."""
    parser = actions.add_parser("rm", help="drain a node, delete it, and void its certificates")
    parser.add_argument("node", metavar="NODE")
    add_connection_options(parser, namespaced=False)
    parser.add_argument("--force", action="store_true", help="also when pods or data of pods will be lost")
    parser.add_argument("--grace-period", type=int, default=None, metavar="SECONDS", help="time to end in")
    parser.add_argument("--timeout", type=float, default=DRAIN_SECONDS, metavar="SECONDS", help="give up draining then")
    parser.add_argument("--disable-eviction", action="store_true", help="whatever the disruption budgets say")
    parser.set_defaults(run=run, ignore_daemonsets=True)


def run(arguments: argparse.Namespace) -> int:
    """Remove the node."""
    arguments.delete_emptydir_data = arguments.force
    session, name = Session(arguments), arguments.node.removeprefix("node/")
    client = session.client
    is_ready = is_condition_true(client.get(NODE, name), "Ready")
    if not is_ready:
        print(f"node/{name} does not answer: its pods are given up", flush=True)
    drain_node(session, name, wait=is_ready)
    clock = RealClock()
    void(client, name)
    began = clock.monotonic()
    print(f"the certificates of node {name} are void", flush=True)
    _delete(client, NODE, name)
    _delete(client, LEASE, name, _LEASES)
    for request in client.list(CERTIFICATE_SIGNING_REQUEST)["items"]:
        if request["spec"].get("username") == f"{NODE_PREFIX}{name}":
            _delete(client, CERTIFICATE_SIGNING_REQUEST, name_of(request))
    asyncio.run(clock.sleep(max(0.0, began + _VOID_SECONDS - clock.monotonic())))
    print(f"node/{name} removed; on the machine itself, 'pyk uninstall agent' takes the rest away")
    return 0


def void(client: BlockingClient, name: str) -> None:
    """Declare void every certificate of the node that was made up to now, by the server's clock.

    One that is made within `_VOID_SECONDS` after this returns may be void too.
    """
    metadata = {"name": REMOVED, "namespace": REMOVED_NAMESPACE}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    trial = {**body, "metadata": {"generateName": f"{REMOVED}-", "namespace": REMOVED_NAMESPACE}}
    made = client.json("POST", CONFIG_MAP.path(REMOVED_NAMESPACE), params={"dryRun": "All"}, body=trial)
    now = parse_timestamp(made["metadata"]["creationTimestamp"])
    try:
        known = client.get(CONFIG_MAP, REMOVED, REMOVED_NAMESPACE).get("data") or {}
    except ApiError as error:
        if error.code != 404:
            raise
        client.json("POST", CONFIG_MAP.path(REMOVED_NAMESPACE), body=body)
        known = {}
    changes: dict[str, str | None] = {
        each: None for each in known if voided_until(known, each) < now - LONGEST_LIFE_SECONDS
    }
    changes[name] = f"{now + 1:.0f}"  # to the end of the second
    client.json(
        "PATCH",
        CONFIG_MAP.path(REMOVED_NAMESPACE, REMOVED),
        body={"data": changes},
        content_type="application/merge-patch+json",
    )


def _delete(client: BlockingClient, kind: Kind, name: str, namespace: str = "") -> None:
    try:
        client.json("DELETE", kind.path(namespace, name))
    except ApiError as error:
        if error.code != 404:
            raise
