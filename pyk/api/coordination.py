"""Leases (coordination.k8s.io/v1)."""

from __future__ import annotations

from pyk.api.base import Int32, MicroTime, Model
from pyk.api.meta import ObjectMeta


class LeaseSpec(Model):
    acquireTime: MicroTime | None = None
    holderIdentity: str | None = None
    leaseDurationSeconds: Int32 | None = None
    leaseTransitions: Int32 | None = None
    preferredHolder: str | None = None
    renewTime: MicroTime | None = None
    strategy: str | None = None


class Lease(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: LeaseSpec | None = None
