"""The load balancer loop: Services of type LoadBalancer get addresses of a pool that the user names.

The pool is the ConfigMap `load-balancer-pool` in `kube-system`; its key `addresses` lists addresses, ranges
(`10.88.0.200-10.88.0.220`) and networks (`fd00:1::/120`), separated by commas, spaces or lines. Without it such
Services stay pending. The nodes announce the addresses and route what comes for them.

Watches Services and that ConfigMap; writes `status.loadBalancer` of Services. An address is given to one Service only:
one key serves all of them, and what was given and may not show in the cache yet is taken. A Service keeps its address
as long as it is of this type and the pool has the address. One with a `loadBalancerClass` is somebody else's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.controllers.pods import created_at
from pyk.api.kinds import CONFIG_MAP, SERVICE, Kind
from pyk.api.objects import Object, is_deleting, key_of, uid_of
from pyk.api.rules.addresses import Address, address_of, network_of
from pyk.api.services import IPV4, LOAD_BALANCER, family_of, type_of
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Emit, UpdateStatus, apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller

NAMESPACE, NAME, KEY = "kube-system", "load-balancer-pool", "addresses"
ALL_SERVICES = "services"
"""The one key of the queue."""
_SEPARATORS = re.compile(r"[\s,]+")


class BadPool(Exception):
    """A part of the pool's text that is neither an address, a range nor a network."""


@dataclass(frozen=True, slots=True)
class Span:
    """Addresses of one family, both ends included."""

    first: Address
    last: Address

    def __contains__(self, text: str) -> bool:
        address = address_of(text)
        return (
            address is not None
            and address.version == self.first.version
            and int(self.first) <= int(address) <= int(self.last)
        )

    def addresses(self) -> Iterator[str]:
        kind = type(self.first)
        for number in range(int(self.first), int(self.last) + 1):
            yield str(kind(number))


def parse_pool(text: str) -> list[Span]:
    """The pool of a text. Raises `BadPool`."""
    return [_span(part) for part in _SEPARATORS.split(text) if part]


def _span(part: str) -> Span:
    if "/" in part:
        network = network_of(part)
        if network is None:
            raise BadPool(f"{part!r} is no network")
        if network.version == 4 and network.prefixlen < 31:
            return Span(network[1], network[-2])
        return Span(network[0], network[-1])  # a /31 and IPv6 have no broadcast address
    first, dash, last = part.partition("-")
    one, other = address_of(first), address_of(last if dash else first)
    if one is None or other is None or one.version != other.version or int(one) > int(other):
        raise BadPool(f"{part!r} is no address or range of addresses")
    return Span(one, other)


def is_ours(service: Object) -> bool:
    spec = service.get("spec") or {}
    return type_of(spec) == LOAD_BALANCER and not spec.get("loadBalancerClass") and not is_deleting(service)


def addresses_of(service: Object) -> list[str]:
    """The addresses that the Service has."""
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return [each["ip"] for each in ingress if each.get("ip")]


def decide(services: Iterable[Object], reserved: Mapping[str, Sequence[str]], pool: Sequence[Span]) -> list[Action]:
    """Addresses for the Services that lack them, the oldest first. `reserved` are those given before, by uid."""
    known = sorted((each for each in services if is_ours(each)), key=lambda each: (created_at(each), key_of(each)))
    taken = {address for each in known for address in addresses_of(each)}
    taken |= {address for addresses in reserved.values() for address in addresses}
    actions: list[Action] = []
    for service in known:
        wanted = service["spec"].get("ipFamilies") or [IPV4]
        kept = [address for address in addresses_of(service) if family_of(address) in wanted and _in(pool, address)]
        result, missing = list(kept), []
        for family in wanted:
            if any(family_of(address) == family for address in result):
                continue
            address = _choose(service, family, pool, taken)
            if address is None:
                missing.append(family)
            else:
                taken.add(address)
                result.append(address)
        if missing:
            text = f"no address of family {' and '.join(missing)} is free for it in the pool"
            actions.append(Emit(service, "Warning", "AllocationFailed", text))
        if result != addresses_of(service):
            actions.append(UpdateStatus(_with_addresses(service, result)))
    return actions


def _choose(service: Object, family: str, pool: Sequence[Span], taken: set[str]) -> str | None:
    asked = service["spec"].get("loadBalancerIP") or ""
    if asked and family_of(asked) == family:
        return asked if _in(pool, asked) and asked not in taken else None
    for span in pool:
        if family_of(str(span.first)) == family:
            found = next((each for each in span.addresses() if each not in taken), None)
            if found is not None:
                return found
    return None


def _in(pool: Sequence[Span], address: str) -> bool:
    return any(address in span for span in pool)


def _with_addresses(service: Object, addresses: Sequence[str]) -> Object:
    ingress: list[dict[str, Any]] = [{"ip": address, "ipMode": "VIP"} for address in addresses]
    status = {**(service.get("status") or {}), "loadBalancer": {"ingress": ingress} if ingress else {}}
    return {**service, "status": status}


class LoadBalancerLoop:
    """Observes through the shared informers and one of its own, remembers what it gave, and carries out."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, informers: Mapping[Kind, Informer]
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._services = informers[SERVICE]
        self.pool = Informer(
            client, CONFIG_MAP, clock=clock, namespace=NAMESPACE, field_selector=f"metadata.name={NAME}"
        )
        self._reserved: dict[str, list[str]] = {}
        self.controller = Controller("loadbalancer", self.reconcile, clock=clock, max_delay=30.0)
        self.controller.watches(self.pool, lambda changed: (ALL_SERVICES,))
        self.controller.watches(self._services, lambda service: (ALL_SERVICES,), when=self._matters)

    def _matters(self, old: Object | None, new: Object | None) -> bool:
        """Whether a change gives or frees an address; what was reserved for a Service is settled then."""
        for each in (old, new):
            if each is not None and (new is None or not is_ours(new) or addresses_of(new)):
                self._reserved.pop(uid_of(each), None)
        return any(each is not None and is_ours(each) for each in (old, new))

    async def reconcile(self, key: str) -> None:
        """Give addresses to all Services that lack them, and take them from those whose pool is gone."""
        config = self.pool.get(f"{NAMESPACE}/{NAME}")
        try:
            pool = parse_pool(((config or {}).get("data") or {}).get(KEY) or "")
        except BadPool as error:
            if config is not None:
                self._recorder.event(config, "Warning", "BadPool", f"the pool stays as it was: {error}")
            return
        services = list(self._services.values())
        if config is None and not any(addresses_of(each) for each in services if is_ours(each)):
            return
        for action in decide(services, self._reserved, pool):
            if isinstance(action, UpdateStatus):
                self._reserved[uid_of(action.obj)] = addresses_of(action.obj)
            await apply(self._client, self._recorder, [action])
