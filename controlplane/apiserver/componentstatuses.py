"""ComponentStatus: whether scheduler, controllers and store work, looked at when somebody asks. Nothing is stored.

A component works that holds its lease (with `--leader-elect`, through whichever API server), or that watches through
this API server: it needs no port of its own to be seen. A single one of each writes no lease, a component whose
connection is gone watches nothing. The store works when it answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from controlplane.apiserver.request import ListOptions
from controlplane.apiserver.watchcache import WatchCache, unknown_field
from pyk.api.kinds import LEASE, Kind
from pyk.api.objects import Object, name_of
from pyk.api.selectors import matches
from pyk.api.status import not_found
from pyk.reconcile.clock import Clock, parse_timestamp

_STORE = "etcd-0"
_COMPONENTS = ("controller-manager", "scheduler")
_NAMESPACE = "kube-system"

Objects = list[Object]


class ComponentStatuses:
    """Answers reads. `watches` tells whether a user has a watch here, `reaches_store` whether the store answers."""

    warnings: Sequence[str] = ("v1 ComponentStatus is deprecated in v1.19+",)

    def __init__(
        self,
        cache: WatchCache,
        clock: Clock,
        watches: Callable[[str], bool],
        reaches_store: Callable[[], Awaitable[bool]],
    ) -> None:
        self._cache = cache
        self._clock = clock
        self._watches = watches
        self._reaches_store = reaches_store

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """The status of one component. Raises 404 for one that there is not."""
        for found in await self._all(kind):
            if name_of(found) == name:
                return found
        raise not_found(kind.group, kind.plural, name)

    async def list(self, kind: Kind, namespace: str, options: ListOptions) -> Objects:
        """Those that are selected by name; they have no labels. Raises 400 for another field."""
        for requirement in options.fields:
            if requirement.field != "metadata.name":
                raise unknown_field(kind, requirement.field)
        return [
            found
            for found in await self._all(kind)
            if all((name_of(found) == each.value) is each.equal for each in options.fields)
            and (not options.labels or matches(options.labels, {}))
        ]

    async def _all(self, kind: Kind) -> Objects:
        problems = {name: self._problem_of(f"kube-{name}") for name in _COMPONENTS}
        problems[_STORE] = "" if await self._reaches_store() else "the store does not answer"
        return [_status(kind, name, problem) for name, problem in sorted(problems.items())]

    def _problem_of(self, component: str) -> str:
        """Why the component does not seem to work; empty when it does."""
        spec: dict[str, Any] = (self._cache.lookup(LEASE, _NAMESPACE, component) or {}).get("spec") or {}
        if self._watches(f"system:{component}"):
            return ""
        if not spec.get("holderIdentity") or not spec.get("renewTime"):
            return "it holds no lease and watches nothing through this API server"
        silent = self._clock.time() - parse_timestamp(spec["renewTime"])
        if silent > float(spec.get("leaseDurationSeconds") or 0):
            return f"{spec['holderIdentity']} last renewed its lease {silent:.0f} s ago"
        return ""


def _status(kind: Kind, name: str, problem: str) -> Object:
    told = {"status": "False", "error": problem} if problem else {"status": "True", "message": "ok"}
    return {
        "kind": kind.kind,
        "apiVersion": kind.api_version,
        "metadata": {"name": name},
        "conditions": [{"type": "Healthy", **told}],
    }
