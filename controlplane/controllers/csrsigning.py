"""The loop that signs approved requests for certificates with the cluster's authority.

It serves Kubernetes' own signers (`pyk/api/signers.py`) and leaves all others to theirs. A request that its signer must
not sign gets the condition `Failed`; the others get a certificate with the subject, the names and the usages that they
asked for, good for `spec.expirationSeconds` (between ten minutes and a year; a year when it says nothing), and never
longer than the authority. Source: `pkg/controller/certificates/signer` and `.../authority/policies.go`.
"""

from __future__ import annotations

import base64
from typing import Protocol

from pyk.api import signers
from pyk.api.objects import Object
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, UpdateStatus, apply
from pyk.reconcile.clock import Clock, timestamp
from pyk.reconcile.controller import Controller

LONGEST_SECONDS = 365 * 86400
SHORTEST_SECONDS = 600
SHORT_SECONDS = 8 * 3600
"""A certificate that lives less than this is not ended earlier by what it was backdated."""


class Authority(Protocol):
    """Signs requests: `pyk.pki.RequestSigner`."""

    def sign(self, request: str, usages: list[str], not_before: float, not_after: float) -> bytes: ...


def validity(expiration_seconds: int | None, now: float) -> tuple[float, float]:
    """From when to when a certificate is good that is made at `now`, in seconds since the epoch."""
    wanted = LONGEST_SECONDS if expiration_seconds is None else expiration_seconds
    seconds = min(max(wanted, SHORTEST_SECONDS), LONGEST_SECONDS)
    end = now + seconds - (0 if seconds < SHORT_SECONDS else signers.BACKDATE_SECONDS)
    return now - signers.BACKDATE_SECONDS, end


def is_waiting(request: Object) -> bool:
    """Whether the request is approved, is for one of our signers, and has neither a certificate nor failed."""
    is_ours = request["spec"].get("signerName") in signers.SIGNERS
    is_closed = signers.is_true(request, "Denied") or signers.is_true(request, "Failed")
    return is_ours and signers.is_true(request, "Approved") and not is_closed and not signers.certificate_of(request)


def decide(request: Object, authority: Authority, now: float) -> list[Action]:
    """Sign a waiting request, or say why it cannot be signed."""
    if not is_waiting(request):
        return []
    spec, status = request["spec"], request.get("status") or {}
    usages = list(spec.get("usages") or ())
    try:
        signers.check_for_signer(signers.parse_request(spec["request"]), usages, spec["signerName"])
        certificate = authority.sign(spec["request"], usages, *validity(spec.get("expirationSeconds"), now))
    except signers.BadRequest as error:
        failed = {
            "type": "Failed",
            "status": "True",
            "reason": "SignerValidationFailure",
            "message": str(error),
            "lastUpdateTime": timestamp(now),
        }
        conditions = [*(status.get("conditions") or ()), failed]
        return [UpdateStatus({**request, "status": {**status, "conditions": conditions}})]
    encoded = base64.b64encode(certificate).decode()
    return [UpdateStatus({**request, "status": {**status, "certificate": encoded}})]


class CsrSigningLoop:
    """Observes requests and signs with the authority that it is given."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, requests: Informer, authority: Authority
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._requests = requests
        self._authority = authority
        self.controller = Controller(
            "certificatesigningrequest-signing", self.reconcile, clock=clock, base_delay=0.2, max_delay=30.0
        )
        self.controller.watches(requests)

    async def reconcile(self, key: str) -> None:
        """See to one request."""
        request = self._requests.get(key)
        if request is not None:
            await apply(self._client, self._recorder, decide(request, self._authority, self._clock.time()))
