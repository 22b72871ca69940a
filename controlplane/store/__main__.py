"""`python -m controlplane.store dump|load FILE`: a store's content as a file, and a new store from one.

Used by `pyk backup` and `pyk restore`, which add what else a control plane consists of.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
from pathlib import Path

from controlplane.store import backup
from controlplane.store.contract import StoreError
from controlplane.store.etcd import EtcdStore
from controlplane.store.etcd_connection import EtcdConnection
from pyk.reconcile.clock import RealClock


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m controlplane.store", description=__doc__)
    parser.add_argument("action", choices=("dump", "load"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--sqlite", type=Path, help="the store's file")
    parser.add_argument("--etcd-endpoints", help="or etcd's: HOST:PORT,...")
    parser.add_argument("--etcd-ca", type=Path)
    parser.add_argument("--etcd-cert", type=Path)
    parser.add_argument("--etcd-key", type=Path)
    return parser


async def _etcd(arguments: argparse.Namespace) -> int:
    clock = RealClock()
    tls = {"ca": arguments.etcd_ca, "cert": arguments.etcd_cert, "key": arguments.etcd_key}
    endpoints = arguments.etcd_endpoints.split(",")
    store = EtcdStore(endpoints, clock=clock, **tls)
    await store.open()
    try:
        if arguments.action == "load":
            return await backup.load_etcd(store, backup.read(arguments.file))
        connection = EtcdConnection(endpoints, clock=clock, **tls)
        await connection.open()
        try:
            dump = await backup.dump_etcd(store, connection)
        finally:
            await connection.close()
        backup.write(dump, arguments.file)
        return dump.revision
    finally:
        await store.close()


def _sqlite(arguments: argparse.Namespace) -> int:
    if arguments.action == "load":
        return backup.load_sqlite(arguments.sqlite, backup.read(arguments.file), RealClock().time())
    dump = backup.dump_sqlite(arguments.sqlite)
    backup.write(dump, arguments.file)
    return dump.revision


def main() -> int:
    """Print the revision; the exit status."""
    parser = _parser()
    arguments = parser.parse_args()
    if (arguments.sqlite is None) == (arguments.etcd_endpoints is None):
        parser.error("name the store: --sqlite FILE or --etcd-endpoints HOST:PORT,...")
    try:
        revision = _sqlite(arguments) if arguments.sqlite is not None else asyncio.run(_etcd(arguments))
    except (StoreError, OSError, sqlite3.Error) as error:
        print(error, file=sys.stderr)
        return 1
    print(revision)
    return 0


if __name__ == "__main__":
    sys.exit(main())
