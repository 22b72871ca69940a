"""The workloads of apps/v1, their ControllerRevisions, and the Scale subresource (autoscaling/v1)."""

from __future__ import annotations

from typing import Annotated, Any

from pyk.api.base import Int32, Int64, IntOrString, MergeKey, Model, RetainKeys, Time
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
    minReadySeconds: Int32 | None = None
    paused: bool | None = None
    progressDeadlineSeconds: Int32 | None = None
    replicas: Int32 | None = None
    revisionHistoryLimit: Int32 | None = None
    strategy: Annotated[DeploymentStrategy, RetainKeys()] | None = None


class DeploymentCondition(Model):
    lastTransitionTime: Time | None = None
    lastUpdateTime: Time | None = None
    message: str | None = None
    reason: str | None = None
    status: str | None = None
    type: str | None = None


class DeploymentStatus(Model):
    availableReplicas: Int32 | None = None
    collisionCount: Int32 | None = None
    conditions: Annotated[list[DeploymentCondition], MergeKey("type")] | None = None
    observedGeneration: Int64 | None = None
    readyReplicas: Int32 | None = None
    replicas: Int32 | None = None
    terminatingReplicas: Int32 | None = None
    unavailableReplicas: Int32 | None = None
    updatedReplicas: Int32 | None = None


class Deployment(Model):
    spec: DeploymentSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: DeploymentStatus | None = None


class ReplicaSetSpec(Model):
    selector: LabelSelector
    minReadySeconds: Int32 | None = None
    replicas: Int32 | None = None
    template: PodTemplateSpec | None = None


class ReplicaSetCondition(Model):
    lastTransitionTime: Time | None = None
    message: str | None = None
    reason: str | None = None
    status: str | None = None
    type: str | None = None


class ReplicaSetStatus(Model):
    replicas: Int32
    availableReplicas: Int32 | None = None
    conditions: Annotated[list[ReplicaSetCondition], MergeKey("type")] | None = None
    fullyLabeledReplicas: Int32 | None = None
    observedGeneration: Int64 | None = None
    readyReplicas: Int32 | None = None
    terminatingReplicas: Int32 | None = None


class ReplicaSet(Model):
    spec: ReplicaSetSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: ReplicaSetStatus | None = None


class RollingUpdateStatefulSetStrategy(Model):
    maxUnavailable: IntOrString | None = None
    partition: Int32 | None = None


class StatefulSetUpdateStrategy(Model):
    rollingUpdate: RollingUpdateStatefulSetStrategy | None = None
    type: str | None = None


class StatefulSetOrdinals(Model):
    start: Int32 | None = None


class StatefulSetPersistentVolumeClaimRetentionPolicy(Model):
    whenDeleted: str | None = None
    whenScaled: str | None = None


class StatefulSetSpec(Model):
    selector: LabelSelector
    template: PodTemplateSpec
    minReadySeconds: Int32 | None = None
    ordinals: StatefulSetOrdinals | None = None
    persistentVolumeClaimRetentionPolicy: StatefulSetPersistentVolumeClaimRetentionPolicy | None = None
    podManagementPolicy: str | None = None
    replicas: Int32 | None = None
    revisionHistoryLimit: Int32 | None = None
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
    replicas: Int32
    availableReplicas: Int32 | None = None
    collisionCount: Int32 | None = None
    conditions: Annotated[list[StatefulSetCondition], MergeKey("type")] | None = None
    currentReplicas: Int32 | None = None
    currentRevision: str | None = None
    observedGeneration: Int64 | None = None
    readyReplicas: Int32 | None = None
    updateRevision: str | None = None
    updatedReplicas: Int32 | None = None


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
    minReadySeconds: Int32 | None = None
    revisionHistoryLimit: Int32 | None = None
    updateStrategy: DaemonSetUpdateStrategy | None = None


class DaemonSetCondition(Model):
    lastTransitionTime: Time | None = None
    message: str | None = None
    reason: str | None = None
    status: str | None = None
    type: str | None = None


class DaemonSetStatus(Model):
    currentNumberScheduled: Int32
    desiredNumberScheduled: Int32
    numberMisscheduled: Int32
    numberReady: Int32
    collisionCount: Int32 | None = None
    conditions: Annotated[list[DaemonSetCondition], MergeKey("type")] | None = None
    numberAvailable: Int32 | None = None
    numberUnavailable: Int32 | None = None
    observedGeneration: Int64 | None = None
    updatedNumberScheduled: Int32 | None = None


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
    revision: Int64 | None = None


class ScaleSpec(Model):
    replicas: Int32 | None = None


class ScaleStatus(Model):
    replicas: Int32
    selector: str | None = None


class Scale(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: ScaleSpec | None = None
    status: ScaleStatus | None = None
