"""Bootstrap tokens: short-lived credentials with which a machine joins a cluster, kept as Secrets.

A token is `ID.SECRET`; its Secret is `bootstrap-token-ID` of the type `bootstrap.kubernetes.io/token` in `kube-system`.
With the usage `authentication` its bearer is the user `system:bootstrap:ID`, with `signing` it vouches for the
ConfigMap `cluster-info` in `kube-public`. Read by the API server and the loops, written by commands. Source: the
Kubernetes documentation on authenticating with bootstrap tokens; `cluster-bootstrap/token/api`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pyk.api.objects import Object, name_of

SECRET_TYPE = "bootstrap.kubernetes.io/token"
SECRET_NAMESPACE = "kube-system"
SECRET_PREFIX = "bootstrap-token-"
AUTHENTICATION, SIGNING = "authentication", "signing"
USER_PREFIX = "system:bootstrap:"
GROUP = "system:bootstrappers"
"""The group of every bootstrap token's bearer."""
CLUSTER_INFO_NAMESPACE, CLUSTER_INFO = "kube-public", "cluster-info"
KUBECONFIG_KEY, SIGNATURE_PREFIX = "kubeconfig", "jws-kubeconfig-"
"""The ConfigMap's keys: of the kubeconfig, and of its signature by a token, whose id follows."""
_TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})\Z")
_GROUP = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\Z")


def split_token(token: str) -> tuple[str, str] | None:
    """The id and the secret of a token; None for a text that is none."""
    found = _TOKEN.match(token)
    return (found[1], found[2]) if found else None


@dataclass(frozen=True, slots=True)
class BootstrapToken:
    """What a Secret says of a token. `expires` is in seconds since the epoch, infinite for one that lasts."""

    id: str
    secret: str
    usages: frozenset[str]
    extra_groups: tuple[str, ...] = ()
    expires: float = math.inf
    description: str = ""

    @property
    def user(self) -> str:
        return f"{USER_PREFIX}{self.id}"

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((GROUP, *self.extra_groups)))

    def is_expired(self, now: float) -> bool:
        return self.expires <= now

    def to_secret(self) -> Object:
        """The Secret that makes the token known."""
        data = {"token-id": self.id, "token-secret": self.secret}
        if self.expires != math.inf:
            data["expiration"] = datetime.fromtimestamp(int(self.expires)).astimezone().isoformat()
        for usage in (AUTHENTICATION, SIGNING):
            if usage in self.usages:
                data[f"usage-bootstrap-{usage}"] = "true"
        if self.extra_groups:
            data["auth-extra-groups"] = ",".join(self.extra_groups)
        if self.description:
            data["description"] = self.description
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"{SECRET_PREFIX}{self.id}", "namespace": SECRET_NAMESPACE},
            "type": SECRET_TYPE,
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
        }


def detached_signature(content: str, token: BootstrapToken) -> str:
    """The JWS (HS256) of the content without the content: `HEADER..SIGNATURE`."""
    header = _encoded(json.dumps({"alg": "HS256", "kid": token.id}, separators=(",", ":")).encode())
    signed = f"{header}.{_encoded(content.encode())}".encode()
    return f"{header}..{_encoded(hmac.new(token.secret.encode(), signed, hashlib.sha256).digest())}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token_of(secret: Object) -> BootstrapToken | None:
    """The token in a Secret; None when it is of another type, named otherwise, or not well-formed.

    A moment of expiry that cannot be read has passed.
    """
    if secret.get("type") != SECRET_TYPE:
        return None
    data = {key: _text(value) for key, value in (secret.get("data") or {}).items()}
    token_id, token_secret = data.get("token-id", ""), data.get("token-secret", "")
    if split_token(f"{token_id}.{token_secret}") is None or name_of(secret) != f"{SECRET_PREFIX}{token_id}":
        return None
    groups = [group.strip() for group in data.get("auth-extra-groups", "").split(",") if group.strip()]
    if problems_of_groups(groups):
        return None
    usages = frozenset(usage for usage in (AUTHENTICATION, SIGNING) if data.get(f"usage-bootstrap-{usage}") == "true")
    return BootstrapToken(token_id, token_secret, usages, tuple(groups), expiry_of(secret), data.get("description", ""))


def expiry_of(secret: Object) -> float:
    """When a token's Secret expires, in seconds since the epoch; infinite when it says nothing, 0 for nonsense."""
    text = _text((secret.get("data") or {}).get("expiration") or "")
    if not text:
        return math.inf
    try:
        moment = datetime.fromisoformat(text)
        return moment.timestamp() if moment.tzinfo is not None else 0.0
    except ValueError:
        return 0.0


def problems_of_groups(groups: Sequence[str]) -> list[str]:
    """What is wrong with the extra groups of a token, a sentence each."""
    return [
        f'bootstrap group "{group}" is invalid (must match {_GROUP.pattern})'
        for group in groups
        if _GROUP.match(group) is None
    ]


def _text(value: str) -> str:
    try:
        return base64.b64decode(value).decode()
    except ValueError:
        return ""
