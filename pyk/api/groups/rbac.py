"""Roles and their bindings (rbac.authorization.k8s.io)."""

from __future__ import annotations

from pyk.api.kind import Kind

GROUP = "rbac.authorization.k8s.io"


def _kind(name: str, rules: str, *, namespaced: bool) -> Kind:
    return Kind(
        GROUP,
        "v1",
        name,
        f"{name.lower()}s",
        f"rbac:{name}",
        namespaced=namespaced,
        rules_path=f"rules.rbac:{rules}",
        name_check="path_segment",
    )


KINDS = (
    _kind("Role", "ROLE", namespaced=True),
    _kind("RoleBinding", "ROLE_BINDING", namespaced=True),
    _kind("ClusterRole", "CLUSTER_ROLE", namespaced=False),
    _kind("ClusterRoleBinding", "CLUSTER_ROLE_BINDING", namespaced=False),
)
