"""The cluster's names: what the DNS answers for Services, their endpoints and pods. Pure, but for the caches it reads.

The names are those of Kubernetes' specification of DNS-based service discovery, version 1.1.0 (`kubernetes/dns`,
docs/specification.md). Every answer is made from the informers' caches at the moment of the question: there is no
other state that could be behind them. A name that exists without records of the wanted type is an empty answer
(NODATA), one that does not is NXDOMAIN; both tell by the zone's SOA how long that holds.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from pyk.api.objects import Object, labels_of, name_of, namespace_of
from pyk.api.services import EXTERNAL_NAME, HEADLESS, cluster_ips_of, is_headless, type_of

TTL_SECONDS = 5
"""How long others may keep an answer of the cluster's: so long a wrong one may live in a pod's own cache."""
VERSION = "1.1.0"
SERVICE_LABEL = "kubernetes.io/service-name"
_PRIORITY = 0

Name = dns.name.Name
Records = list[tuple[Name, dns.rdatatype.RdataType, str]]
"""(owner, type, text of the data) of each record."""


class Cache(Protocol):
    """What is asked of an informer."""

    def get(self, key: str) -> Object | None: ...
    def by_index(self, index: str, value: str) -> list[Object]: ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint of a Service: its own label below the Service's name, its address and ports."""

    label: str
    address: str
    ports: Sequence[tuple[str, str, int]]
    """(name, protocol, number)."""


@dataclass(slots=True)
class Answer:
    """`records` answer the question, `extra` are addresses of names in them; `target` is a name that another server
    knows, behind a CNAME that is among the records."""

    exists: bool = True
    records: Records = field(default_factory=list)
    extra: Records = field(default_factory=list)
    target: Name | None = None


def service_addresses(service: Object) -> Iterator[str]:
    """The index `address` of Services: the addresses that they have in the cluster."""
    yield from (canonical(text) for text in cluster_ips_of(service.get("spec") or {}))


def slice_addresses(endpoint_slice: Object) -> Iterator[str]:
    """The index `address` of EndpointSlices: the addresses of endpoints that are ready."""
    for endpoint in endpoint_slice.get("endpoints") or ():
        if _is_ready(endpoint):
            yield from (canonical(text) for text in endpoint["addresses"])


def slice_service(endpoint_slice: Object) -> Iterator[str]:
    """The index `dns` of EndpointSlices: the key of their Service."""
    if service := labels_of(endpoint_slice).get(SERVICE_LABEL):
        yield f"{namespace_of(endpoint_slice)}/{service}"


