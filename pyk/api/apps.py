"""The workloads of apps/v1, their ControllerRevisions, and the Scale subresource (autoscaling/v1)."""

from __future__ import annotations

from typing import Annotated, Any

from pyk.api.base import IntOrString, MergeKey, Model, RetainKeys, Time
from pyk.api.core_pods import PodTemplateSpec
from pyk.api.core_storage import PersistentVolumeClaim
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


class RollingUpdateStatefulSetStrategy(Model):
    maxUnavailable: IntOrString | None = None
    partition: int | None = None


class StatefulSetUpdateStrategy(Model):
    rollingUpdate: RollingUpdateStatefulSetStrategy | None = None
    type: str | None = None


class StatefulSetOrdinals(Model):
    start: int | None = None


class StatefulSetPersistentVolumeClaimRetentionPolicy(Model):
    whenDeleted: str | None = None
    whenScaled: str | None = None


class StatefulSetSpec(Model):
    selector: LabelSelector
    template: PodTemplateSpec
    minReadySeconds: int | None = None
    ordinals: StatefulSetOrdinals | None = None
    persistentVolumeClaimRetentionPolicy: StatefulSetPersistentVolumeClaimRetentionPolicy | None = None
    podManagementPolicy: str | None = None
    replicas: int | None = None
    revisionHistoryLimit: int | None = None
    serviceName: str | None = None
    updateStrategy: StatefulSetUpdateStrategy | None = None
    volumeClaimTemplates: list[PersistentVolumeClaim] | None = None


class StatefulSetCondition(Model):
    lastTransitionTime: Time | None = None
    message: str | None = None
    reason: str | None = None
    status: str | None = None
    type: str | None = None


class StatefulSetStatus(Model):
    replicas: int
    availableReplicas: int | None = None
    collisionCount: int | None = None
    conditions: Annotated[list[StatefulSetCondition], MergeKey("type")] | None = None
    currentReplicas: int | None = None
    currentRevision: str | None = None
    observedGeneration: int | None = None
    readyReplicas: int | None = None
    updateRevision: str | None = None
    updatedReplicas: int | None = None


class StatefulSet(Model):
    spec: StatefulSetSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: StatefulSetStatus | None = None


class RollingUpdateDaemonSet(Model):
    maxSurge: IntOrString | None = None
    maxUnavailable: IntOrString | None = None


class DaemonSetUpdateStrategy(Model):
    rollingUpdate: RollingUpdateDaemonSet | None = None
    type: str | None = None


class DaemonSetSpec(Model):
    selector: LabelSelector
    template: PodTemplateSpec
    minReadySeconds: int | None = None
    revisionHistoryLimit: int | None = None
    updateStrategy: DaemonSetUpdateStrategy | None = None


class DaemonSetCondition(Model):
    lastTransitionTime: Time | None = None
    message: str | None = None
    reason: str | None = None
    status: str | None = None
    type: str | None = None


class DaemonSetStatus(Model):
    currentNumberScheduled: int
    desiredNumberScheduled: int
    numberMisscheduled: int
    numberReady: int
    collisionCount: int | None = None
    conditions: Annotated[list[DaemonSetCondition], MergeKey("type")] | None = None
    numberAvailable: int | None = None
    numberUnavailable: int | None = None
    observedGeneration: int | None = None
    updatedNumberScheduled: int | None = None


class DaemonSet(Model):
    spec: DaemonSetSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: DaemonSetStatus | None = None


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
