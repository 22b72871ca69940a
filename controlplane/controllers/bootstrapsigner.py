"""The loop that signs `kube-public/cluster-info` with every bootstrap token that is for signing.

For a token `ID.SECRET` the ConfigMap has a key `jws-kubeconfig-ID`: a JWS (HS256, RFC 7515) of its kubeconfig with the
payload left out. Who knows the token can check that the kubeconfig was written by somebody who knows it too. A
signature goes when its token does. Source: `pkg/controller/bootstrap/bootstrapsigner.go` and
`cluster-bootstrap/token/jws`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyk.api.bootstraptokens import (
    CLUSTER_INFO,
    CLUSTER_INFO_NAMESPACE,
    KUBECONFIG_KEY,
    SECRET_NAMESPACE,
    SECRET_TYPE,
    SIGNATURE_PREFIX,
    SIGNING,
    BootstrapToken,
    detached_signature,
    token_of,
)
from pyk.api.kinds import CONFIG_MAP, SECRET
from pyk.api.objects import Object
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Update, apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result


def decide(cluster_info: Object, tokens: Sequence[BootstrapToken], now: float) -> list[Action]:
    """Give the ConfigMap the signatures of the tokens that are good, and no others."""
    data = cluster_info.get("data") or {}
    content = data.get(KUBECONFIG_KEY)
    if content is None:
        return []
    wanted = {key: value for key, value in data.items() if not key.startswith(SIGNATURE_PREFIX)}
    for token in tokens:
        if SIGNING in token.usages and not token.is_expired(now):
            wanted[f"{SIGNATURE_PREFIX}{token.id}"] = detached_signature(content, token)
    return [] if wanted == data else [Update({**cluster_info, "data": wanted})]


class BootstrapSignerLoop:
    """Observes the ConfigMap and the tokens; all work is on one key."""

    def __init__(self, client: Client, recorder: EventRecorder, clock: Clock) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self.tokens = Informer(
            client, SECRET, clock=clock, namespace=SECRET_NAMESPACE, field_selector=f"type={SECRET_TYPE}"
        )
        self.cluster_info = Informer(
            client,
            CONFIG_MAP,
            clock=clock,
            namespace=CLUSTER_INFO_NAMESPACE,
            field_selector=f"metadata.name={CLUSTER_INFO}",
        )
        self.controller = Controller("bootstrap-signer", self.reconcile, clock=clock)
        self._key = f"{CLUSTER_INFO_NAMESPACE}/{CLUSTER_INFO}"
        for informer in (self.tokens, self.cluster_info):
            self.controller.watches(informer, lambda changed: (self._key,))

    async def reconcile(self, key: str) -> Result | None:
        """Sign anew, and again when the next token expires."""
        cluster_info = self.cluster_info.get(key)
        if cluster_info is None:
            return None
        now = self._clock.time()
        tokens = [token for secret in self.tokens.values() if (token := token_of(secret)) is not None]
        await apply(self._client, self._recorder, decide(cluster_info, tokens, now))
        due = min((token.expires for token in tokens if token.expires > now), default=math.inf)
        return Result(due - now) if due < math.inf else None
