"""The roles and bindings that every cluster begins with.

A `Grant` is a ClusterRole and, when it has subjects, a ClusterRoleBinding of the same name. The roles for people
(`admin`, `edit`, `view`) have no rules of their own: they gather those of the roles that carry their aggregation label
(`controlplane/controllers/roleaggregation.py`). Nodes have no binding: `authorization.py` decides for them by what
runs where. Source: kube-apiserver's bootstrap policy (`plugin/pkg/auth/authorizer/rbac/bootstrappolicy`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.apiserver.rbac import Rule
from pyk.api.bootstraptokens import CLUSTER_INFO, CLUSTER_INFO_NAMESPACE
from pyk.api.bootstraptokens import GROUP as BOOTSTRAPPERS
from pyk.api.groups.rbac import GROUP
from pyk.api.kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING, Kind
from pyk.api.objects import Object
from pyk.api.scheduler import DECISIONS_ADDRESS
from pyk.api.signers import KUBELET_CLIENT, KUBELET_SERVING, NODES_GROUP, SIGNERS

READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete", "deletecollection")
BOOTSTRAP_LABEL = "kubernetes.io/bootstrapping"
AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
_AGGREGATE_TO = "rbac.authorization.k8s.io/aggregate-to-"


@dataclass(frozen=True, slots=True)
class Grant:
    """A role and whom it is bound to, everywhere.

    The role gathers the rules of all roles labelled for `gathers` (`edit`); it is itself labelled for `adds_to`.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    users: tuple[str, ...] = ()
    subject_groups: tuple[str, ...] = ()
    gathers: str = ""
    adds_to: str = ""


_EVENTS = Rule(("create", "patch", "update"), ("", "events.k8s.io"), ("events",))
_LOCKS = Rule(("get", "create", "update", "patch"), ("coordination.k8s.io",), ("leases",))
_WORKLOADS = (
    "daemonsets",
    "deployments",
    "deployments/scale",
    "replicasets",
    "replicasets/scale",
    "statefulsets",
    "statefulsets/scale",
)
_HEALTH = ("/healthz", "/livez", "/readyz")
_CERTIFICATES, _REQUESTS = "certificates.k8s.io", "certificatesigningrequests"

