"""Storage classes, CSI drivers, capacities and attachments (storage.k8s.io/v1)."""

from __future__ import annotations

from typing import Annotated

from pyk.api.base import Int32, Int64, MergeKey, Model, Quantity, Time
from pyk.api.core_storage import PersistentVolumeSpec
from pyk.api.meta import LabelSelector, ObjectMeta


class TopologySelectorLabelRequirement(Model):
    key: str
    values: list[str]


class TopologySelectorTerm(Model):
    matchLabelExpressions: list[TopologySelectorLabelRequirement] | None = None


class StorageClass(Model):
    provisioner: str
    allowVolumeExpansion: bool | None = None
    allowedTopologies: list[TopologySelectorTerm] | None = None
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    mountOptions: list[str] | None = None
    parameters: dict[str, str] | None = None
    reclaimPolicy: str | None = None
    volumeBindingMode: str | None = None


class VolumeAttributesClass(Model):
    driverName: str
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    parameters: dict[str, str] | None = None


class TokenRequest(Model):
    audience: str
    expirationSeconds: Int64 | None = None


class CSIDriverSpec(Model):
    attachRequired: bool | None = None
    fsGroupPolicy: str | None = None
    nodeAllocatableUpdatePeriodSeconds: Int64 | None = None
    podInfoOnMount: bool | None = None
    preventPodSchedulingIfMissing: bool | None = None
    requiresRepublish: bool | None = None
    seLinuxMount: bool | None = None
    serviceAccountTokenInSecrets: bool | None = None
    storageCapacity: bool | None = None
    tokenRequests: list[TokenRequest] | None = None
    volumeLifecycleModes: list[str] | None = None


class CSIDriver(Model):
    spec: CSIDriverSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None


class VolumeNodeResources(Model):
    count: Int32 | None = None


class CSINodeDriver(Model):
    name: str
    nodeID: str
    allocatable: VolumeNodeResources | None = None
    topologyKeys: list[str] | None = None


class CSINodeSpec(Model):
    drivers: Annotated[list[CSINodeDriver], MergeKey("name")]


class StorageHealthCondition(Model):
    reason: str
    status: str
    accessMode: str | None = None
    lastTransitionTime: Time | None = None
    message: str | None = None
    volumeMode: str | None = None


class StorageHealth(Model):
    name: str
    healthConditions: list[StorageHealthCondition] | None = None


class CSINodeStatus(Model):
    storageHealth: list[StorageHealth] | None = None


class CSINode(Model):
    spec: CSINodeSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: CSINodeStatus | None = None


class CSIStorageCapacity(Model):
    storageClassName: str
    apiVersion: str | None = None
    capacity: Quantity | None = None
    kind: str | None = None
    maximumVolumeSize: Quantity | None = None
    metadata: ObjectMeta | None = None
    nodeTopology: LabelSelector | None = None


class VolumeAttachmentSource(Model):
    inlineVolumeSpec: PersistentVolumeSpec | None = None
    persistentVolumeName: str | None = None


class VolumeAttachmentSpec(Model):
    attacher: str
    nodeName: str
    source: VolumeAttachmentSource


class VolumeError(Model):
    errorCode: Int32 | None = None
    message: str | None = None
    time: Time | None = None


class VolumeAttachmentStatus(Model):
    attached: bool
    attachError: VolumeError | None = None
    attachmentMetadata: dict[str, str] | None = None
    detachError: VolumeError | None = None


class VolumeAttachment(Model):
    spec: VolumeAttachmentSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: VolumeAttachmentStatus | None = None
