"""Endpoints (core/v1)."""

from __future__ import annotations

from pyk.api.base import Int32, Model
from pyk.api.core_pods import ObjectReference
from pyk.api.meta import ObjectMeta


class EndpointAddress(Model):
    ip: str
    hostname: str | None = None
    nodeName: str | None = None
    targetRef: ObjectReference | None = None


class EndpointPort(Model):
    port: Int32
    appProtocol: str | None = None
    name: str | None = None
    protocol: str | None = None


class EndpointSubset(Model):
    addresses: list[EndpointAddress] | None = None
    notReadyAddresses: list[EndpointAddress] | None = None
    ports: list[EndpointPort] | None = None


class Endpoints(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    subsets: list[EndpointSubset] | None = None
