"""RBAC: what the roles that are bound to a user allow, read live from the watch cache.

`RoleBook` follows the four kinds through the changes that the watch cache keeps: it looks whether there are new ones
before each decision, which costs four comparisons of integers. Rules are parsed once a role; bindings are indexed by
the subjects that they name, so a decision looks at what is bound to the user and to nothing else, and what was
gathered for a user is kept until a role or binding changes. Rules only ever allow: what no rule allows is denied. A
binding to a role that is missing allows nothing. Source: the Kubernetes documentation on RBAC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.encoding import decode
from controlplane.apiserver.watchcache import Change, Entry
from pyk.api.kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING, Kind
from pyk.api.objects import Object, name_of, namespace_of

_ACCOUNTS = "system:serviceaccount:"
_KEPT_USERS = 4096
"""How many gathered rule sets are kept before they are thrown away together."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is allowed: these verbs on these resources (of these names, when there are any), or on these paths.

    `verbs`, `groups` (API groups) and `resources` may hold `*`; a subresource is written `pods/log`, `*/status` is the
    status of everything, and `*` among the resources includes subresources. A path may end in `*`.
    """

    verbs: tuple[str, ...]
    groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """As a PolicyRule."""
        fields = {
            "verbs": self.verbs,
            "apiGroups": self.groups,
            "resources": self.resources,
            "resourceNames": self.names,
            "nonResourceURLs": self.paths,
        }
        return {field: list(values) for field, values in fields.items() if values}

    @staticmethod
    def from_document(document: dict[str, Any]) -> Rule:
        fields = ("verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs")
        return Rule(*(tuple(document.get(field) or ()) for field in fields))


def covers(rule: Rule, verb: str, group: str, resource: str, subresource: str, name: str) -> bool:
    """Whether a rule allows a verb on a resource."""
    if not rule.resources or (verb not in rule.verbs and "*" not in rule.verbs):
        return False
    if group not in rule.groups and "*" not in rule.groups:
        return False
    if rule.names and name not in rule.names:
        return False
    whole = f"{resource}/{subresource}" if subresource else resource
    return (
        "*" in rule.resources or whole in rule.resources or (bool(subresource) and f"*/{subresource}" in rule.resources)
    )


def covers_path(rule: Rule, verb: str, path: str) -> bool:
    """Whether a rule allows a verb on a path that is no resource."""
    if verb not in rule.verbs and "*" not in rule.verbs:
        return False
    return any(path == each or (each.endswith("*") and path.startswith(each[:-1])) for each in rule.paths)


class RuleSet:
    """Rules, by the resources that they are about."""

    __slots__ = ("_by_resource", "_paths", "rules")

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(dict.fromkeys(rules))
        self._by_resource: dict[str, list[Rule]] = {}
        self._paths = [rule for rule in self.rules if rule.paths]
        for rule in self.rules:
            for resource in rule.resources:
                self._by_resource.setdefault(resource, []).append(rule)

    def allows(self, verb: str, group: str, resource: str, subresource: str = "", name: str = "") -> bool:
        found = self._by_resource
        if not found:
            return False
        keys = (f"{resource}/{subresource}", f"*/{subresource}", "*") if subresource else (resource, "*")
        for key in keys:
            for rule in found.get(key, ()):
                if covers(rule, verb, group, resource, subresource, name):
                    return True
        return False

    def allows_path(self, verb: str, path: str) -> bool:
        return any(covers_path(rule, verb, path) for rule in self._paths)


_NOTHING = RuleSet(())


class Source(Protocol):
    """Where the objects of one kind come from: a `KindCache`."""

    kind: Kind
    changed: int

    def entries(self, namespace: str = "") -> list[Entry]: ...

    def changes_after(self, revision: int) -> list[Change] | None: ...


@dataclass(frozen=True, slots=True)
class _Binding:
    namespace: str
    role: tuple[str, str]
    """The role's namespace (empty for a ClusterRole) and name."""
    subjects: tuple[str, ...]