POLICY: tuple[Grant, ...] = (
    Grant(
        "cluster-admin",
        (Rule(("*",), ("*",), ("*",)), Rule(("*",), paths=("*",))),
        subject_groups=("system:masters",),
    ),
    Grant("admin", gathers="admin"),
    Grant("edit", gathers="edit", adds_to="admin"),
    Grant("view", gathers="view", adds_to="edit"),
    Grant(
        "system:aggregate-to-admin",
        (
            Rule(("create",), ("authorization.k8s.io",), ("localsubjectaccessreviews",)),
            Rule((*WRITE, *READ), (GROUP,), ("roles", "rolebindings")),
        ),
        adds_to="admin",
    ),
    Grant(
        "system:aggregate-to-edit",
        (
            Rule(
                READ,
                ("",),
                ("pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
            ),
            Rule(("impersonate",), ("",), ("serviceaccounts",)),
            Rule(
                WRITE,
                ("",),
                ("pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"),
            ),
            Rule(("create",), ("",), ("pods/eviction", "serviceaccounts/token")),
            Rule(
                WRITE,
                ("",),
                (
                    "configmaps",
                    "events",
                    "persistentvolumeclaims",
                    "replicationcontrollers",
                    "replicationcontrollers/scale",
                    "secrets",
                    "serviceaccounts",
                    "services",
                    "services/proxy",
                ),
            ),
            Rule(WRITE, ("apps",), (*_WORKLOADS, "deployments/rollback")),
            Rule(WRITE, ("autoscaling",), ("horizontalpodautoscalers",)),
            Rule(WRITE, ("batch",), ("cronjobs", "jobs")),
            Rule(WRITE, ("policy",), ("poddisruptionbudgets",)),
            Rule(WRITE, ("networking.k8s.io",), ("ingresses", "networkpolicies")),
            Rule(WRITE, ("scheduling.k8s.io",), ("podgroups", "workloads")),
            Rule(WRITE, ("resource.k8s.io",), ("resourceclaims", "resourceclaimtemplates")),
            Rule((*WRITE, *READ), ("coordination.k8s.io",), ("leases",)),
        ),
        adds_to="edit",
    ),
    Grant(
        "system:aggregate-to-view",
        (
            Rule(
                READ,
                ("",),
                (
                    "bindings",
                    "configmaps",
                    "endpoints",
                    "events",
                    "limitranges",
                    "namespaces",
                    "namespaces/status",
                    "persistentvolumeclaims",
                    "persistentvolumeclaims/status",
                    "pods",
                    "pods/log",
                    "pods/status",
                    "replicationcontrollers",
                    "replicationcontrollers/scale",
                    "replicationcontrollers/status",
                    "resourcequotas",
                    "resourcequotas/status",
                    "serviceaccounts",
                    "services",
                    "services/status",
                ),
            ),
            Rule(READ, ("discovery.k8s.io",), ("endpointslices",)),
            Rule(
                READ,
                ("apps",),
                (
                    "controllerrevisions",
                    *_WORKLOADS,
                    *(f"{each}/status" for each in ("daemonsets", "deployments", "replicasets", "statefulsets")),
                ),
            ),
            Rule(READ, ("autoscaling",), ("horizontalpodautoscalers", "horizontalpodautoscalers/status")),
            Rule(READ, ("batch",), ("cronjobs", "cronjobs/status", "jobs", "jobs/status")),
            Rule(READ, ("policy",), ("poddisruptionbudgets", "poddisruptionbudgets/status")),
            Rule(READ, ("networking.k8s.io",), ("ingresses", "ingresses/status", "networkpolicies")),
            Rule(READ, ("scheduling.k8s.io",), ("podgroups", "podgroups/status", "workloads")),
            Rule(READ, ("resource.k8s.io",), ("resourceclaims", "resourceclaims/status", "resourceclaimtemplates")),
        ),
        adds_to="view",
    ),
    Grant(
        "system:aggregated-metrics-reader",
        (Rule(READ, ("metrics.k8s.io",), ("pods", "nodes")),),
        adds_to="view",
    ),
    Grant(
        "system:public-info-viewer",
        (Rule(("get", "head"), paths=(*_HEALTH, "/version", "/version/")),),
        subject_groups=("system:authenticated", "system:unauthenticated"),
    ),
    Grant(
        "system:discovery",
        (
            Rule(
                ("get", "head"),
                paths=(
                    "/api",
                    "/api/*",
                    "/apis",
                    "/apis/*",
                    *_HEALTH,
                    *(f"{path}/*" for path in _HEALTH),
                    "/openapi",
                    "/openapi/*",
                    "/version",
                    "/version/",
                ),
            ),
        ),
        subject_groups=("system:authenticated",),
    ),
    Grant(
        "system:basic-user",
        (
            Rule(("create",), ("authorization.k8s.io",), ("selfsubjectaccessreviews", "selfsubjectrulesreviews")),
            Rule(("create",), ("authentication.k8s.io",), ("selfsubjectreviews",)),
        ),
        subject_groups=("system:authenticated",),
    ),
    Grant(
        "system:service-account-issuer-discovery",
        (
            Rule(
                ("get",),
                paths=("/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks"),
            ),
        ),
        subject_groups=("system:serviceaccounts",),
    ),
    Grant(
        "system:monitoring",
        (Rule(("get",), paths=("/metrics", "/metrics/slis", *_HEALTH, *(f"{path}/*" for path in _HEALTH))),),
        subject_groups=("system:monitoring",),
    ),
    Grant(
        "system:auth-delegator",
        (
            Rule(("create",), ("authentication.k8s.io",), ("tokenreviews",)),
            Rule(("create",), ("authorization.k8s.io",), ("subjectaccessreviews",)),
        ),
    ),
    Grant(
        "system:node-bootstrapper",
        (Rule(("create", *READ), (_CERTIFICATES,), (_REQUESTS,)),),
        subject_groups=(BOOTSTRAPPERS,),
    ),
    *(
        Grant(
            f"system:{_CERTIFICATES}:{_REQUESTS}:{name}",
            (Rule(("create",), (_CERTIFICATES,), (f"{_REQUESTS}/{name}",)),),
            subject_groups=(group,),
        )
        # Who may have what approved by itself: controlplane/controllers/csrapproving.py.
        for name, group in (
            ("nodeclient", BOOTSTRAPPERS),
            ("selfnodeclient", NODES_GROUP),
            ("selfnodeserver", NODES_GROUP),
        )
    ),
    *(
        Grant(
            f"system:{_CERTIFICATES}:{signer.partition('/')[2]}-approver",
            (Rule(("approve",), (_CERTIFICATES,), ("signers",), (signer,)),),
        )
        for signer in SIGNERS
    ),
    Grant(
        "system:kube-controller-manager",
        (
            # The garbage collector and the namespace controller follow and delete objects of every kind.
            Rule((*READ, "update", "patch", "delete", "deletecollection"), ("*",), ("*",)),
            Rule(
                ("create",),
                ("",),
                ("pods", "configmaps", "serviceaccounts", "persistentvolumeclaims", "persistentvolumes"),
            ),
            Rule(("create",), ("apps",), ("replicasets", "controllerrevisions")),
            Rule(("create",), ("batch",), ("jobs",)),
            Rule(("create",), ("",), ("endpoints",)),
            Rule(("create",), ("discovery.k8s.io",), ("endpointslices",)),
            Rule(("create",), ("authorization.k8s.io",), ("subjectaccessreviews",)),
            Rule(("approve",), (_CERTIFICATES,), ("signers",), (KUBELET_CLIENT, KUBELET_SERVING)),
            Rule(("sign",), (_CERTIFICATES,), ("signers",), SIGNERS),
            # What an aggregated role gathers may be more than the controller manager itself may do.
            Rule(("escalate",), (GROUP,), ("clusterroles",)),
            _EVENTS,
            _LOCKS,
            Rule(("get",), paths=("/healthz", "/metrics")),
        ),
        users=("system:kube-controller-manager",),
    ),
    Grant(
        "system:kube-scheduler",
        (
            Rule(READ, ("",), ("nodes", "namespaces", "services", "replicationcontrollers")),
            Rule((*READ, "update", "patch"), ("",), ("persistentvolumes", "persistentvolumeclaims")),
            Rule((*READ, "delete"), ("",), ("pods",)),
            Rule(READ, ("apps",), ("replicasets", "statefulsets")),
            Rule(READ, ("policy",), ("poddisruptionbudgets",)),
            Rule(READ, ("scheduling.k8s.io",), ("priorityclasses", "podgroups", "workloads")),
            Rule(("update", "patch"), ("scheduling.k8s.io",), ("podgroups/status",)),
            Rule(("create",), ("authentication.k8s.io",), ("tokenreviews",)),
            Rule(("create",), ("authorization.k8s.io",), ("subjectaccessreviews",)),
            Rule(("get", "list"), ("metrics.k8s.io",), ("nodes",)),
            Rule(READ, ("storage.k8s.io",), ("storageclasses", "csinodes", "csidrivers", "csistoragecapacities")),
            Rule(("create",), ("",), ("pods/binding", "bindings")),
            Rule(("update", "patch"), ("",), ("pods/status",)),
            _EVENTS,
            _LOCKS,
        ),
        users=("system:kube-scheduler",),
    ),
    Grant(
        "system:node-proxier",
        (
            Rule(READ, ("",), ("nodes", "services", "endpoints", "pods", "namespaces")),
            Rule(READ, ("discovery.k8s.io",), ("endpointslices",)),
            Rule(READ, ("networking.k8s.io",), ("networkpolicies",)),
            _EVENTS,
        ),
        users=("system:kube-proxy",),
    ),
)


def public_objects() -> Iterator[tuple[Kind, Object]]:
    """The roles of what is for everybody.

    A machine that joins has nothing yet to authenticate with, and must read how to reach the cluster. Where the
    scheduler records its decisions is told to all who may ask it why their pods wait.
    """
    anonymous, everybody = _subject("User", "system:anonymous"), _subject("Group", "system:authenticated")
    read = Rule(("get",), ("",), ("configmaps",), (CLUSTER_INFO,))
    yield from _public_role("system:bootstrap-signer-clusterinfo", (read,), anonymous)
    find = Rule(("get",), ("",), ("configmaps",), (DECISIONS_ADDRESS,))
    yield from _public_role("system:kube-scheduler:find-decisions", (find,), everybody)
    write = (
        Rule(("get", "patch"), ("",), ("configmaps",), (DECISIONS_ADDRESS,)),
        Rule(("create",), ("",), ("configmaps",)),
    )
    yield from _public_role("system:kube-scheduler:tell-address", write, _subject("User", "system:kube-scheduler"))


def _public_role(name: str, rules: tuple[Rule, ...], subject: Mapping[str, str]) -> Iterator[tuple[Kind, Object]]:
    metadata = {
        "name": name,
        "namespace": CLUSTER_INFO_NAMESPACE,
        "labels": {BOOTSTRAP_LABEL: "rbac-defaults"},
        "annotations": {AUTOUPDATE: "true"},
    }
    types = {"apiVersion": ROLE.api_version, "metadata": metadata}
    yield ROLE, {**types, "kind": ROLE.kind, "rules": [rule.to_document() for rule in rules]}
    reference = {"apiGroup": GROUP, "kind": ROLE.kind, "name": name}
    yield ROLE_BINDING, {**types, "kind": ROLE_BINDING.kind, "roleRef": reference, "subjects": [subject]}


def default_objects(policy: tuple[Grant, ...] = POLICY) -> Iterator[tuple[Kind, Object]]:
    """The roles and bindings as documents, roles before their bindings."""
    for grant in policy:
        labels = {BOOTSTRAP_LABEL: "rbac-defaults"}
        if grant.adds_to:
            labels[f"{_AGGREGATE_TO}{grant.adds_to}"] = "true"
        role: Object = {
            "apiVersion": CLUSTER_ROLE.api_version,
            "kind": CLUSTER_ROLE.kind,
            "metadata": {"name": grant.name, "labels": labels, "annotations": {AUTOUPDATE: "true"}},
            "rules": [rule.to_document() for rule in grant.rules],
        }
        if grant.gathers:
            selector = {"matchLabels": {f"{_AGGREGATE_TO}{grant.gathers}": "true"}}
            role["aggregationRule"] = {"clusterRoleSelectors": [selector]}
        yield CLUSTER_ROLE, role
        subjects = [_subject("User", user) for user in grant.users]
        subjects += [_subject("Group", group) for group in grant.subject_groups]
        if subjects:
            yield (
                CLUSTER_ROLE_BINDING,
                {
                    "apiVersion": CLUSTER_ROLE_BINDING.api_version,
                    "kind": CLUSTER_ROLE_BINDING.kind,
                    "metadata": {
                        "name": grant.name,
                        "labels": {BOOTSTRAP_LABEL: "rbac-defaults"},
                        "annotations": {AUTOUPDATE: "true"},
                    },
                    "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": grant.name},
                    "subjects": subjects,
                },
            )


def _subject(kind: str, name: str) -> dict[str, Any]:
    return {"apiGroup": GROUP, "kind": kind, "name": name}
