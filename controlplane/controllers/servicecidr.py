"""The ServiceCIDR loop: a range of services' addresses is ready, and goes only when no address of it is in use.

Watches ServiceCIDRs and IPAddresses; writes the finalizer and the condition Ready of ServiceCIDRs. While a range is
being deleted the API server gives no address out of it; an address that another range holds as well keeps nothing.
Source: `pkg/controller/servicecidrs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controlplane.controllers.conditions import find, with_condition
from pyk.api.kinds import IP_ADDRESS, SERVICE_CIDR, Kind
from pyk.api.objects import Object, is_deleting, key_of, name_of
from pyk.api.rules.addresses import Network, address_of, network_of
from pyk.api.rules.service_addresses import READY
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Emit, Update, UpdateStatus, apply
from pyk.reconcile.clock import Clock, timestamp
from pyk.reconcile.controller import Controller

FINALIZER = "networking.k8s.io/service-cidr-finalizer"
IN_USE = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
_READY = "Kubernetes Service CIDR is ready"


def networks_of(service_cidr: Object) -> list[Network]:
    """The ranges."""
    texts = (service_cidr.get("spec") or {}).get("cidrs") or ()
    return [network for text in texts if (network := network_of(text)) is not None]


def is_held(service_cidr: Object, others: Iterable[Object], addresses: Iterable[str]) -> bool:
    """Whether some address is in this range and in no other that stays."""
    own = networks_of(service_cidr)
    rest = [network for each in others if not is_deleting(each) for network in networks_of(each)]
    for text in addresses:
        address = address_of(text)
        if address is not None and _in(address, own) and not _in(address, rest):
            return True
    return False


def _in(address: object, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def decide(service_cidr: Object, others: Iterable[Object], addresses: Iterable[str], now: float) -> list[Action]:
    """One step for one range. `others` are all other ServiceCIDRs, `addresses` those in use."""
    metadata = service_cidr["metadata"]
    finalizers = metadata.get("finalizers") or []
    if not is_deleting(service_cidr):
        if FINALIZER not in finalizers:
            return [Update({**service_cidr, "metadata": {**metadata, "finalizers": [*finalizers, FINALIZER]}})]
        return _with_ready(service_cidr, "True", "", _READY, now)
    if FINALIZER not in finalizers:
        return []
    if is_held(service_cidr, others, addresses):
        actions = _with_ready(service_cidr, "False", "Terminating", IN_USE, now)
        return [*actions, Emit(service_cidr, "Warning", "KubernetesServiceCIDRInUse", IN_USE)] if actions else []
    left = [each for each in finalizers if each != FINALIZER]
    return [Update({**service_cidr, "metadata": {**metadata, "finalizers": left}})]


def _with_ready(service_cidr: Object, status: str, reason: str, message: str, now: float) -> list[Action]:
    conditions = (service_cidr.get("status") or {}).get("conditions") or []
    known = find(conditions, READY)
    if known is not None and known["status"] == status:
        return []
    condition = {
        "type": READY,
        "status": status,
        "reason": reason or "Ready",
        "message": message,
        "lastTransitionTime": timestamp(now),
    }
    return [UpdateStatus({**service_cidr, "status": {"conditions": with_condition(conditions, condition)}})]


class ServiceCidrLoop:
    """Observes through the shared informers and carries the decisions out."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, informers: Mapping[Kind, Informer]
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._ranges, self._addresses = informers[SERVICE_CIDR], informers[IP_ADDRESS]
        self.controller = Controller("servicecidr", self.reconcile, clock=clock, max_delay=30.0)
        self._ranges.add_handler(self._on_range)
        self.controller.waits_for(self._ranges, self._addresses)
        self._addresses.add_handler(self._on_address)

    def _on_range(self, old: Object | None, new: Object | None) -> None:
        """A range that comes or goes decides for others too that are being deleted."""
        for service_cidr in self._ranges.values():
            self.controller.enqueue(key_of(service_cidr))

    def _on_address(self, old: Object | None, new: Object | None) -> None:
        """An address that is gone may have been the last that held a range."""
        if new is None:
            for service_cidr in self._ranges.values():
                if is_deleting(service_cidr):
                    self.controller.enqueue(key_of(service_cidr))

    async def reconcile(self, key: str) -> None:
        """See to one range."""
        service_cidr = self._ranges.get(key)
        if service_cidr is None:
            return
        others = [each for each in self._ranges.values() if name_of(each) != name_of(service_cidr)]
        actions = decide(service_cidr, others, map(name_of, self._addresses.values()), self._clock.time())
        await apply(self._client, self._recorder, actions)
