"""Who may do what: the policy as a table, nodes' limits, and the words of a refusal."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from controlplane.apiserver.authentication import ANONYMOUS, UserInfo
from controlplane.apiserver.authorization import Attributes, Authorizer, references
from controlplane.apiserver.encoding import encode
from controlplane.apiserver.nodepods import NodePods
from controlplane.apiserver.policy import default_objects
from controlplane.apiserver.rbac import book_of
from controlplane.apiserver.watchcache import Entry, KindCache, make_entry
from controlplane.store.contract import Event
from pyk.api.kinds import LEASE, NODE, POD, Kind
from pyk.api.selectors import FieldRequirement
from pyk.api.status import ApiError

Document = dict[str, Any]


def user(name: str, *groups: str) -> UserInfo:
    return UserInfo(name, groups=(*groups, "system:authenticated"))


ADMIN = user("kubernetes-admin", "system:masters")
CONTROLLERS = user("system:kube-controller-manager")
SCHEDULER = user("system:kube-scheduler")
SOMEBODY = user("somebody")
NODE_1 = user("system:node:n1", "system:nodes")

PODS = [
    {
        "metadata": {"name": "mine", "namespace": "default"},
        "spec": {
            "nodeName": "n1",
            "volumes": [
                {"name": "a", "secret": {"secretName": "in-volume"}},
                {"name": "b", "projected": {"sources": [{"configMap": {"name": "projected"}}]}},
            ],
            "containers": [
                {
                    "name": "c",
                    "envFrom": [{"configMapRef": {"name": "env-from"}}],
                    "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "env-key", "key": "k"}}}],
                }
            ],
            "imagePullSecrets": [{"name": "pull"}],
        },
    },
    {
        "metadata": {"name": "other", "namespace": "default"},
        "spec": {"nodeName": "n2", "containers": [], "volumes": [{"name": "a", "secret": {"secretName": "not-mine"}}]},
    },
]


def entry(pod: Document, revision: int) -> Entry:
    key = POD.storage_key(pod["metadata"]["namespace"], pod["metadata"]["name"])
    return make_entry(POD, key, encode({"kind": "Pod", "apiVersion": "v1", **copy.deepcopy(pod)}), revision)


def cached(pods: list[Document]) -> KindCache:
    cache = KindCache(POD)
    cache.reset((entry(pod, 1) for pod in pods), 1)
    return cache


AUTHORIZER = Authorizer(NodePods(cached(PODS)), book_of(default_objects()))


def asked(who: UserInfo, verb: str, resource: str, **more: Any) -> Attributes:
    """`pods`, `pods/log`, `deployments.apps`; a word that begins with `/` is a path."""
    if resource.startswith("/"):
        return Attributes(who, verb, path=resource)
    whole, _, group = resource.partition(".")
    name, _, subresource = whole.partition("/")
    return Attributes(who, verb, group, "v1", name, subresource, **more)


ALLOWED: list[tuple[UserInfo, str, str, Document]] = [
    (ADMIN, "delete", "nodes", {"name": "n1"}),
    (ADMIN, "create", "pods/exec", {"namespace": "default", "name": "p"}),
    (ADMIN, "get", "/metrics", {}),
    (ADMIN, "impersonate", "anything.example.com", {}),
    (ANONYMOUS, "get", "/healthz", {}),
    (ANONYMOUS, "get", "/readyz", {}),
    (ANONYMOUS, "get", "/version", {}),
    (SOMEBODY, "get", "/api", {}),
    (SOMEBODY, "get", "/apis/apps/v1", {}),
    (SOMEBODY, "get", "/openapi/v3/api/v1", {}),
    (CONTROLLERS, "create", "pods", {"namespace": "a"}),
    (CONTROLLERS, "update", "deployments/status.apps", {"namespace": "a"}),
    (CONTROLLERS, "deletecollection", "secrets", {"namespace": "a"}),
    (CONTROLLERS, "update", "namespaces/finalize", {}),
    (CONTROLLERS, "create", "events", {"namespace": "a"}),
    (CONTROLLERS, "update", "leases.coordination.k8s.io", {"namespace": "kube-system"}),
    (SCHEDULER, "watch", "pods", {}),
    (SCHEDULER, "create", "pods/binding", {"namespace": "a", "name": "p"}),
    (SCHEDULER, "patch", "pods/status", {"namespace": "a", "name": "p"}),
    (SCHEDULER, "list", "nodes", {}),
    (NODE_1, "create", "nodes", {}),
    (NODE_1, "get", "nodes", {"name": "n1"}),
    (NODE_1, "watch", "nodes", {"name": "n1"}),
    (NODE_1, "patch", "nodes/status", {"name": "n1"}),
    (NODE_1, "watch", "pods", {"fields": (FieldRequirement("spec.nodeName", True, "n1"),)}),
    (NODE_1, "get", "pods", {"namespace": "default", "name": "mine"}),
    (NODE_1, "delete", "pods", {"namespace": "default", "name": "mine"}),
    (NODE_1, "patch", "pods/status", {"namespace": "default", "name": "mine"}),
    (NODE_1, "update", "leases.coordination.k8s.io", {"namespace": "kube-node-lease", "name": "n1"}),
    (NODE_1, "create", "leases.coordination.k8s.io", {"namespace": "kube-node-lease"}),
    (NODE_1, "create", "events", {"namespace": "default"}),
    (NODE_1, "get", "secrets", {"namespace": "default", "name": "in-volume"}),
    (NODE_1, "get", "secrets", {"namespace": "default", "name": "env-key"}),
    (NODE_1, "watch", "secrets", {"namespace": "default", "name": "pull"}),
    (NODE_1, "get", "configmaps", {"namespace": "default", "name": "projected"}),
    (NODE_1, "list", "configmaps", {"namespace": "default", "name": "env-from"}),
]


@pytest.mark.parametrize(("who", "verb", "resource", "more"), ALLOWED)
def test_what_is_allowed(who: UserInfo, verb: str, resource: str, more: Document) -> None:
    assert AUTHORIZER.decide(asked(who, verb, resource, **more)) is None


DENIED: list[tuple[UserInfo, str, str, Document]] = [
    (ANONYMOUS, "get", "/api", {}),
    (ANONYMOUS, "get", "/metrics", {}),
    (ANONYMOUS, "list", "pods", {"namespace": "default"}),
    (ANONYMOUS, "post", "/healthz", {}),
    (SOMEBODY, "get", "/metrics", {}),
    (SOMEBODY, "get", "/apisx", {}),
    (SOMEBODY, "list", "pods", {"namespace": "default"}),
    (CONTROLLERS, "create", "nodes", {}),
    (CONTROLLERS, "create", "pods/exec", {"namespace": "a", "name": "p"}),
    (CONTROLLERS, "create", "secrets", {"namespace": "a"}),
    (SCHEDULER, "create", "pods", {"namespace": "a"}),
    (SCHEDULER, "update", "nodes", {"name": "n1"}),
    (SCHEDULER, "get", "secrets", {"namespace": "a", "name": "s"}),
    (SCHEDULER, "get", "pods/log", {"namespace": "a", "name": "p"}),
    (NODE_1, "get", "nodes", {"name": "n2"}),
    (NODE_1, "list", "nodes", {}),
    (NODE_1, "delete", "nodes", {"name": "n1"}),
    (NODE_1, "get", "nodes/proxy", {"name": "n1"}),
    (NODE_1, "patch", "nodes/status", {"name": "n2"}),
    (NODE_1, "list", "pods", {}),
    (NODE_1, "list", "pods", {"fields": (FieldRequirement("spec.nodeName", True, "n2"),)}),
    (NODE_1, "list", "pods", {"fields": (FieldRequirement("spec.nodeName", False, "n1"),)}),
    (NODE_1, "get", "pods", {"namespace": "default", "name": "other"}),
    (NODE_1, "delete", "pods", {"namespace": "default", "name": "other"}),
    (NODE_1, "update", "pods", {"namespace": "default", "name": "mine"}),
    (NODE_1, "create", "pods/exec", {"namespace": "default", "name": "mine"}),
    (NODE_1, "create", "pods/binding", {"namespace": "default", "name": "mine"}),
    (NODE_1, "get", "leases.coordination.k8s.io", {"namespace": "kube-node-lease", "name": "n2"}),
    (NODE_1, "get", "leases.coordination.k8s.io", {"namespace": "kube-system", "name": "n1"}),
    (NODE_1, "get", "secrets", {"namespace": "default", "name": "not-mine"}),
    (NODE_1, "get", "secrets", {"namespace": "other", "name": "in-volume"}),
    (NODE_1, "get", "configmaps", {"namespace": "default", "name": "in-volume"}),
    (NODE_1, "list", "secrets", {"namespace": "default"}),
    (NODE_1, "list", "secrets", {}),
    (NODE_1, "update", "secrets", {"namespace": "default", "name": "in-volume"}),
    (NODE_1, "get", "deployments.apps", {"namespace": "default", "name": "d"}),
    (user("system:node:n1"), "get", "nodes", {"name": "n1"}),
    (user("n1", "system:nodes"), "get", "nodes", {"name": "n1"}),
]


@pytest.mark.parametrize(("who", "verb", "resource", "more"), DENIED)
def test_what_is_denied(who: UserInfo, verb: str, resource: str, more: Document) -> None:
    assert AUTHORIZER.decide(asked(who, verb, resource, **more))


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        (
            asked(SOMEBODY, "get", "pods", namespace="y", name="p"),
            'User "somebody" cannot get resource "pods" in API group "" in the namespace "y"',
        ),
        (
            asked(SOMEBODY, "create", "pods/exec", namespace="y", name="p"),
            'User "somebody" cannot create resource "pods/exec" in API group "" in the namespace "y"',
        ),
        (
            asked(SOMEBODY, "list", "deployments.apps"),
            'User "somebody" cannot list resource "deployments" in API group "apps" at the cluster scope',
        ),
        (asked(ANONYMOUS, "get", "/metrics"), 'User "system:anonymous" cannot get path "/metrics"'),
        (
            asked(NODE_1, "get", "secrets", namespace="default", name="not-mine"),
            'User "system:node:n1" cannot get resource "secrets" in API group "" in the namespace "default": '
            "no relationship found between node 'n1' and this object",
        ),
    ],
)
def test_a_refusal_is_worded_as_kubernetes_words_it(attributes: Attributes, words: str) -> None:
    assert AUTHORIZER.decide(attributes) == words


def test_what_a_pod_refers_to() -> None:
    assert references(PODS[0]["spec"], "secrets") == {"in-volume", "env-key", "pull"}
    assert references(PODS[0]["spec"], "configmaps") == {"projected", "env-from"}


def node(name: str = "n1", labels: Document | None = None, **spec: Any) -> Document:
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": spec}


def mirror(node: str, owner: str = "n1", **spec: Any) -> Document:
    """What stands in the API for a static pod of a node."""
    owners = [{"apiVersion": "v1", "kind": "Node", "name": owner, "uid": "1", "controller": True}]
    annotations = {"kubernetes.io/config.mirror": "0123"}
    metadata = {"name": f"web-{node}", "annotations": annotations, "ownerReferences": owners}
    return {"metadata": metadata, "spec": {"nodeName": node, "containers": [], **spec}}


def bound(name: str, labels: Document | None = None) -> Document:
    return {"metadata": {"name": "p", "labels": labels or {}}, "spec": {"nodeName": name}}


TAINTED = {"taints": [{"key": "a", "effect": "NoExecute"}]}


@pytest.mark.parametrize(
    ("kind", "old", "new", "subresource"),
    [
        (NODE, None, node(labels={"kubernetes.io/hostname": "n1", "mine": "1"}, **TAINTED), ""),
        (NODE, node(), node(labels={"example.com/a": "b"}), ""),
        (NODE, node(), node(), "status"),
        (POD, bound("n1"), bound("n1"), "status"),
        (POD, bound("n1"), None, ""),
        (POD, None, mirror("n1"), ""),
        (LEASE, None, {"metadata": {"name": "n1"}}, ""),
    ],
)
def test_what_a_node_may_write(kind: Kind, old: Document | None, new: Document | None, subresource: str) -> None:
    AUTHORIZER.check_write(NODE_1, kind, old, new, subresource)


@pytest.mark.parametrize(
    ("kind", "old", "new", "subresource", "words"),
    [
        (NODE, None, node("n2"), "", 'node "n1" is not allowed to modify node "n2"'),
        (NODE, node(), None, "", 'node "n1" is not allowed to delete nodes'),
        (
            NODE,
            node(),
            node(labels={"node-restriction.kubernetes.io/zone": "a"}),
            "",
            'node "n1" is not allowed to modify labels: node-restriction.kubernetes.io/zone',
        ),
        (
            NODE,
            node(labels={"node-role.kubernetes.io/worker": ""}),
            node(),
            "",
            'node "n1" is not allowed to modify labels: node-role.kubernetes.io/worker',
        ),
        (NODE, node(**TAINTED), node(), "", 'node "n1" is not allowed to modify taints'),
        (
            POD,
            None,
            bound("n1"),
            "",
            'pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods',
        ),
        (POD, None, mirror("n2"), "", 'node "n1" can only create pods with spec.nodeName set to itself'),
        (
            POD,
            None,
            mirror("n1", owner="n2"),
            "",
            'node "n1" can only create pods with an owner reference set to itself',
        ),
        (
            POD,
            None,
            mirror("n1", serviceAccountName="default"),
            "",
            'node "n1" can not create pods that reference a service account',
        ),
        (
            POD,
            None,
            mirror("n1", volumes=[{"name": "v", "secret": {"secretName": "s"}}]),
            "",
            'node "n1" can not create pods that reference secrets',
        ),
        (POD, bound("n2"), None, "", 'node "n1" can only delete pods with spec.nodeName set to itself'),
        (
            POD,
            bound("n2"),
            bound("n2"),
            "status",
            'node "n1" can only update pod status for pods with spec.nodeName set to itself',
        ),
        (POD, bound("n1"), bound("n1", {"a": "b"}), "status", 'node "n1" cannot update labels through pod status'),
        (LEASE, None, {"metadata": {"name": "n2"}}, "", 'node "n1" is only allowed to access the lease named "n1"'),
    ],
)
def test_what_a_node_may_not_write(
    kind: Kind, old: Document | None, new: Document | None, subresource: str, words: str
) -> None:
    with pytest.raises(ApiError) as raised:
        AUTHORIZER.check_write(NODE_1, kind, old, new, subresource)
    assert raised.value.code == 403
    assert raised.value.message.endswith(f" is forbidden: {words}")


def test_others_than_nodes_are_not_restricted() -> None:
    AUTHORIZER.check_write(ADMIN, NODE, node(), node(labels={"node-restriction.kubernetes.io/zone": "a"}), "")


def test_pods_are_found_by_their_node_through_every_change_and_after_a_long_silence(monkeypatch) -> None:
    cache = cached(PODS)
    pods = NodePods(cache)
    key = POD.storage_key("default", "mine")

    def names(node: str) -> list[str]:
        return [pod["metadata"]["name"] for pod in pods.of(node, "default")]

    assert (names("n1"), names("n2"), names("n3")) == (["mine"], ["other"], [])
    assert pods.has("n1", "default", "mine")
    assert not pods.has("n2", "default", "mine")
    moved = {**PODS[0], "spec": {"nodeName": "n2", "containers": []}}
    cache.apply(Event(key, 2, encode({"kind": "Pod", "apiVersion": "v1", **copy.deepcopy(moved)}), None))
    assert (names("n1"), sorted(names("n2"))) == ([], ["mine", "other"])
    cache.apply(Event(key, 3, None, None))
    assert names("n2") == ["other"]
    monkeypatch.setattr("controlplane.apiserver.watchcache.RING", 1)
    for revision in range(4, 8):
        new = {**PODS[0], "metadata": {"name": f"p{revision}", "namespace": "default"}}
        cache.apply(Event(POD.storage_key("default", f"p{revision}"), revision, encode(copy.deepcopy(new)), None))
    assert cache.changes_after(3) is None, "the ring is shorter than what was missed"
    assert names("n1") == ["p4", "p5", "p6", "p7"]


def test_a_node_s_question_does_not_look_at_the_pods_of_other_nodes(monkeypatch) -> None:
    crowd = [{**PODS[1], "metadata": {"name": f"p{n}", "namespace": "default"}} for n in range(500)]
    pods = NodePods(cached([PODS[0], *crowd]))
    parsed = []
    monkeypatch.setattr("controlplane.apiserver.nodepods.decode", lambda data: parsed.append(data) or {"spec": {}})
    list(pods.of("n1", "default"))
    assert pods.has("n1", "default", "mine")
    assert len(parsed) == 1
