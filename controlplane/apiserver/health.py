"""/healthz, /livez and /readyz, with ?verbose and one path a check, as kube-apiserver has them."""

from __future__ import annotations

import asyncio

from controlplane.apiserver.answer import Answer
from controlplane.apiserver.connections import Connections
from controlplane.apiserver.request import Query
from controlplane.apiserver.responses import page_not_found, text
from controlplane.apiserver.watchcache import WatchCache
from controlplane.store.contract import Store, StoreError

_ENDPOINTS = ("healthz", "livez", "readyz")
_STORE_SECONDS = 2.0


class Health:
    """Checks what the server needs to answer."""

    def __init__(self, store: Store, cache: WatchCache, connections: Connections) -> None:
        self._store = store
        self._cache = cache
        self._connections = connections

    def serves(self, path: str) -> bool:
        return path.strip("/").split("/")[0] in _ENDPOINTS

    async def answer(self, path: str, query: Query) -> Answer:
        """200 when all checks of the endpoint pass, else 500, with the failing ones listed."""
        endpoint, _, check = path.strip("/").partition("/")
        found = await self._checks(endpoint)
        if check:
            if check not in found:
                return page_not_found()
            found = {check: found[check]}
        excluded = query.get("exclude", ())
        lines, failed = [], []
        for name, is_fine in found.items():
            if name in excluded:
                lines.append(f"[+]{name} excluded: ok")
            elif is_fine:
                lines.append(f"[+]{name} ok")
            else:
                lines.append(f"[-]{name} failed: reason withheld")
                failed.append(name)
        if failed:
            return text("\n".join([*lines, f"{endpoint} check failed", ""]), 500)
        if "verbose" in query:
            return text("\n".join([*lines, f"{endpoint} check passed", ""]))
        return text("ok")

    async def _checks(self, endpoint: str) -> dict[str, bool]:
        checks = {"ping": True, "etcd": await self.reaches_store()}
        if endpoint == "readyz":
            checks["informer-sync"] = self._cache.ready.is_set()
            checks["shutdown"] = not self._connections.is_stopping
        return checks

    async def reaches_store(self) -> bool:
        """Whether the store answers in time."""
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                await self._store.revision()
        except (StoreError, TimeoutError):
            return False
        return True
