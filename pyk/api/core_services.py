"""Service (core/v1)."""

from __future__ import annotations

from typing import Annotated

from pyk.api.base import Int32, IntOrString, MergeKey, Model
from pyk.api.meta import Condition, ObjectMeta


class ClientIPConfig(Model):
    timeoutSeconds: Int32 | None = None


class SessionAffinityConfig(Model):
    clientIP: ClientIPConfig | None = None


class ServicePort(Model):
    port: Int32
    appProtocol: str | None = None
    name: str | None = None
    nodePort: Int32 | None = None
    protocol: str | None = None
    targetPort: IntOrString | None = None


class ServiceSpec(Model):
    allocateLoadBalancerNodePorts: bool | None = None
    clusterIP: str | None = None
    clusterIPs: list[str] | None = None
    externalIPs: list[str] | None = None
    externalName: str | None = None
    externalTrafficPolicy: str | None = None
    healthCheckNodePort: Int32 | None = None
    internalTrafficPolicy: str | None = None
    ipFamilies: list[str] | None = None
    ipFamilyPolicy: str | None = None
    loadBalancerClass: str | None = None
    loadBalancerIP: str | None = None
    loadBalancerSourceRanges: list[str] | None = None
    ports: Annotated[list[ServicePort], MergeKey("port", ("port", "protocol"))] | None = None
    publishNotReadyAddresses: bool | None = None
    selector: dict[str, str] | None = None
    sessionAffinity: str | None = None
    sessionAffinityConfig: SessionAffinityConfig | None = None
    trafficDistribution: str | None = None
    type: str | None = None


class PortStatus(Model):
    port: Int32
    protocol: str
    error: str | None = None


class LoadBalancerIngress(Model):
    hostname: str | None = None
    ip: str | None = None
    ipMode: str | None = None
    ports: list[PortStatus] | None = None


class LoadBalancerStatus(Model):
    ingress: list[LoadBalancerIngress] | None = None


class ServiceStatus(Model):
    conditions: Annotated[list[Condition], MergeKey("type")] | None = None
    loadBalancer: LoadBalancerStatus | None = None


class Service(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None