class RoleBook:
    """All roles and bindings. `sources` are the caches of the four kinds; without any, `put` fills the book."""

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        self._sources = [[source, -1] for source in sources]
        self._roles: dict[tuple[str, str], tuple[Rule, ...]] = {}
        self._bindings: dict[tuple[str, str], _Binding] = {}
        self._by_subject: dict[tuple[str, str], dict[tuple[str, str], None]] = {}
        """The keys of the bindings by the namespace in which they count (empty: everywhere) and a subject."""
        self._namespaces: dict[str, int] = {}
        """How many bindings a namespace has."""
        self._gathered: dict[tuple[str, tuple[str, ...], str], RuleSet] = {}

    def put(self, kind: Kind, namespace: str, name: str, obj: Object | None) -> None:
        """Take over the present state of one object, None when it is gone."""
        self._gathered.clear()
        if kind in (ROLE, CLUSTER_ROLE):
            if obj is None:
                self._roles.pop((namespace, name), None)
            else:
                self._roles[namespace, name] = rules_of(obj)
            return
        key = (namespace, name)
        if (before := self._bindings.pop(key, None)) is not None:
            self._namespaces[namespace] -= 1
            for subject in before.subjects:
                self._by_subject[namespace, subject].pop(key, None)
                if not self._by_subject[namespace, subject]:
                    del self._by_subject[namespace, subject]
        if obj is not None:
            binding = self._bindings[key] = _binding(namespace, obj)
            self._namespaces[namespace] = self._namespaces.get(namespace, 0) + 1
            for subject in binding.subjects:
                self._by_subject.setdefault((namespace, subject), {})[key] = None

    def _catch_up(self) -> None:
        for pair in self._sources:
            source: Source = pair[0]  # type: ignore[assignment]
            if source.changed == pair[1]:
                continue
            changes = source.changes_after(pair[1])  # type: ignore[arg-type]
            if changes is None:
                self._forget(source.kind)
                for entry in source.entries():
                    self.put(source.kind, entry.namespace, entry.name, decode(entry.data))
            else:
                for change in changes:
                    entry_of = change.new or change.old
                    if entry_of is not None:
                        obj = decode(change.new.data) if change.new is not None else None
                        self.put(source.kind, entry_of.namespace, entry_of.name, obj)
            pair[1] = source.changed

    def _forget(self, kind: Kind) -> None:
        known = self._roles if kind in (ROLE, CLUSTER_ROLE) else self._bindings
        for namespace, name in [key for key in known if bool(key[0]) == kind.namespaced]:
            self.put(kind, namespace, name, None)

    def everywhere(self, user: UserInfo) -> RuleSet:
        """What the user may in all namespaces and beside them."""
        self._catch_up()
        return self._gather(user, "")

    def within(self, user: UserInfo, namespace: str) -> RuleSet:
        """What the user may in one namespace by bindings of that namespace."""
        self._catch_up()
        return self._gather(user, namespace) if namespace and self._namespaces.get(namespace) else _NOTHING

    def rules_for(self, user: UserInfo, namespace: str) -> Iterator[Rule]:
        """All rules that count for a user in a namespace (empty: beside namespaces)."""
        return chain(self.everywhere(user).rules, self.within(user, namespace).rules)

    def allows(
        self, user: UserInfo, verb: str, group: str, resource: str, subresource: str, ns: str, name: str
    ) -> bool:
        """Whether a verb on a resource is allowed; `ns` is the namespace, empty at the cluster scope."""
        if self.everywhere(user).allows(verb, group, resource, subresource, name):
            return True
        return bool(ns) and self.within(user, ns).allows(verb, group, resource, subresource, name)

    def allows_path(self, user: UserInfo, verb: str, path: str) -> bool:
        return self.everywhere(user).allows_path(verb, path)

    def why_allowed(self, user: UserInfo, namespace: str, allows: Callable[[Rule], bool]) -> str:
        """Which binding allows something, in the words of Kubernetes; empty when none does."""
        self._catch_up()
        for where in dict.fromkeys(("", namespace)):
            for subject in (_user_key(user.name), *map(_group_key, user.groups)):
                for key in self._by_subject.get((where, subject), ()):
                    role = self._bindings[key].role
                    if any(map(allows, self._roles.get(role, ()))):
                        return f"RBAC: allowed by {_binding_words(key, role)} to {_subject_words(subject)}"
        return ""

    def role(self, namespace: str, name: str) -> tuple[Rule, ...] | None:
        """The rules of a Role, or of a ClusterRole when `namespace` is empty; None when there is none."""
        self._catch_up()
        return self._roles.get((namespace, name))

    def _gather(self, user: UserInfo, namespace: str) -> RuleSet:
        key = (user.name, user.groups, namespace)
        found = self._gathered.get(key)
        if found is None:
            if len(self._gathered) >= _KEPT_USERS:
                self._gathered.clear()
            found = self._gathered[key] = RuleSet(self._bound(user, namespace)) if self._bindings else _NOTHING
        return found

    def _bound(self, user: UserInfo, namespace: str) -> Iterator[Rule]:
        for subject in (_user_key(user.name), *map(_group_key, user.groups)):
            for key in self._by_subject.get((namespace, subject), ()):
                yield from self._roles.get(self._bindings[key].role, ())


