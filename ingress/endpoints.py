"""Who can answer for a backend, and who of them is asked: from Services and EndpointSlices to one address. Pure.

Ready endpoints are asked; while there is none, those that are being ended but still serve, as kube-proxy does. Of two
drawn at random the one with fewer requests under way is taken, which spreads load without comparing all. One that could
not be reached is left out for `AVOID_SECONDS`, unless that leaves nobody. With the Service's `sessionAffinity:
ClientIP` an address always gets the same endpoint as long as that is there (rendezvous hashing).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ingress.routes import Backend
from pyk.api.objects import Object, namespace_of
from pyk.api.services import EXTERNAL_NAME, type_of

SERVICE_LABEL = "kubernetes.io/service-name"
AVOID_SECONDS = 2.0
MOST_AVOIDED = 4096


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address and port of a pod."""

    address: str
    port: int

    @property
    def authority(self) -> str:
        """`ADDRESS:PORT`, as URLs have it."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Upstream:
    """What stands behind a backend. `problem` says why there is nothing, for people; `is_found` whether there is such a
    port of such a Service at all."""

    endpoints: Sequence[Endpoint] = ()
    uses_tls: bool = False
    is_sticky: bool = False
    problem: str = ""
    is_found: bool = True


def slice_service(endpoint_slice: Object) -> Iterator[str]:
    """The index by which EndpointSlices are found: `namespace/name` of their Service."""
    service = (endpoint_slice["metadata"].get("labels") or {}).get(SERVICE_LABEL)
    if service:
        yield f"{namespace_of(endpoint_slice)}/{service}"


def upstream_of(backend: Backend, service: Object | None, slices: Iterable[Object]) -> Upstream:
    """Those who can answer now."""
    shown = f'service "{backend.namespace}/{backend.service}"'
    if service is None:
        return Upstream(problem=f"{shown} not found", is_found=False)
    spec = service.get("spec") or {}
    if type_of(spec) == EXTERNAL_NAME:
        return Upstream(problem=f"{shown} is of type ExternalName, which is not served here", is_found=False)
    ports = spec.get("ports") or ()
    port = next((each for each in ports if backend.port in (each.get("name"), str(each["port"]))), None)
    if port is None:
        return Upstream(problem=f"{shown} has no port {backend.port}", is_found=False)
    ready: list[Endpoint] = []
    ending: list[Endpoint] = []
    for each in slices:
        if each["addressType"] == "FQDN":
            continue
        numbers = [
            entry["port"]
            for entry in each.get("ports") or ()
            if (entry.get("name") or "") == (port.get("name") or "") and entry.get("port")
        ]
        for endpoint in each.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            if conditions.get("ready") is not False:
                kind = ready
            elif conditions.get("serving") and conditions.get("terminating"):
                kind = ending
            else:
                continue
            kind.extend(Endpoint(endpoint["addresses"][0], number) for number in numbers)
    found = tuple(sorted(set(ready or ending), key=lambda one: (one.address, one.port)))
    protocol = (port.get("appProtocol") or "").lower()
    return Upstream(
        found,
        uses_tls=protocol == "https",
        is_sticky=spec.get("sessionAffinity") == "ClientIP",
        problem="" if found else f"{shown} has no ready endpoints",
    )


@dataclass(slots=True)
class Balancer:
    """Remembers who has how many requests, and who could not be reached. `now` is a monotonic clock in seconds."""

    now: Callable[[], float]
    random: random.Random
    under_way: dict[Endpoint, int] = field(default_factory=dict)
    avoided: dict[Endpoint, float] = field(default_factory=dict)

    def choose(self, upstream: Upstream, client: str, tried: Iterable[Endpoint] = ()) -> Endpoint | None:
        """Whom to ask; None when everybody has been tried."""
        left = [each for each in upstream.endpoints if each not in tried]
        if self.avoided:
            now = self.now()
            left = [each for each in left if self.avoided.get(each, 0.0) <= now] or left
        if len(left) < 2:
            return left[0] if left else None
        if upstream.is_sticky:
            return max(left, key=lambda each: hashlib.sha256(f"{client} {each.authority}".encode()).digest())
        one, other = self.random.sample(left, 2)
        return one if self.under_way.get(one, 0) <= self.under_way.get(other, 0) else other

    def begin(self, endpoint: Endpoint) -> None:
        self.under_way[endpoint] = self.under_way.get(endpoint, 0) + 1

    def end(self, endpoint: Endpoint) -> None:
        left = self.under_way[endpoint] - 1
        if left:
            self.under_way[endpoint] = left
        else:
            del self.under_way[endpoint]

    def avoid(self, endpoint: Endpoint) -> None:
        """Ask others for a while: this one could not be reached."""
        now = self.now()
        if len(self.avoided) >= MOST_AVOIDED:
            self.avoided = {each: until for each, until in self.avoided.items() if until > now}
        self.avoided[endpoint] = now + AVOID_SECONDS
