"""The loop that removes requests for certificates once nobody needs them any more.

A request goes an hour after it got its certificate, was denied or failed; a day after it was made or approved when
nothing has become of it since; and when its certificate has expired. Source: `pkg/controller/certificates/cleaner`.
"""

from __future__ import annotations

import base64
import math

from pyk.api import signers
from pyk.api.objects import Object
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Delete, apply
from pyk.reconcile.clock import Clock, parse_timestamp
from pyk.reconcile.controller import Controller, Result

SETTLED_SECONDS = 3600.0
PENDING_SECONDS = 86400.0


def _since(request: Object, kind: str) -> float | None:
    """When the condition was last written; None without it."""
    for condition in (request.get("status") or {}).get("conditions") or ():
        if condition["type"] == kind and condition.get("lastUpdateTime"):
            return parse_timestamp(condition["lastUpdateTime"])
    return None


def _expiry(request: Object) -> float:
    """When the issued certificate expires; infinite without one that can be read."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(base64.b64decode(signers.certificate_of(request)))
    except ValueError:
        return math.inf
    return certificate.not_valid_after_utc.timestamp()


def deadline(request: Object) -> float:
    """When the request is to go, in seconds since the epoch."""
    is_issued = bool(signers.certificate_of(request))
    found = [_expiry(request)] if is_issued else []
    approved, denied, failed = (_since(request, kind) for kind in ("Approved", "Denied", "Failed"))
    if approved is not None:
        found.append(approved + (SETTLED_SECONDS if is_issued else PENDING_SECONDS))
    found += [since + SETTLED_SECONDS for since in (denied, failed) if since is not None]
    if not (request.get("status") or {}).get("conditions"):
        found.append(parse_timestamp(request["metadata"]["creationTimestamp"]) + PENDING_SECONDS)
    return min(found, default=math.inf)


def decide(request: Object, now: float) -> list[Action]:
    """Delete a request whose time has come."""
    return [Delete.of(request)] if deadline(request) <= now else []


class CsrCleaningLoop:
    """Observes requests and looks at each again when its time comes."""

    def __init__(self, client: Client, recorder: EventRecorder, clock: Clock, requests: Informer) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._requests = requests
        self.controller = Controller("certificatesigningrequest-cleaner", self.reconcile, clock=clock)
        self.controller.watches(requests)

    async def reconcile(self, key: str) -> Result | None:
        """See to one request."""
        request = self._requests.get(key)
        if request is None:
            return None
        now = self._clock.time()
        await apply(self._client, self._recorder, decide(request, now))
        due = deadline(request) - now
        return Result(due) if 0 < due < math.inf else None
