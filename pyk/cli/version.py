"""`pyk version`: of this client and of the server."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import Any

from pyk.cli.session import Session, add_connection_options


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("version", help="show the versions of the client and of the server")
    parser.add_argument("--client", action="store_true", help="the client's only")
    add_connection_options(parser, namespaced=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    print(f"Client Version: v{version('pyk-orchestrator')}")
    if not arguments.client:
        print(f"Server Version: {Session(arguments).client.json('GET', '/version')['gitVersion']}")
    return 0
