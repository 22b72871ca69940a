"""`pyk scale`: how many pods a workload should have."""

from __future__ import annotations

import argparse
from typing import Any

from pyk.cli.session import Session, add_connection_options, parse_wanted
from pyk.errors import UserError


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("scale", help="set the number of pods of a workload")
    parser.add_argument("what", nargs="+", metavar="KIND/NAME", help="deployment/web, sts web, ...")
    parser.add_argument("--replicas", type=int, required=True, metavar="N", help="how many pods there should be")
    parser.add_argument("--current-replicas", type=int, metavar="N", help="only if there should be this many now")
    add_connection_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.replicas < 0:
        raise UserError("--replicas must be 0 or more")
    session = Session(arguments)
    for one in parse_wanted(arguments.what, need_names=True):
        if one.kind.scale is None:
            raise UserError(f"{one.kind.plural} cannot be scaled: name a deployment, a statefulset or a replicaset")
        for name in one.names:
            path = one.kind.path(session.namespace, name, "scale")
            scale = session.client.json("GET", path)
            now = scale["spec"].get("replicas", 0)
            if arguments.current_replicas is not None and now != arguments.current_replicas:
                raise UserError(f"{one.kind.resource_name}/{name} should have {now} replicas now, not as expected")
            scale["spec"]["replicas"] = arguments.replicas
            session.client.json("PUT", path, body=scale)
            print(f"{one.kind.resource_name}/{name} scaled")
    return 0