def _binding_words(key: tuple[str, str], role: tuple[str, str]) -> str:
    namespace, name = key
    binding = f'RoleBinding "{name}/{namespace}"' if namespace else f'ClusterRoleBinding "{name}"'
    return f'{binding} of {"Role" if role[0] else "ClusterRole"} "{role[1]}"'


def _subject_words(subject: str) -> str:
    name = subject[1:]
    if name.startswith(_ACCOUNTS):
        namespace, _, account = name.removeprefix(_ACCOUNTS).partition(":")
        return f'ServiceAccount "{account}/{namespace}"'
    return f'{"User" if subject == _user_key(name) else "Group"} "{name}"'


def rules_of(role: Object) -> tuple[Rule, ...]:
    """The rules of a Role or ClusterRole."""
    return tuple(Rule.from_document(rule) for rule in role.get("rules") or ())


def role_key(reference: dict[str, Any], namespace: str) -> tuple[str, str]:
    """The namespace (empty for a ClusterRole) and name of a binding's `roleRef`."""
    return ("" if reference["kind"] == "ClusterRole" else namespace), str(reference["name"])


def service_account_user(namespace: str, name: str) -> str:
    """The user name of a service account."""
    return f"{_ACCOUNTS}{namespace}:{name}"


def _binding(namespace: str, obj: Object) -> _Binding:
    subjects = []
    for subject in obj.get("subjects") or ():
        name = str(subject["name"])
        match subject["kind"]:
            case "ServiceAccount":
                where = subject.get("namespace") or namespace
                subjects.append(_user_key(service_account_user(where, name)))
            case "User":
                subjects.append(_user_key(name))
            case "Group":
                subjects.append(_group_key(name))
    return _Binding(namespace, role_key(obj["roleRef"], namespace), tuple(dict.fromkeys(subjects)))


def _user_key(name: str) -> str:
    return f"u{name}"


def _group_key(name: str) -> str:
    return f"g{name}"


def book_of(objects: Iterable[tuple[Kind, Object]]) -> RoleBook:
    """A book of these objects."""
    book = RoleBook()
    for kind, obj in objects:
        book.put(kind, namespace_of(obj), name_of(obj), obj)
    return book


def book_from(cache_of: Callable[[Kind], Source]) -> RoleBook:
    """A book that follows the watch cache."""
    return RoleBook(cache_of(kind) for kind in (ROLE, CLUSTER_ROLE, ROLE_BINDING, CLUSTER_ROLE_BINDING))
