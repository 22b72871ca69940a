"""The loop that deletes bootstrap tokens when they expire. Source: `pkg/controller/bootstrap/tokencleaner.go`."""

from __future__ import annotations

import math

from pyk.api.bootstraptokens import SECRET_TYPE, expiry_of
from pyk.api.objects import Object
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Delete, apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result


def decide(secret: Object, now: float) -> list[Action]:
    """Delete a token that has expired."""
    return [Delete.of(secret)] if secret.get("type") == SECRET_TYPE and expiry_of(secret) <= now else []


class TokenCleanerLoop:
    """Observes the tokens' Secrets and looks at each again when it expires."""

    def __init__(self, client: Client, recorder: EventRecorder, clock: Clock, tokens: Informer) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._tokens = tokens
        self.controller = Controller("token-cleaner", self.reconcile, clock=clock)
        self.controller.watches(tokens)

    async def reconcile(self, key: str) -> Result | None:
        """See to one token."""
        secret = self._tokens.get(key)
        if secret is None:
            return None
        now = self._clock.time()
        await apply(self._client, self._recorder, decide(secret, now))
        due = expiry_of(secret) - now
        return Result(due) if 0 < due < math.inf else None
