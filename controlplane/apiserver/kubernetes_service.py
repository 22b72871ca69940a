"""The Services that the server itself keeps: `kubernetes` in `default`, by which pods reach it, and that of the DNS.

At its start the server makes the first ServiceCIDR, the Service with the first address of the range, and behind it the
Endpoints and the EndpointSlice that name the address and port at which the server listens for others. What somebody
changed of them since is put right. Source: `pkg/controlplane/controller/kubernetesservice` and `reconcilers` beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controlplane.apiserver.allocation import DEFAULT_CIDR
from controlplane.apiserver.allocation_ranges import Network
from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.registry import Registry, Write
from pyk.api.kinds import ENDPOINT_SLICE, ENDPOINTS, SERVICE, SERVICE_CIDR, Kind
from pyk.api.objects import Object
from pyk.api.rules.addresses import address_of
from pyk.api.rules.service_addresses import READY
from pyk.api.services import SINGLE_STACK, family_of
from pyk.api.status import ApiError
from pyk.reconcile.clock import Clock, timestamp

NAMESPACE, NAME = "default", "kubernetes"
DNS_NAMESPACE, DNS_NAME = "kube-system", "kube-dns"
PORT = 443
_PORT_NAME = "https"
_LABELS = {"component": "apiserver", "provider": "kubernetes"}


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


def endpoints(host: str, port: int) -> Object:
    """The Endpoints that name one server."""
    return {
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [
            {"addresses": [{"ip": host}], "ports": [{"name": _PORT_NAME, "protocol": "TCP", "port": port}]},
        ],
    }


def endpoint_slice(host: str, port: int) -> Object:
    """The EndpointSlice that names one server."""
    return {
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": NAME},
        },
        "addressType": family_of(host),
        "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
        "ports": [{"name": _PORT_NAME, "protocol": "TCP", "port": port}],
    }


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


def dns_service(address: str) -> Object:
    """The Service whose address the nodes' name servers answer at. It has no endpoints: each node has its own."""
    ports = [{"name": "dns", "protocol": "UDP", "port": 53}, {"name": "dns-tcp", "protocol": "TCP", "port": 53}]
    labels = {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "kube-dns"}
    return {
        "metadata": {"name": DNS_NAME, "namespace": DNS_NAMESPACE, "labels": labels},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports},
    }


async def publish_dns(registry: Registry, user: UserInfo, address: str) -> None:
    """Make the name servers' Service where it is missing."""
    await registry.ensure(user, [(SERVICE, dns_service(address))])


async def publish(registry: Registry, user: UserInfo, network: Network, host: str, port: int) -> None:
    """Make the Service and what stands behind it, or put them right. Nobody else reaches a server on loopback alone."""
    await _ensure(registry, user, SERVICE, service(network, port), ("spec", "ports"))
    address = address_of(host)
    if address is None or address.is_loopback:
        return
    await _ensure(registry, user, ENDPOINTS, endpoints(host, port), ("subsets",))
    await _ensure(registry, user, ENDPOINT_SLICE, endpoint_slice(host, port), ("endpoints", "ports"))


async def _ensure(registry: Registry, user: UserInfo, kind: Kind, wanted: Object, fields: Sequence[str]) -> None:
    """Create the object, or give the one that is there the wanted `fields` (below `spec` when that is the first)."""
    write = Write(user, kind, NAMESPACE, NAME)

    async def compute(old: Object) -> Object:
        new: dict[str, Any] = {**old, "metadata": dict(old["metadata"])}
        if fields[0] == "spec":
            new["spec"] = {**old["spec"], **{field: wanted["spec"][field] for field in fields[1:]}}
        else:
            new |= {field: wanted[field] for field in fields}
        return await registry.finish_update(write, new, old)

    try:
        await registry.modify(write, compute)
    except ApiError as error:
        if error.reason != "NotFound":
            raise
        await registry.create(Write(user, kind, NAMESPACE), wanted)
