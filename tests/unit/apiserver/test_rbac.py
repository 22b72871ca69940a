"""What roles allow, how bindings bind, what nobody may give away, and how the first roles are mended."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.bootstrap import mended
from controlplane.apiserver.encoding import encode
from controlplane.apiserver.escalation import check_grant, missing_of
from controlplane.apiserver.policy import default_objects
from controlplane.apiserver.rbac import RoleBook, Rule, book_from, book_of
from controlplane.apiserver.watchcache import KindCache
from controlplane.controllers.roleaggregation import gathered_rules
from controlplane.store.contract import Event
from pyk.api.kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING, TABLE, Kind
from pyk.api.objects import name_of
from pyk.api.status import ApiError

Document = dict[str, Any]
ALICE = UserInfo("alice", groups=("dev", "system:authenticated"))
MASTER = UserInfo("root", groups=("system:masters",))
READ_PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}


def role(name: str, *rules: Document, namespace: str = "", **more: Any) -> tuple[Kind, Document]:
    kind = ROLE if namespace else CLUSTER_ROLE
    metadata = {"name": name, "resourceVersion": "1"} | ({"namespace": namespace} if namespace else {})
    return kind, {"kind": kind.kind, "metadata": metadata, "rules": list(rules), **more}


def binding(role_kind: str, name: str, subject: Document, namespace: str = "") -> tuple[Kind, Document]:
    kind = ROLE_BINDING if namespace else CLUSTER_ROLE_BINDING
    metadata = {"name": f"b-{name}"} | ({"namespace": namespace} if namespace else {})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": name}
    return kind, {"kind": kind.kind, "metadata": metadata, "roleRef": reference, "subjects": [subject]}


def person(name: str) -> Document:
    return {"kind": "User", "name": name}


def may(book: RoleBook, user: UserInfo, verb: str, resource: str, namespace: str = "", name: str = "") -> bool:
    whole, _, group = resource.partition(".")
    plural, _, subresource = whole.partition("/")
    return book.allows(user, verb, group, plural, subresource, namespace, name)


def test_a_role_counts_in_its_namespace_only() -> None:
    book = book_of([role("r", READ_PODS, namespace="a"), binding("Role", "r", person("alice"), "a")])
    assert may(book, ALICE, "get", "pods", "a")
    assert not may(book, ALICE, "get", "pods", "b")
    assert not may(book, ALICE, "get", "pods")
    assert not may(book, ALICE, "get", "pods/log", "a")
    assert not may(book, UserInfo("bob"), "get", "pods", "a")


def test_a_cluster_role_bound_in_a_namespace_counts_there() -> None:
    book = book_of([role("r", READ_PODS), binding("ClusterRole", "r", {"kind": "Group", "name": "dev"}, "a")])
    assert may(book, ALICE, "list", "pods", "a")
    assert not may(book, ALICE, "list", "pods", "b")


def test_a_service_account_is_bound_by_name_and_namespace() -> None:
    account = {"kind": "ServiceAccount", "name": "robot"}
    book = book_of([role("r", READ_PODS, namespace="a"), binding("Role", "r", account, "a")])
    assert may(book, UserInfo("system:serviceaccount:a:robot"), "get", "pods", "a")
    assert not may(book, UserInfo("system:serviceaccount:b:robot"), "get", "pods", "a")


@pytest.mark.parametrize(
    ("rule", "verb", "resource", "name", "allowed"),
    [
        (Rule(("get",), ("",), ("secrets",), ("s",)), "get", "secrets", "s", True),
        (Rule(("get",), ("",), ("secrets",), ("s",)), "get", "secrets", "t", False),
        (Rule(("get",), ("",), ("secrets",), ("s",)), "list", "secrets", "", False),
        (Rule(("*",), ("*",), ("*/status",)), "patch", "deployments/status.apps", "", True),
        (Rule(("*",), ("*",), ("*/status",)), "patch", "deployments.apps", "", False),
        (Rule(("*",), ("*",), ("*",)), "get", "pods/exec", "", True),
        (Rule(("get",), ("apps",), ("deployments",)), "get", "deployments", "", False),
    ],
)
def test_what_a_rule_covers(rule: Rule, verb: str, resource: str, name: str, allowed: bool) -> None:
    book = book_of([role("r", rule.to_document()), binding("ClusterRole", "r", person("alice"))])
    assert may(book, ALICE, verb, resource, "a", name) is allowed


def test_paths_end_in_a_star() -> None:
    rule = Rule(("get",), paths=("/healthz", "/livez/*")).to_document()
    book = book_of([role("r", rule), binding("ClusterRole", "r", person("alice"))])
    assert book.allows_path(ALICE, "get", "/healthz")
    assert book.allows_path(ALICE, "get", "/livez/ping")
    assert not book.allows_path(ALICE, "get", "/healthz/ping")
    assert not book.allows_path(ALICE, "post", "/healthz")


def test_a_book_follows_the_caches_through_changes_and_refills() -> None:
    caches = {kind: KindCache(kind) for kind in (ROLE, ROLE_BINDING, CLUSTER_ROLE, CLUSTER_ROLE_BINDING)}
    book = book_from(lambda kind: caches[kind])
    revision = 0

    def write(kind: Kind, obj: Document | None, name: str, namespace: str = "") -> None:
        nonlocal revision
        revision += 1
        stored = encode(copy.deepcopy(obj)) if obj is not None else None
        caches[kind].apply(Event(kind.storage_key(namespace, name), revision, stored, None))

    assert not may(book, ALICE, "get", "pods", "a")
    write(*role("r", READ_PODS, namespace="a"), "r", "a")
    write(*binding("Role", "r", person("alice"), "a"), "b", "a")
    assert may(book, ALICE, "get", "pods", "a")
    write(*role("r", {**READ_PODS, "verbs": ["list"]}, namespace="a"), "r", "a")
    assert not may(book, ALICE, "get", "pods", "a")
    assert may(book, ALICE, "list", "pods", "a")
    write(ROLE_BINDING, None, "b", "a")
    assert not may(book, ALICE, "list", "pods", "a")
    write(*binding("Role", "r", person("alice"), "a"), "b", "a")
    assert may(book, ALICE, "list", "pods", "a")
    caches[ROLE_BINDING].reset((), revision + 1)
    assert not may(book, ALICE, "list", "pods", "a")


def refused(book: RoleBook, user: UserInfo, kind: Kind, obj: Document, old: Document | None = None) -> str:
    with pytest.raises(ApiError) as raised:
        check_grant(book, user, kind, old, obj)
    return raised.value.message


def test_nobody_makes_a_role_with_more_than_they_have() -> None:
    book = book_of([role("have", READ_PODS), binding("ClusterRole", "have", person("alice"), "a")])
    check_grant(book, ALICE, *swap(role("r", READ_PODS, namespace="a")))
    more = {**READ_PODS, "verbs": ["get", "delete"]}
    words = refused(book, ALICE, *role("r", more, namespace="a"))
    assert words == (
        'roles.rbac.authorization.k8s.io "r" is forbidden: user "alice" (groups=["dev" "system:authenticated"]) is '
        "attempting to grant RBAC permissions not currently held:\n"
        '{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}'
    )
    assert refused(book, ALICE, *role("r", READ_PODS, namespace="b"))
    assert refused(book, ALICE, *role("r", READ_PODS))
    check_grant(book, MASTER, *swap(role("r", more, namespace="a")))


def swap(found: tuple[Kind, Document]) -> tuple[Kind, None, Document]:
    return found[0], None, found[1]


def test_whoever_may_escalate_or_bind_may() -> None:
    rbac = "rbac.authorization.k8s.io"
    rules = Rule(("escalate",), (rbac,), ("roles",)), Rule(("bind",), (rbac,), ("clusterroles",), ("big",))
    everything = Rule(("*",), ("*",), ("*",)).to_document()
    book = book_of(
        [
            role("r", *(rule.to_document() for rule in rules)),
            binding("ClusterRole", "r", person("alice")),
            role("big", everything),
            role("bigger", everything),
        ]
    )
    check_grant(book, ALICE, *swap(role("x", everything, namespace="a")))
    assert refused(book, ALICE, *role("x", everything))
    check_grant(book, ALICE, *swap(binding("ClusterRole", "big", person("bob"))))
    check_grant(book, ALICE, *swap(binding("ClusterRole", "big", person("bob"), "a")))
    assert "not currently held" in refused(book, ALICE, *binding("ClusterRole", "bigger", person("bob"), "a"))
    assert refused(book, ALICE, *binding("ClusterRole", "none", person("bob"))).endswith('"none" not found')


def test_finalizers_of_a_role_are_anybodys_who_may_update_it() -> None:
    kind, old = role("r", Rule(("*",), ("*",), ("*",)).to_document())
    new = copy.deepcopy(old)
    new["metadata"]["ownerReferences"] = [{"uid": "u"}]
    check_grant(RoleBook(), ALICE, kind, old, new)
    new["metadata"]["labels"] = {"a": "b"}
    assert refused(RoleBook(), ALICE, kind, new, old)


def test_only_who_may_everything_makes_a_role_that_gathers() -> None:
    gathers: Document = {"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}}
    assert "aggregationRule" in refused(RoleBook(), ALICE, *role("r", **gathers))
    book = book_of([*default_objects(), binding("ClusterRole", "cluster-admin", person("alice"))])
    check_grant(book, ALICE, *swap(role("r", **gathers)))


def test_wildcards_are_held_by_wildcards_only() -> None:
    wanted = [Rule(("*",), ("",), ("pods",))]
    assert missing_of(wanted, [Rule(("get", "list"), ("",), ("pods",))]) == wanted
    assert missing_of(wanted, [Rule(("*",), ("*",), ("pods",))]) == []
    by_name = Rule(("get",), ("",), ("pods",), ("p",))
    assert missing_of([by_name], [Rule(("get",), ("",), ("pods",))]) == []
    assert missing_of([Rule(("get",), ("",), ("pods",))], [by_name])


def test_aggregated_roles_gather_in_the_order_of_names_and_never_themselves() -> None:
    gathers: Document = {"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "x"}}]}}
    roles = [role("x", **gathers)[1], role("b", {"verbs": ["b"]})[1], role("a", {"verbs": ["a"]}, {"verbs": ["b"]})[1]]
    for each in roles:
        each["metadata"]["labels"] = {"to": "x"}
    roles.append(role("c", {"verbs": ["c"]})[1])
    assert gathered_rules(roles[0], roles) == [{"verbs": ["a"]}, {"verbs": ["b"]}]


def test_view_gathers_into_edit_and_edit_into_admin() -> None:
    roles = {name_of(obj): obj for kind, obj in default_objects() if kind is CLUSTER_ROLE}
    for name in ("view", "edit", "admin"):
        roles[name]["rules"] = gathered_rules(roles[name], roles.values())
    book = book_of([*((CLUSTER_ROLE, obj) for obj in roles.values())])
    for name in ("view", "edit", "admin"):
        book.put(*placed(binding("ClusterRole", name, person(name), "a")))
    assert may(book, UserInfo("view"), "get", "pods", "a")
    assert not may(book, UserInfo("view"), "get", "secrets", "a")
    assert may(book, UserInfo("edit"), "get", "pods/log", "a")
    assert may(book, UserInfo("edit"), "create", "deployments.apps", "a")
    assert not may(book, UserInfo("edit"), "create", "roles.rbac.authorization.k8s.io", "a")
    assert may(book, UserInfo("admin"), "create", "roles.rbac.authorization.k8s.io", "a")
    assert not may(book, UserInfo("admin"), "get", "pods", "b")


def placed(found: tuple[Kind, Document]) -> tuple[Kind, str, str, Document]:
    kind, obj = found
    return kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"], obj


def test_first_roles_are_mended_and_additions_stay() -> None:
    wanted = role("r", READ_PODS, {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]})[1]
    present = role("r", READ_PODS, {"apiGroups": ["x"], "resources": ["y"], "verbs": ["z"]})[1]
    mend = mended(present, wanted)
    assert mend is not None
    assert mend["rules"] == [*present["rules"], wanted["rules"][1]]
    assert mended(mend, wanted) is None
    present["metadata"]["annotations"] = {"rbac.authorization.kubernetes.io/autoupdate": "false"}
    assert mended(present, wanted) is None
    bound, other = binding("ClusterRole", "r", person("a"))[1], binding("ClusterRole", "r", person("b"))[1]
    assert [each["name"] for each in (mended(bound, other) or {})["subjects"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"verbs": [], "apiGroups": [""], "resources": ["pods"]}, "rules[0].verbs"),
        ({"verbs": ["get"], "resources": ["pods"]}, "rules[0].apiGroups"),
        ({"verbs": ["get"], "apiGroups": [""]}, "rules[0].resources"),
        ({"verbs": ["get"], "nonResourceURLs": ["/a"], "resources": ["pods"]}, "rules[0].nonResourceURLs"),
    ],
)
def test_a_rule_says_what_it_is_about(rule: Document, field: str) -> None:
    kind, obj = role("r", rule)
    assert [error.field for error in kind.rules.validate(obj, None)] == [field]


def test_a_binding_keeps_its_role_and_names_known_subjects() -> None:
    kind, old = binding("ClusterRole", "r", person("a"))
    kind.rules.default(old)
    assert old["subjects"][0]["apiGroup"] == "rbac.authorization.k8s.io"
    assert list(kind.rules.validate(old, None)) == []
    new = copy.deepcopy(old)
    new["roleRef"]["name"] = "s"
    assert [error.message.rpartition(": ")[2] for error in kind.rules.validate(new, old)] == ["cannot change roleRef"]
    wrong = binding("Role", "r", {"kind": "Robot", "name": "x"})[1]
    kind.rules.default(wrong)
    assert [error.field for error in kind.rules.validate(wrong, None)] == ["roleRef.kind", "subjects[0].kind"]


def test_every_default_role_is_valid() -> None:
    for kind, obj in default_objects():
        kind.rules.default(obj)
        assert list(kind.rules.validate(obj, None)) == []
    assert {"admin", "edit", "view", "cluster-admin"} <= {name_of(obj) for _, obj in default_objects()}
    assert {kind for kind, _ in default_objects()} <= set(TABLE)
