"""Requests for certificates (certificates.k8s.io/v1)."""

from __future__ import annotations

from typing import Annotated

from pyk.api.base import Base64, Int32, MergeKey, Model, Time
from pyk.api.meta import ObjectMeta


class CertificateSigningRequestSpec(Model):
    request: Base64
    signerName: str
    expirationSeconds: Int32 | None = None
    extra: dict[str, list[str]] | None = None
    groups: list[str] | None = None
    uid: str | None = None
    usages: list[str] | None = None
    username: str | None = None


class CertificateSigningRequestCondition(Model):
    status: str
    type: str
    lastTransitionTime: Time | None = None
    lastUpdateTime: Time | None = None
    message: str | None = None
    reason: str | None = None


class CertificateSigningRequestStatus(Model):
    certificate: Base64 | None = None
    conditions: Annotated[list[CertificateSigningRequestCondition], MergeKey("type")] | None = None


class CertificateSigningRequest(Model):
    spec: CertificateSigningRequestSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: CertificateSigningRequestStatus | None = None
