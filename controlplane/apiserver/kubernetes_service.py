"""The Services that the server itself keeps: `kubernetes` in `default`, by which pods reach it, and that of the DNS.

At its start the server makes the first ServiceCIDR and the Service with the first address of the range; what stands
behind it, the Endpoints and EndpointSlices that name all servers, is written by `servers.py` from the functions here.
What somebody changed of them is put right. Source: `pkg/controlplane/controller/kubernetesservice` and `reconcilers`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

from controlplane.apiserver.allocation import DEFAULT_CIDR
from controlplane.apiserver.allocation_ranges import Network
from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.registry import Registry
from controlplane.apiserver.writes import Write
from pyk.api.kinds import SERVICE, SERVICE_CIDR
from pyk.api.objects import Object
from pyk.api.rules.service_addresses import READY
from pyk.api.services import PREFER_DUAL_STACK, SINGLE_STACK, family_of
from pyk.api.status import ApiError
from pyk.reconcile.clock import Clock, timestamp

NAMESPACE, NAME = "default", "kubernetes"
DNS_NAMESPACE, DNS_NAME = "kube-system", "kube-dns"
PORT = 443
_PORT_NAME = "https"
MANAGED_BY, SELF = "endpointslice.kubernetes.io/managed-by", "apiserver"
_LABELS = {"component": "apiserver", "provider": "kubernetes"}

Address = tuple[str, int]
"""The host (an IP address) and port at which others reach a server."""
Key = TypeVar("Key", int, tuple[str, int])


def service(network: Network, port: int) -> Object:
    """The Service, for a server that listens on `port`."""
    address = str(network[1])
    ports = [{"name": _PORT_NAME, "protocol": "TCP", "port": PORT, "targetPort": port}]
    return {
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": dict(_LABELS)},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": [family_of(address)],
            "ipFamilyPolicy": SINGLE_STACK,
            "sessionAffinity": "None",
            "ports": ports,
        },
    }


def endpoints(servers: Collection[Address]) -> Object:
    """The Endpoints that name the servers: a subset for each port that they listen on."""
    subsets = [
        {"addresses": [{"ip": host} for host in hosts], "ports": _ports(port)}
        for port, hosts in _grouped((port, host) for host, port in servers).items()
    ]
    labels = {"endpointslice.kubernetes.io/skip-mirror": "true"}
    return {"metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels}, "subsets": subsets}


def endpoint_slices(servers: Collection[Address]) -> dict[str, Object]:
    """The EndpointSlices that name the servers, by name: one for each port and family; usually that is one."""
    found: dict[str, Object] = {}
    for (family, port), hosts in _grouped(((family_of(host), port), host) for host, port in servers).items():
        is_first = not found
        name = NAME if is_first else f"{NAME}-{family.lower()}-{port}"
        labels = {"kubernetes.io/service-name": NAME} | ({} if is_first else {MANAGED_BY: SELF})
        found[name] = {
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "addressType": family,
            "endpoints": [{"addresses": [host], "conditions": {"ready": True}} for host in hosts],
            "ports": _ports(port),
        }
    return found


def _grouped(pairs: Iterable[tuple[Key, str]]) -> dict[Key, list[str]]:
    found: dict[Key, list[str]] = {}
    for key, host in sorted(pairs):
        found.setdefault(key, []).append(host)
    return found


def _ports(port: int) -> list[Object]:
    return [{"name": _PORT_NAME, "protocol": "TCP", "port": port}]


async def ensure_service_cidr(registry: Registry, user: UserInfo, networks: Sequence[Network], clock: Clock) -> None:
    """Make the first ServiceCIDR; one that is there stays as it is, its ranges cannot be changed."""
    obj: Object = {"metadata": {"name": DEFAULT_CIDR}, "spec": {"cidrs": [str(each) for each in networks]}}
    try:
        await registry.create(Write(user, SERVICE_CIDR, ""), obj)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
    condition = {
        "type": READY,
        "status": "True",
        "reason": "Ready",
        "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": timestamp(clock.time()),
    }

    async def compute(old: Object) -> Object:
        if (old.get("status") or {}).get("conditions"):
            return old
        return {**old, "status": {"conditions": [condition]}}

    await registry.modify(Write(user, SERVICE_CIDR, "", DEFAULT_CIDR, "status"), compute)


def dns_service(addresses: Sequence[str]) -> Object:
    """The Service whose addresses the nodes' name servers answer at. It has no endpoints: each node has its own."""
    ports = [{"name": "dns", "protocol": "UDP", "port": 53}, {"name": "dns-tcp", "protocol": "TCP", "port": 53}]
    labels = {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "kube-dns"}
    return {
        "metadata": {"name": DNS_NAME, "namespace": DNS_NAMESPACE, "labels": labels},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": addresses[0],
            "clusterIPs": list(addresses),
            "ipFamilies": [family_of(address) for address in addresses],
            "ipFamilyPolicy": SINGLE_STACK if len(addresses) == 1 else PREFER_DUAL_STACK,
            "ports": ports,
        },
    }


async def publish_dns(registry: Registry, user: UserInfo, addresses: Sequence[str]) -> None:
    """Make the name servers' Service where it is missing."""
    await registry.ensure(user, [(SERVICE, dns_service(addresses))])


async def publish(registry: Registry, user: UserInfo, network: Network, port: int) -> None:
    """Make the Service, or put its ports right."""
    wanted = service(network, port)
    write = Write(user, SERVICE, NAMESPACE, NAME)

    async def compute(old: Object) -> Object:
        return await registry.finish_update(
            write,
            {**old, "metadata": dict(old["metadata"]), "spec": {**old["spec"], "ports": wanted["spec"]["ports"]}},
            old,
        )

    try:
        await registry.modify(write, compute)
    except ApiError as error:
        if error.reason != "NotFound":
            raise
        await registry.create(Write(user, SERVICE, NAMESPACE), wanted)
