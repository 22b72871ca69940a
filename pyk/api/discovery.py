"""EndpointSlice (discovery.k8s.io/v1)."""

from __future__ import annotations

from pyk.api.base import Int32, Model
from pyk.api.core_pods import ObjectReference
from pyk.api.meta import ObjectMeta


class EndpointConditions(Model):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForNode(Model):
    name: str


class ForZone(Model):
    name: str


class EndpointHints(Model):
    forNodes: list[ForNode] | None = None
    forZones: list[ForZone] | None = None


class Endpoint(Model):
    addresses: list[str]
    conditions: EndpointConditions | None = None
    deprecatedTopology: dict[str, str] | None = None
    hints: EndpointHints | None = None
    hostname: str | None = None
    nodeName: str | None = None
    targetRef: ObjectReference | None = None
    zone: str | None = None


class EndpointPort(Model):
    appProtocol: str | None = None
    name: str | None = None
    port: Int32 | None = None
    protocol: str | None = None


class EndpointSlice(Model):
    addressType: str
    apiVersion: str | None = None
    endpoints: list[Endpoint] | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    ports: list[EndpointPort] | None = None
