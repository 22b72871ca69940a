"""RuntimeClass (node.k8s.io/v1)."""

from __future__ import annotations

from pyk.api.base import Model, Quantity
from pyk.api.core_pods import Toleration
from pyk.api.meta import ObjectMeta


class Overhead(Model):
    podFixed: dict[str, Quantity] | None = None


class Scheduling(Model):
    nodeSelector: dict[str, str] | None = None
    tolerations: list[Toleration] | None = None


class RuntimeClass(Model):
    handler: str
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    overhead: Overhead | None = None
    scheduling: Scheduling | None = None
