"""Questions about what somebody may do (authorization.k8s.io/v1)."""

from __future__ import annotations

from pyk.api.base import Model
from pyk.api.meta import LabelSelectorRequirement, ObjectMeta


class FieldSelectorRequirement(Model):
    key: str
    operator: str
    values: list[str] | None = None


class FieldSelectorAttributes(Model):
    rawSelector: str | None = None
    requirements: list[FieldSelectorRequirement] | None = None


class LabelSelectorAttributes(Model):
    rawSelector: str | None = None
    requirements: list[LabelSelectorRequirement] | None = None


class ResourceAttributes(Model):
    fieldSelector: FieldSelectorAttributes | None = None
    group: str | None = None
    labelSelector: LabelSelectorAttributes | None = None
    name: str | None = None
    namespace: str | None = None
    resource: str | None = None
    subresource: str | None = None
    verb: str | None = None
    version: str | None = None


class NonResourceAttributes(Model):
    path: str | None = None
    verb: str | None = None


class SubjectAccessReviewStatus(Model):
    allowed: bool
    denied: bool | None = None
    evaluationError: str | None = None
    reason: str | None = None


class SelfSubjectAccessReviewSpec(Model):
    nonResourceAttributes: NonResourceAttributes | None = None
    resourceAttributes: ResourceAttributes | None = None


class SelfSubjectAccessReview(Model):
    spec: SelfSubjectAccessReviewSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: SubjectAccessReviewStatus | None = None


class SubjectAccessReviewSpec(Model):
    extra: dict[str, list[str]] | None = None
    groups: list[str] | None = None
    nonResourceAttributes: NonResourceAttributes | None = None
    resourceAttributes: ResourceAttributes | None = None
    uid: str | None = None
    user: str | None = None


class SubjectAccessReview(Model):
    spec: SubjectAccessReviewSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: SubjectAccessReviewStatus | None = None


class LocalSubjectAccessReview(Model):
    spec: SubjectAccessReviewSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: SubjectAccessReviewStatus | None = None


class SelfSubjectRulesReviewSpec(Model):
    namespace: str | None = None


class NonResourceRule(Model):
    verbs: list[str]
    nonResourceURLs: list[str] | None = None


class ResourceRule(Model):
    verbs: list[str]
    apiGroups: list[str] | None = None
    resourceNames: list[str] | None = None
    resources: list[str] | None = None


class SubjectRulesReviewStatus(Model):
    incomplete: bool
    nonResourceRules: list[NonResourceRule]
    resourceRules: list[ResourceRule]
    evaluationError: str | None = None


class SelfSubjectRulesReview(Model):
    spec: SelfSubjectRulesReviewSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: SubjectRulesReviewStatus | None = None
