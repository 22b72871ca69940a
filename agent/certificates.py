"""The loop that renews the node's own certificates by requests to the cluster, long before they end.

A node has two: one with which it is a client of the API server, made when the machine joined, and one that its node
API shows, which it asks for itself as soon as its Node tells its addresses. Each is renewed when a share of its life,
between 70 and 90 percent, is over (each certificate has a share of its own, so that nodes which joined together do not
all ask together), and the serving one also when the node's addresses have changed. Both lie in files that are replaced
whole; whoever uses them notices by itself (`pyk/tls.py`), so nothing restarts and no connection ends.

A request that is refused or stays without an answer is made again later; while the certificate is good nothing is lost.
Source: the kubelet's `pkg/kubelet/certificate` and client-go's `util/certificate`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import aclosing
from pathlib import Path

from pyk import csr
from pyk.api.kinds import CERTIFICATE_SIGNING_REQUEST
from pyk.api.objects import Object, name_of
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable
from pyk.errors import UserError
from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

EARLIEST_SHARE, LATEST_SHARE = 0.7, 0.9
LONGEST_SLEEP_SECONDS = 3600.0
"""The machine may sleep or its clock be set meanwhile: look at it so often."""
ANSWER_SECONDS = 900.0
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 300.0


class CertificateExpired(UserError):
    """The node can no longer show who it is; only a new token helps."""


def seconds_left(held: csr.Held | None, names: Collection[str], share: float, now: float) -> float:
    """Until the certificate has to be renewed: 0 for at once. `now` is in seconds since the epoch."""
    if held is None or held.names != set(names):
        return 0.0
    return max(0.0, held.not_before + share * (held.not_after - held.not_before) - now)


class CertificateKeeper:
    """Keeps one certificate of one signer good. `names` are those that it has to have now; none for a client's."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        node_name: str,
        signer: str,
        file: Path,
        names: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._client = client
        self._clock = clock
        self._node_name = node_name
        self._signer = signer
        self._names = names
        self.file = file
        self.is_there = asyncio.Event()
        """Whether there is a certificate to show."""

    async def run(self) -> None:
        """Renew until cancelled. Raises `CertificateExpired` when a client's certificate has ended."""
        delay = FIRST_RETRY_SECONDS
        share = self._clock.random.uniform(EARLIEST_SHARE, LATEST_SHARE)
        while True:
            names = sorted(self._names())
            held = csr.read(self.file)
            if held is not None:
                self.is_there.set()
                self._check(held)
            left = seconds_left(held, names, share, self._clock.time())
            if left > 0:
                await self._clock.sleep(min(left, LONGEST_SLEEP_SECONDS))
                continue
            try:
                await self._renew(names)
            except (ApiError, ClientUnavailable, csr.Refused, TimeoutError) as error:
                reason = str(error) or f"no answer in {ANSWER_SECONDS:.0f} s"
                log.warning("no new certificate of %s: %s; trying again in %.0f s", self._signer, reason, delay)
                await self._clock.sleep(delay)
                delay = min(2 * delay, LONGEST_RETRY_SECONDS)
                continue
            delay = FIRST_RETRY_SECONDS
            share = self._clock.random.uniform(EARLIEST_SHARE, LATEST_SHARE)

    def _check(self, held: csr.Held) -> None:
        if not self._names() and held.not_after <= self._clock.time():
            raise CertificateExpired(
                f"the certificate of node {self._node_name} has expired: make a token with 'pyk token create' on the "
                "control plane, and start 'pyk agent' with it"
            )

    async def _renew(self, names: list[str]) -> None:
        key, request = await asyncio.to_thread(csr.make_request, self._node_name, names)
        made = await self._client.create(CERTIFICATE_SIGNING_REQUEST, csr.request_object(request, self._signer))
        async with asyncio.timeout(ANSWER_SECONDS):
            certificate = await self._answer(made)
        csr.write(self.file, certificate, key)
        log.info("a new certificate of %s is in %s", self._signer, self.file)

    async def _answer(self, request: Object) -> bytes:
        """The certificate, as soon as it is there. Raises `Refused`."""
        name = name_of(request)
        while True:
            if certificate := csr.issued(request):
                return certificate
            events = self._client.watch(
                CERTIFICATE_SIGNING_REQUEST,
                resource_version=request["metadata"]["resourceVersion"],
                field_selector=f"metadata.name={name}",
            )
            async with aclosing(events):
                async for event in events:
                    if event.type == "DELETED":
                        raise csr.Refused(f"somebody deleted the request {name}")
                    if event.type == "MODIFIED" and (certificate := csr.issued(event.object)):
                        return certificate
            request = await self._client.get(CERTIFICATE_SIGNING_REQUEST, name)
