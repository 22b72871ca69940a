"""The revisioned key-value store behind the API server: a contract and its two implementations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from controlplane.store.contract import Store
from pyk.reconcile.clock import Clock


def open_store(
    engine: Literal["sqlite", "etcd"],
    *,
    clock: Clock,
    path: str | Path | None = None,
    endpoints: Sequence[str] = (),
    ca: str | Path | None = None,
    cert: str | Path | None = None,
    key: str | Path | None = None,
) -> Store:
    """A store that still has to be opened with `await store.open()`.

    `sqlite` needs `path`, the database file. `etcd` needs `endpoints` (`host:port`, or with `http://` or `https://`
    before); `ca`, `cert` and `key` are PEM files. Raises `ValueError` when something is missing.
    """
    # Each engine is imported only when it is chosen: a SQLite store loads no gRPC.
    if engine == "sqlite":
        if path is None:
            raise ValueError("the sqlite store needs the path of its file")
        from controlplane.store.sqlite import SqliteStore

        return SqliteStore(path, clock=clock)
    if engine == "etcd":
        if not endpoints:
            raise ValueError("the etcd store needs at least one endpoint")
        from controlplane.store.etcd import EtcdStore

        return EtcdStore(endpoints, ca=ca, cert=cert, key=key, clock=clock)
    raise ValueError(f"there is no store engine {engine!r}; choose sqlite or etcd")
