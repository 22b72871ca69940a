"""What a control plane writes into the API when it is up: settings for its agents, and what joining machines may read.

Every object is applied (server-side apply, by the manager `pyk-server`), so each start of each control plane puts it
right and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pyk.api.bootstraptokens import GROUP as BOOTSTRAPPERS
from pyk.api.joining import SETTINGS, SETTINGS_NAMESPACE
from pyk.api.kinds import BY_KIND, CONFIG_MAP
from pyk.api.objects import Object, name_of, namespace_of
from pyk.api.signers import NODES_GROUP
from pyk.api.status import ApiError
from pyk.client.blocking import BlockingClient

FIELD_MANAGER = "pyk-server"
_RBAC = "rbac.authorization.k8s.io"


def objects(settings: Mapping[str, str]) -> Iterator[Object]:
    """All of it."""
    yield {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": SETTINGS, "namespace": SETTINGS_NAMESPACE},
        "data": dict(settings),
    }
    joining = (BOOTSTRAPPERS, NODES_GROUP)
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [SETTINGS], "verbs": ["get"]}
    yield from _role("Role", "pyk:agent-settings", SETTINGS_NAMESPACE, rule, joining)
    # A machine that joins sees whether another has its name already.
    rule = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}
    yield from _role("ClusterRole", "pyk:joining", "", rule, (BOOTSTRAPPERS,))
    # The network of a node follows the other nodes, services, policies, and the pods that policies speak of.
    yield _binding("ClusterRole", "pyk:node-network", "", "system:node-proxier", (NODES_GROUP,))


def publish(client: BlockingClient, settings: Mapping[str, str]) -> bool:
    """Apply all of it; whether this is the first time in this cluster. Raises `ApiError`, `ServerUnreachable`."""
    try:
        client.get(CONFIG_MAP, SETTINGS, SETTINGS_NAMESPACE)
        is_first = False
    except ApiError as error:
        if error.code != 404:
            raise
        is_first = True
    for obj in reversed(list(objects(settings))):  # the ConfigMap last: it says that the others are there
        kind = BY_KIND[obj["apiVersion"], obj["kind"]]
        client.json(
            "PATCH",
            kind.path(namespace_of(obj), name_of(obj)),
            params={"fieldManager": FIELD_MANAGER, "force": "true"},
            body=obj,
            content_type="application/apply-patch+yaml",
        )
    return is_first


def _role(kind: str, name: str, namespace: str, rule: Object, groups: Sequence[str]) -> Iterator[Object]:
    yield {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": _metadata(name, namespace), "rules": [rule]}
    yield _binding(kind, name, namespace, name, groups)


def _binding(kind: str, name: str, namespace: str, role: str, groups: Sequence[str]) -> Object:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": _metadata(name, namespace),
        "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": role},
        "subjects": [{"apiGroup": _RBAC, "kind": "Group", "name": group} for group in groups],
    }


def _metadata(name: str, namespace: str) -> dict[str, str]:
    return {"name": name, **({"namespace": namespace} if namespace else {})}
