"""Roles and bindings of the default policy, made and mended when the server starts.

As in Kubernetes, what is missing from a default role or binding is added and what an administrator added stays; an
object annotated `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone. A binding that leads to another
role than the default is an administrator's and is left alone as well.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable

from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.escalation import missing_of
from controlplane.apiserver.policy import AUTOUPDATE, default_objects, public_objects
from controlplane.apiserver.rbac import rules_of
from controlplane.apiserver.registry import Registry
from controlplane.apiserver.watchcache import WatchCache
from controlplane.apiserver.writes import Write
from pyk.api.kinds import Kind
from pyk.api.objects import Object, annotations_of, name_of, namespace_of
from pyk.api.status import ApiError


def mended(present: Object, wanted: Object) -> Object | None:
    """The present role or binding with everything of the wanted one; None when nothing is missing."""
    if annotations_of(present).get(AUTOUPDATE) == "false" or present.get("roleRef") != wanted.get("roleRef"):
        return None
    result = copy.deepcopy(present)
    for field in ("labels", "annotations"):
        result["metadata"][field] = {**(present["metadata"].get(field) or {}), **(wanted["metadata"].get(field) or {})}
    if "aggregationRule" in wanted:
        # Its rules are the aggregation's.
        result.setdefault("aggregationRule", wanted["aggregationRule"])
    elif "rules" in wanted:
        have = rules_of(present)
        missing = [
            document
            for document, rule in zip(wanted["rules"], rules_of(wanted), strict=True)
            if missing_of((rule,), have)
        ]
        if missing:
            result["rules"] = [*(present.get("rules") or ()), *missing]
    if "subjects" in wanted:
        subjects = present.get("subjects") or []
        missing_subjects = [subject for subject in wanted["subjects"] if subject not in subjects]
        if missing_subjects:
            result["subjects"] = [*subjects, *missing_subjects]
    return None if result == present else result


async def ensure_policy(
    registry: Registry,
    cache: WatchCache,
    user: UserInfo,
    objects: Iterable[tuple[Kind, Object]] | None = None,
) -> None:
    """Make the default roles and bindings, or mend them. Returns when the watch cache has them."""
    wanted = list([*default_objects(), *public_objects()] if objects is None else objects)
    await asyncio.gather(*(_ensure(registry, cache, user, kind, obj) for kind, obj in wanted))
    await cache.catch_up()


async def _ensure(registry: Registry, cache: WatchCache, user: UserInfo, kind: Kind, wanted: Object) -> None:
    namespace = namespace_of(wanted)
    present = cache.lookup(kind, namespace, name_of(wanted))
    if present is None:
        try:
            await registry.create(Write(user, kind, namespace), copy.deepcopy(wanted))
        except ApiError as error:
            if error.reason != "AlreadyExists":  # another server was faster
                raise
        return
    if mended(present, wanted) is None:
        return

    async def compute(old: Object) -> Object:
        new = mended(old, wanted)
        return old if new is None else await registry.finish_update(write, new, old)

    write = Write(user, kind, namespace, name_of(wanted))
    await registry.modify(write, compute)
