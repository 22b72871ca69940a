"""Who may do what: the built-in policy, as RBAC rules.

A `Grant` binds rules to users and groups. `verbs`, `groups` (API groups) and `resources` may hold `*`; a subresource
is written `pods/log`, `*/status` is the status of everything, and `*` among the resources includes subresources. A rule
with `paths` is for URLs that are no resources; a path may end in `*`. Rules only ever allow: what no rule allows is
denied.
"""

from __future__ import annotations

from dataclasses import dataclass

READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete", "deletecollection")


@dataclass(frozen=True, slots=True)
class Rule:
    """What is allowed: these verbs on these resources (of these names, when there are any), or on these paths."""

    verbs: tuple[str, ...]
    groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """Rules for these users and groups, everywhere or in one namespace."""

    name: str
    rules: tuple[Rule, ...]
    users: tuple[str, ...] = ()
    subject_groups: tuple[str, ...] = ()
    namespace: str = ""


_EVENTS = Rule(("create", "patch", "update"), ("", "events.k8s.io"), ("events",))
_LOCKS = Rule(("get", "create", "update", "patch"), ("coordination.k8s.io",), ("leases",))

POLICY: tuple[Grant, ...] = (
    Grant(
        "cluster-admin",
        (Rule(("*",), ("*",), ("*",)), Rule(("*",), paths=("*",))),
        subject_groups=("system:masters",),
    ),
    Grant(
        "system:public-info-viewer",
        (Rule(("get", "head"), paths=("/healthz", "/livez", "/readyz", "/version", "/version/")),),
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
                    "/openapi",
                    "/openapi/*",
                    "/healthz/*",
                    "/livez/*",
                    "/readyz/*",
                ),
            ),
        ),
        subject_groups=("system:authenticated",),
    ),
    Grant(
        "system:kube-controller-manager",
        (
            # The garbage collector and the namespace controller follow and delete objects of every kind.
            Rule((*READ, "update", "patch", "delete", "deletecollection"), ("*",), ("*",)),
            Rule(("create",), ("",), ("pods", "configmaps", "serviceaccounts")),
            Rule(("create",), ("apps",), ("replicasets",)),
            _EVENTS,
            _LOCKS,
            Rule(("get", "head"), paths=("/healthz", "/metrics")),
        ),
        users=("system:kube-controller-manager",),
    ),
    Grant(
        "system:kube-scheduler",
        (
            Rule(READ, ("",), ("nodes", "namespaces", "persistentvolumes", "persistentvolumeclaims")),
            Rule((*READ, "delete"), ("",), ("pods",)),
            Rule(READ, ("apps",), ("replicasets", "statefulsets")),
            Rule(READ, ("policy",), ("poddisruptionbudgets",)),
            Rule(READ, ("scheduling.k8s.io",), ("priorityclasses",)),
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
            Rule(READ, ("",), ("nodes", "services", "endpoints")),
            Rule(READ, ("discovery.k8s.io",), ("endpointslices",)),
            _EVENTS,
        ),
        users=("system:kube-proxy",),
    ),
)


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