def canonical(text: str) -> str:
    """An address in the one form that is compared."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text


def _is_ready(endpoint: dict[str, Any]) -> bool:
    """A condition that nobody set counts as true."""
    return (endpoint.get("conditions") or {}).get("ready") is not False


class ClusterNames:
    """Answers from three caches: Services and EndpointSlices with the indexes above, and Namespaces."""

    def __init__(self, services: Cache, slices: Cache, namespaces: Cache, domain: str) -> None:
        self._services = services
        self._slices = slices
        self._namespaces = namespaces
        self.zone = dns.name.from_text(domain)

    def is_ours(self, name: Name) -> bool:
        """Whether the name is in the cluster's zone."""
        return name.is_subdomain(self.zone)

    def soa(self) -> tuple[Name, dns.rdatatype.RdataType, str]:
        """The zone's SOA record: its minimum is how long a negative answer holds."""
        zone = self.zone.to_text()
        text = f"ns.dns.{zone} hostmaster.{zone} 1 7200 1800 86400 {TTL_SECONDS}"
        return self.zone, dns.rdatatype.SOA, text

    def answer(self, name: Name, kind: dns.rdatatype.RdataType) -> Answer:
        """The answer to a question about a name of the zone."""
        labels = [label.decode("latin-1").lower() for label in name.relativize(self.zone).labels]
        match labels[::-1]:
            case []:
                return self._apex(name, kind)
            case ["dns-version"]:
                return _texts(name, kind, VERSION)
            case ["dns"] | ["svc"] | ["pod"]:
                return Answer()
            case ["dns", "ns"]:
                return Answer()
            case [("svc" | "pod"), namespace]:
                return Answer(exists=self._namespaces.get(namespace) is not None)
            case ["pod", namespace, dashed]:
                return self._pod(name, kind, namespace, dashed)
            case ["svc", namespace, service, *rest]:
                return self._service(name, kind, f"{namespace}/{service}", rest[::-1])
        return Answer(exists=False)

    def reverse(self, address: str) -> list[Name]:
        """The names of an address: of Services that have it, and of endpoints at it."""
        address = canonical(address)
        found = [self._name_of(service) for service in self._services.by_index("address", address)]
        if found:
            return found
        for endpoint_slice in self._slices.by_index("address", address):
            for key in slice_service(endpoint_slice):
                service = self._services.get(key)
                if service is None:
                    continue
                for endpoint in _endpoints_of(endpoint_slice):
                    if canonical(endpoint.address) == address:
                        found.append(dns.name.Name((endpoint.label.encode(), *self._name_of(service).labels)))
        return list(dict.fromkeys(found))

    def _name_of(self, service: Object) -> Name:
        return dns.name.from_text(f"{name_of(service)}.{namespace_of(service)}.svc", self.zone)

    def _apex(self, name: Name, kind: dns.rdatatype.RdataType) -> Answer:
        if kind == dns.rdatatype.SOA:
            return Answer(records=[self.soa()])
        if kind == dns.rdatatype.NS:
            return Answer(records=[(name, dns.rdatatype.NS, f"ns.dns.{self.zone.to_text()}")])
        return Answer()

    def _pod(self, name: Name, kind: dns.rdatatype.RdataType, namespace: str, dashed: str) -> Answer:
        """`10-1-2-3.NAMESPACE.pod`: the address that the name says."""
        for text in (dashed.replace("-", "."), dashed.replace("-", ":")):
            try:
                address = str(ipaddress.ip_address(text))
            except ValueError:
                continue
            if self._namespaces.get(namespace) is not None:
                return Answer(records=_addresses(name, kind, [address]))
        return Answer(exists=False)

    def _service(self, name: Name, kind: dns.rdatatype.RdataType, key: str, below: list[str]) -> Answer:
        service = self._services.get(key)
        if service is None:
            return Answer(exists=False)
        spec = service.get("spec") or {}
        if type_of(spec) == EXTERNAL_NAME:
            if below:
                return Answer(exists=False)
            target = dns.name.from_text(spec.get("externalName") or ".")
            return Answer(records=[(name, dns.rdatatype.CNAME, target.to_text())], target=target)
        own = self._name_of(service)
        match below:
            case []:
                if kind == dns.rdatatype.SRV:
                    return self._srv(name, service, own, lambda port, protocol: True)
                if is_headless(spec):
                    addresses = [each.address for each in self._endpoints(key)]
                else:
                    addresses = cluster_ips_of(spec)
                return Answer(records=_addresses(name, kind, addresses))
            case [protocol] if protocol.startswith("_"):
                return Answer(exists=any(each == protocol[1:] for _, each, _ in self._ports(service, key)))
            case [port, protocol] if port.startswith("_") and protocol.startswith("_"):
                wanted = port[1:], protocol[1:]
                if not any((known, each) == wanted for known, each, _ in self._ports(service, key)):
                    return Answer(exists=False)
                if kind != dns.rdatatype.SRV:
                    return Answer()
                return self._srv(name, service, own, lambda known, each: (known, each) == wanted)
            case [label]:
                addresses = [each.address for each in self._endpoints(key) if label in _labels(each)]
                return Answer(exists=bool(addresses), records=_addresses(name, kind, addresses))
        return Answer(exists=False)

    def _endpoints(self, key: str) -> list[Endpoint]:
        """The ready endpoints of a Service, each address once."""
        found = [each for part in self._slices.by_index("dns", key) for each in _endpoints_of(part)]
        return list({(each.label, each.address, tuple(each.ports)): each for each in found}.values())

    def _ports(self, service: Object, key: str) -> Iterator[tuple[str, str, int]]:
        """(name, protocol, number) of the Service's ports; of a headless one without, those of its endpoints."""
        ports = (service.get("spec") or {}).get("ports") or ()
        for port in ports:
            yield port.get("name") or "", (port.get("protocol") or "TCP").lower(), port["port"]
        if not ports:
            for endpoint in self._endpoints(key):
                yield from endpoint.ports

    def _srv(self, name: Name, service: Object, own: Name, wanted: Callable[[str, str], bool]) -> Answer:
        answer = Answer()
        key = f"{namespace_of(service)}/{name_of(service)}"
        targets: list[tuple[Name, str, int]] = []
        if (service.get("spec") or {}).get("clusterIP") == HEADLESS:
            for endpoint in self._endpoints(key):
                target = dns.name.Name((endpoint.label.encode(), *own.labels))
                targets += [
                    (target, endpoint.address, number)
                    for port, protocol, number in endpoint.ports
                    if wanted(port, protocol)
                ]
        else:
            ports = [number for port, protocol, number in self._ports(service, key) if wanted(port, protocol)]
            addresses = cluster_ips_of(service["spec"])
            targets = [(own, address, number) for number in ports for address in addresses]
        pairs = list(dict.fromkeys((target, number) for target, _, number in targets))
        weight = max(1, 100 // len(pairs)) if pairs else 0
        for target, number in pairs:
            answer.records.append((name, dns.rdatatype.SRV, f"{_PRIORITY} {weight} {number} {target.to_text()}"))
        for target, address in dict.fromkeys((target, address) for target, address, _ in targets):
            answer.extra.append((target, _type_of(address), address))
        return answer


def _endpoints_of(endpoint_slice: Object) -> Iterator[Endpoint]:
    ports = [
        (port.get("name") or "", (port.get("protocol") or "TCP").lower(), port["port"])
        for port in endpoint_slice.get("ports") or ()
        if port.get("port")
    ]
    for endpoint in endpoint_slice.get("endpoints") or ():
        if _is_ready(endpoint):
            for address in endpoint["addresses"]:
                label = endpoint.get("hostname") or _dashed(address)
                yield Endpoint(label, address, ports)


def _labels(endpoint: Endpoint) -> tuple[str, str]:
    """What an endpoint is called below its Service: by its hostname, and by its address."""
    return endpoint.label.lower(), _dashed(endpoint.address)


def _dashed(address: str) -> str:
    return address.replace(".", "-").replace(":", "-")


def _type_of(address: str) -> dns.rdatatype.RdataType:
    return dns.rdatatype.AAAA if ":" in address else dns.rdatatype.A


def _addresses(name: Name, kind: dns.rdatatype.RdataType, addresses: Sequence[str]) -> Records:
    return [(name, kind, address) for address in dict.fromkeys(addresses) if _type_of(address) == kind]


def _texts(name: Name, kind: dns.rdatatype.RdataType, text: str) -> Answer:
    return Answer(records=[(name, kind, f'"{text}"')] if kind == dns.rdatatype.TXT else [])


def rrsets(records: Records, ttl: int = TTL_SECONDS) -> list[dns.rrset.RRset]:
    """The records as sets of one owner and type, in their order."""
    found: dict[tuple[Name, dns.rdatatype.RdataType], dns.rrset.RRset] = {}
    for name, kind, text in records:
        rrset = found.get((name, kind))
        if rrset is None:
            rrset = found[name, kind] = dns.rrset.RRset(name, dns.rdataclass.IN, kind)
        rrset.add(_rdata(kind, text), ttl)
    return list(found.values())


@functools.lru_cache(maxsize=8192)
def _rdata(kind: dns.rdatatype.RdataType, text: str) -> dns.rdata.Rdata:
    """The data of a record, which never changes; reading it from text is half the work of an answer."""
    return dns.rdata.from_text(dns.rdataclass.IN, kind, text)
