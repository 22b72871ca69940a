"""The ConfigMap `cluster-info` in `kube-public`: how to reach this cluster, and by which authority to know it.

It holds a kubeconfig without a user. Everybody may read it, so that a machine that joins with nothing but a bootstrap
token finds the API server's certificate; what makes it trustworthy is the signature that the token's loop adds
(`controlplane/controllers/bootstrapsigner.py`). In Kubernetes kubeadm writes it; here the API
server does, at its start.
"""

from __future__ import annotations

import base64

import yaml

from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.registry import Registry
from controlplane.apiserver.writes import Write
from pyk.api.bootstraptokens import CLUSTER_INFO, CLUSTER_INFO_NAMESPACE
from pyk.api.kinds import CONFIG_MAP
from pyk.api.objects import Object
from pyk.api.status import ApiError


def kubeconfig(server: str, authority: bytes) -> str:
    """A kubeconfig of one nameless cluster. `server` is a URL, `authority` a certificate as PEM."""
    cluster = {"certificate-authority-data": base64.b64encode(authority).decode(), "server": server}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "clusters": [{"cluster": cluster, "name": ""}],
            "contexts": None,
            "current-context": "",
            "kind": "Config",
            "users": None,
        }
    )


async def publish(registry: Registry, user: UserInfo, server: str, authority: bytes) -> None:
    """Write the ConfigMap, or bring it up to date; signatures of a former content become void and go."""
    text = kubeconfig(server, authority)
    metadata = {"name": CLUSTER_INFO, "namespace": CLUSTER_INFO_NAMESPACE}
    new: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"kubeconfig": text}}

    async def compute(old: Object) -> Object:
        if (old.get("data") or {}).get("kubeconfig") == text:
            return old
        return await registry.finish_update(write, {**old, "data": {"kubeconfig": text}}, old)

    write = Write(user, CONFIG_MAP, CLUSTER_INFO_NAMESPACE, CLUSTER_INFO)
    try:
        await registry.modify(write, compute)
    except ApiError as error:
        if error.reason != "NotFound":
            raise
        await registry.create(Write(user, CONFIG_MAP, CLUSTER_INFO_NAMESPACE), new)
