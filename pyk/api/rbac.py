"""Roles and their bindings (rbac.authorization.k8s.io/v1)."""

from __future__ import annotations

from pyk.api.base import Model
from pyk.api.meta import LabelSelector, ObjectMeta


class PolicyRule(Model):
    verbs: list[str]
    apiGroups: list[str] | None = None
    nonResourceURLs: list[str] | None = None
    resourceNames: list[str] | None = None
    resources: list[str] | None = None


class AggregationRule(Model):
    clusterRoleSelectors: list[LabelSelector] | None = None


class ClusterRole(Model):
    aggregationRule: AggregationRule | None = None
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    rules: list[PolicyRule] | None = None


class Role(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    rules: list[PolicyRule] | None = None


class RoleRef(Model):
    kind: str
    name: str
    apiGroup: str | None = None


class Subject(Model):
    kind: str
    name: str
    apiGroup: str | None = None
    namespace: str | None = None


class ClusterRoleBinding(Model):
    roleRef: RoleRef
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    subjects: list[Subject] | None = None


class RoleBinding(Model):
    roleRef: RoleRef
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    subjects: list[Subject] | None = None
