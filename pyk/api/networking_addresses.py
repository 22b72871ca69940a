"""ServiceCIDR and IPAddress (networking.k8s.io/v1): where services' addresses come from, and which are taken."""

from __future__ import annotations

from typing import Annotated

from pyk.api.base import MergeKey, Model
from pyk.api.meta import Condition, ObjectMeta


class ParentReference(Model):
    name: str | None = None
    resource: str | None = None
    group: str | None = None
    namespace: str | None = None


class IPAddressSpec(Model):
    parentRef: ParentReference | None = None


class IPAddress(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: IPAddressSpec | None = None


class ServiceCIDRSpec(Model):
    cidrs: list[str] | None = None


class ServiceCIDRStatus(Model):
    conditions: Annotated[list[Condition], MergeKey("type")] | None = None


class ServiceCIDR(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: ServiceCIDRSpec | None = None
    status: ServiceCIDRStatus | None = None
