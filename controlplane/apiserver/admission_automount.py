"""ServiceAccount, the other half: a pod's containers find the API's token, certificate and namespace mounted.

Unless the pod, or else its account, says `automountServiceAccountToken: false`, each container that mounts nothing at
`MOUNT_PATH` gets the volume `kube-api-access-xxxxx` there. Comes behind the plugin that chooses the account; a pod
whose account is missing gets nothing. Source: `plugin/pkg/admission/serviceaccount`.
"""

from __future__ import annotations

import hashlib
from typing import Any

from controlplane.apiserver.admission_chain import Review
from controlplane.apiserver.encoding import dumps
from controlplane.apiserver.watchcache import WatchCache
from pyk.api.kinds import SERVICE_ACCOUNT
from pyk.api.objects import Object, annotations_of
from pyk.api.rules.pods_validation import MIRROR

MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_SECONDS = 3607
"""An hour and a bit, by which Kubernetes tells these tokens from those that somebody asked for."""
_PREFIX = "kube-api-access-"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


class TokenAutomount:
    """The plugin."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache

    async def __call__(self, review: Review) -> None:
        pod = review.new_pod
        if pod is None or MIRROR in annotations_of(pod):
            return
        account = self._cache.lookup(SERVICE_ACCOUNT, review.namespace, pod["spec"].get("serviceAccountName") or "")
        if account is not None and wants_token(pod["spec"], account):
            mount_token(pod)


def wants_token(spec: dict[str, Any], account: Object) -> bool:
    """Whether the pod gets a token: as it says, else as its account says, else yes."""
    for said in (spec.get("automountServiceAccountToken"), account.get("automountServiceAccountToken")):
        if said is not None:
            return bool(said)
    return True


def mount_token(pod: Object) -> None:
    """Mount the volume into every container that has nothing there; without such a container there is no volume."""
    spec = pod["spec"]
    name = _PREFIX + _suffix(spec)
    is_used = False
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        mounts = container.get("volumeMounts") or []
        if any(mount.get("mountPath") == MOUNT_PATH for mount in mounts):
            continue
        container["volumeMounts"] = [*mounts, {"name": name, "mountPath": MOUNT_PATH, "readOnly": True}]
        is_used = True
    if is_used:
        spec["volumes"] = [*(spec.get("volumes") or ()), _volume(name)]


def _volume(name: str) -> dict[str, Any]:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources: list[dict[str, Any]] = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]
    return {"name": name, "projected": {"sources": sources, "defaultMode": 0o644}}


def _suffix(spec: dict[str, Any]) -> str:
    """Five letters by the pod's spec: pods of one template stay alike, which spares checking each anew."""
    number = int.from_bytes(hashlib.sha256(dumps(spec)).digest()[:8], "big")
    letters = ""
    for _ in range(5):
        number, place = divmod(number, len(_ALPHABET))
        letters += _ALPHABET[place]
    return letters
