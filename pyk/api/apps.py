"""Deployments, ReplicaSets and ControllerRevisions (apps/v1), and the Scale subresource (autoscaling/v1)."""

from __future__ import annotations

from typing import Annotated, Any

from pyk.api.base import IntOrString, MergeKey, Model, RetainKeys, Time
from pyk.api.core_pods import PodTemplateSpec
from pyk.api.meta import LabelSelector, ObjectMeta


class RollingUpdateDeployment(Model):
    maxSurge: IntOrString | None = None
    maxUnavailable: IntOrString | None = None


class DeploymentStrategy(Model):
    rollingUpdate: RollingUpdateDeployment | None = None
    type: str | None = None


class DeploymentSpec(Model):
    selector: LabelSelector
    template: PodTemplateSpec
    minReadySeconds: int | None = None
    paused: bool | None = None
    progressDeadlineSeconds: int | None = None
    replicas: int | None = None
    revisionHistoryLimit: int | None = None
    strategy: Annotated[DeploymentStrategy, RetainKeys()] | None = None


class DeploymentCondition(Model):
    lastTransitionTime: Time | None = None
    lastUpdateTime: Time | None = None
    message: str | None = None
    reason: str | None = None
    status: str | None = None
    type: str | None = None


class DeploymentStatus(Model):
    availableReplicas: int | None = None
    collisionCount: int | None = None
    conditions: Annotated[list[DeploymentCondition], MergeKey("type")] | None = None
    observedGeneration: int | None = None
    readyReplicas: int | None = None
    replicas: int | None = None
    terminatingReplicas: int | None = None
    unavailableReplicas: int | None = None
    updatedReplicas: int | None = None


class Deployment(Model):
    spec: DeploymentSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: DeploymentStatus | None = None


class ReplicaSetSpec(Model):
    selector: LabelSelector
    minReadySeconds: int | None = None
    replicas: int | None = None
    template: PodTemplateSpec | None = None


class ReplicaSetCondition(Model):
    lastTransitionTime: Time | None = None
    message: str | None = None
    reason: str | None = None
    status: str | None = None
    type: str | None = None


class ReplicaSetStatus(Model):
    replicas: int
    availableReplicas: int | None = None
    conditions: Annotated[list[ReplicaSetCondition], MergeKey("type")] | None = None
    fullyLabeledReplicas: int | None = None
    observedGeneration: int | None = None
    readyReplicas: int | None = None
    terminatingReplicas: int | None = None


class ReplicaSet(Model):
    spec: ReplicaSetSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: ReplicaSetStatus | None = None


class ControllerRevision(Model):
    apiVersion: str | None = None
    data: dict[str, Any] | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    revision: int | None = None


class ScaleSpec(Model):
    replicas: int | None = None


class ScaleStatus(Model):
    replicas: int
    selector: str | None = None


class Scale(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: ScaleSpec | None = None
    status: ScaleStatus | None = None
