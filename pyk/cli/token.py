"""`pyk token`: the tokens with which machines join the cluster."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from pyk.api.joining import SERVERS_GROUP
from pyk.cli.session import Session, add_connection_options
from pyk.client.blocking import BlockingClient
from pyk.errors import UserError
from pyk.machine import tokens
from pyk.machine.options import ServerOptions
from pyk.reconcile.clock import RealClock, timestamp


def register(subparsers: Any) -> None:
    """Add the commands."""
    parser = subparsers.add_parser("token", help="tokens with which machines join the cluster")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make one and print it")
    create.add_argument("--ttl", metavar="TIME", help="how long it is good: 90m, 24h, 7d; 0 for ever (default 24h)")
    create.add_argument("--description", default="", metavar="TEXT", help="what it is for")
    create.add_argument(
        "--usages", default=",".join(tokens.USAGES), metavar="USAGES", help="authentication, signing or both (default)"
    )
    create.add_argument("--groups", default="", metavar="GROUPS", help="extra groups, system:bootstrappers:NAME,...")
    create.add_argument("--print-join-command", action="store_true", help="print the whole command for the machine")
    create.add_argument(
        "--server", action="store_true", help="for a further control plane (on a control plane only; good for 2h)"
    )
    create.add_argument(
        "--data-dir",
        type=Path,
        default=Path(ServerOptions().data_dir),
        metavar="DIR",
        help="of this control plane, with --server",
    )
    listing = actions.add_parser("list", help="show them, without their secrets")
    delete = actions.add_parser("delete", help="make it worthless at once")
    delete.add_argument("token", metavar="ID", help="the token, or its id")
    for action, run in ((create, run_create), (listing, run_list), (delete, run_delete)):
        add_connection_options(action, namespaced=False)
        action.set_defaults(run=run)


def run_create(arguments: argparse.Namespace) -> int:
    """Make a token."""
    usages = frozenset(part.strip() for part in arguments.usages.split(",") if part.strip())
    if not usages or not usages <= set(tokens.USAGES):
        raise UserError(f"--usages {arguments.usages}: choose of {', '.join(tokens.USAGES)}")
    default = tokens.SERVER_TTL_SECONDS if arguments.server else tokens.DEFAULT_TTL_SECONDS
    ttl = default if arguments.ttl is None else tokens.parse_ttl(arguments.ttl)
    groups = tuple(part.strip() for part in arguments.groups.split(",") if part.strip())
    if arguments.server:
        groups = (*groups, SERVERS_GROUP)
        if ttl == math.inf:
            raise UserError("a token for control planes has the cluster's keys: give it an end (--ttl)")
    clock = RealClock()
    client = _client(arguments)
    token = tokens.new_token(
        clock.time(), ttl, usages=usages, description=arguments.description, groups=tuple(dict.fromkeys(groups))
    )
    if not arguments.server:
        made = tokens.create(client, token)
        command = f"pyk agent --server {client.config.server} --token {made}"
    else:
        from pyk.machine import controlplane, server

        plane = controlplane.load(arguments.data_dir.absolute())
        made = tokens.create_for_servers(client, token, plane.pki_dir, server.join_settings(plane))
        command = f"pyk server --join {client.config.server} --token {made}"
    print(command if arguments.print_join_command else made)
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    """Show the tokens."""
    now = RealClock().time()
    rows = [("ID", "TTL", "EXPIRES", "USAGES", "FOR", "DESCRIPTION")]
    for token in tokens.listed(_client(arguments)):
        left = (
            "forever"
            if token.expires == math.inf
            else "expired"
            if token.is_expired(now)
            else _age(token.expires - now)
        )
        ends = "never" if token.expires == math.inf else timestamp(token.expires)
        what = "control planes" if tokens.is_for_servers(token) else "nodes"
        rows.append((token.id, left, ends, ",".join(sorted(token.usages)), what, token.description or "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def run_delete(arguments: argparse.Namespace) -> int:
    """Delete a token."""
    print(f"token {tokens.delete(_client(arguments), arguments.token)} deleted")
    return 0


def _client(arguments: argparse.Namespace) -> BlockingClient:
    return Session(arguments).client


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f}{unit}"
    return f"{seconds:.0f}s"
