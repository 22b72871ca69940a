"""Questions about who somebody is, and tokens of service accounts (authentication.k8s.io/v1)."""

from __future__ import annotations

from pyk.api.base import Int64, Model, Time
from pyk.api.meta import ObjectMeta


class UserInfo(Model):
    extra: dict[str, list[str]] | None = None
    groups: list[str] | None = None
    uid: str | None = None
    username: str | None = None


class SelfSubjectReviewStatus(Model):
    userInfo: UserInfo | None = None


class SelfSubjectReview(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: SelfSubjectReviewStatus | None = None


class TokenReviewSpec(Model):
    audiences: list[str] | None = None
    token: str | None = None


class TokenReviewStatus(Model):
    audiences: list[str] | None = None
    authenticated: bool | None = None
    error: str | None = None
    user: UserInfo | None = None


class TokenReview(Model):
    spec: TokenReviewSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: TokenReviewStatus | None = None


class BoundObjectReference(Model):
    apiVersion: str | None = None
    kind: str | None = None
    name: str | None = None
    uid: str | None = None


class TokenRequestSpec(Model):
    audiences: list[str] | None = None
    boundObjectRef: BoundObjectReference | None = None
    expirationSeconds: Int64 | None = None


class TokenRequestStatus(Model):
    expirationTimestamp: Time
    token: str


class TokenRequest(Model):
    spec: TokenRequestSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: TokenRequestStatus | None = None
