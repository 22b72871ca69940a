"""Nobody gives away more than they have: checks of writes of roles and bindings.

Whoever writes a role holds all that the role allows, or may `escalate` it; whoever writes a binding holds what its
role allows, or may `bind` it. Whoever lets a role gather others' rules holds everything. Writes that only let the
garbage collector go on (finalizers, owners) are free. Source: the Kubernetes documentation on RBAC, "Privilege
escalation prevention and bootstrapping"; the sentences are kube-apiserver's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.rbac import RoleBook, Rule, covers, covers_path, role_key, rules_of
from pyk.api.groups.rbac import GROUP
from pyk.api.kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING, Kind
from pyk.api.objects import Object, name_of
from pyk.api.status import forbidden, not_found

MASTERS = "system:masters"
_EVERYTHING = (Rule(("*",), ("*",), ("*",)), Rule(("*",), paths=("*",)))


def _single(rule: Rule) -> Iterator[Rule]:
    """The rule as rules of one verb on one resource (of one name) or path."""
    for verb, path in product(rule.verbs, rule.paths):
        yield Rule((verb,), paths=(path,))
    for verb, group, resource, name in product(rule.verbs, rule.groups, rule.resources, rule.names or ("",)):
        yield Rule((verb,), (group,), (resource,), (name,) if name else ())


def _is_held(single: Rule, held: Sequence[Rule]) -> bool:
    if single.paths:
        return any(covers_path(rule, single.verbs[0], single.paths[0]) for rule in held)
    resource, _, subresource = single.resources[0].partition("/")
    name = single.names[0] if single.names else ""
    return any(covers(rule, single.verbs[0], single.groups[0], resource, subresource, name) for rule in held)


def missing_of(wanted: Iterable[Rule], held: Sequence[Rule]) -> list[Rule]:
    """What of the wanted rules the held ones do not allow, with the verbs of a resource together."""
    found: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for rule in wanted:
        for single in _single(rule):
            if not _is_held(single, held):
                verbs = found.setdefault((single.groups, single.resources, single.names, single.paths), [])
                if single.verbs[0] not in verbs:
                    verbs.append(single.verbs[0])
    return [Rule(tuple(verbs), *subject) for subject, verbs in found.items()]


def check_grant(book: RoleBook, user: UserInfo, kind: Kind, old: Object | None, new: Object | None) -> None:
    """Raises a 403 `ApiError` when the write of a role or binding gives away more than the user has.

    404 when a binding's role is missing, which only those may bind who may `bind` it.
    """
    if new is None or MASTERS in user.groups or (old is not None and _is_housekeeping(old, new)):
        return
    namespace = new["metadata"].get("namespace") or ""
    if kind in (ROLE, CLUSTER_ROLE):
        if book.allows(user, "escalate", GROUP, kind.plural, "", namespace, name_of(new)):
            return
        _check_held(book, user, kind, new, rules_of(new), namespace)
        before = (old or {}).get("aggregationRule")
        if (new.get("aggregationRule") or before) and missing_of(_EVERYTHING, list(book.rules_for(user, ""))):
            reason = "must have cluster-admin privileges to use the aggregationRule"
            raise forbidden(GROUP, kind.plural, name_of(new), reason)
    elif kind in (ROLE_BINDING, CLUSTER_ROLE_BINDING):
        where, role = role_key(new["roleRef"], namespace)
        plural = ROLE.plural if new["roleRef"]["kind"] == ROLE.kind else CLUSTER_ROLE.plural
        if book.allows(user, "bind", GROUP, plural, "", namespace, role):
            return
        rules = book.role(where, role)
        if rules is None:
            raise not_found(GROUP, plural, role)
        _check_held(book, user, kind, new, rules, namespace)


def _is_housekeeping(old: Object, new: Object) -> bool:
    """Whether finalizers and owners are all that changes."""
    free = ("finalizers", "ownerReferences", "managedFields", "resourceVersion", "deletionTimestamp")

    def rest(obj: Object) -> Object:
        return {**obj, "metadata": {key: value for key, value in obj["metadata"].items() if key not in free}}

    return rest(old) == rest(new)


def _check_held(book: RoleBook, user: UserInfo, kind: Kind, obj: Object, rules: Iterable[Rule], namespace: str) -> None:
    missing = missing_of(rules, list(book.rules_for(user, namespace)))
    if missing:
        groups = " ".join(map(json.dumps, user.groups))
        listed = "\n".join(sorted(map(_shown, missing)))
        reason = (
            f'user "{user.name}" (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n'
            f"{listed}"
        )
        raise forbidden(GROUP, kind.plural, name_of(obj), reason)


def _shown(rule: Rule) -> str:
    """As Go shows it: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`."""
    fields = {
        "APIGroups": rule.groups,
        "Resources": rule.resources,
        "ResourceNames": rule.names,
        "NonResourceURLs": rule.paths,
        "Verbs": rule.verbs,
    }
    parts = (f"{name}:[{' '.join(map(json.dumps, values))}]" for name, values in fields.items() if values)
    return f"{{{', '.join(parts)}}}"
