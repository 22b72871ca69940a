"""What nodes and pods use at present (metrics.k8s.io/v1beta1). Nothing of it is stored."""

from __future__ import annotations

from pyk.api.base import Model, Quantity, Time
from pyk.api.meta import ObjectMeta

PRESSURES = {resource: f"pressure.pyk.io/{resource}" for resource in ("cpu", "memory", "io")}
"""Annotations of NodeMetrics: for which percentage of the last 10 seconds something waited for the resource."""


class ContainerMetrics(Model):
    name: str
    usage: dict[str, Quantity]


class NodeMetrics(Model):
    timestamp: Time
    usage: dict[str, Quantity]
    window: str
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None


class PodMetrics(Model):
    containers: list[ContainerMetrics]
    timestamp: Time
    window: str
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
