"""PriorityClass (scheduling.k8s.io/v1)."""

from __future__ import annotations

from pyk.api.base import Int32, Model
from pyk.api.meta import ObjectMeta


class PriorityClass(Model):
    apiVersion: str | None = None
    description: str | None = None
    globalDefault: bool | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    preemptionPolicy: str | None = None
    value: Int32 | None = None
