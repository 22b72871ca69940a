"""PersistentVolume and PersistentVolumeClaim (core/v1)."""

from __future__ import annotations

from typing import Annotated

from pyk.api.base import Int32, MergeKey, Model, Quantity, Time
from pyk.api.core_pods import NodeSelector, ObjectReference, VolumeHealthCondition
from pyk.api.core_volumes import (
    AWSElasticBlockStoreVolumeSource,
    AzureDiskVolumeSource,
    FCVolumeSource,
    FlockerVolumeSource,
    GCEPersistentDiskVolumeSource,
    HostPathVolumeSource,
    NFSVolumeSource,
    PersistentVolumeClaimSpec,
    PhotonPersistentDiskVolumeSource,
    PortworxVolumeSource,
    QuobyteVolumeSource,
    VsphereVirtualDiskVolumeSource,
)
from pyk.api.meta import ObjectMeta


class PersistentVolumeClaimCondition(Model):
    status: str
    type: str
    lastProbeTime: Time | None = None
    lastTransitionTime: Time | None = None
    message: str | None = None
    reason: str | None = None


class VolumeHealthStatus(Model):
    healthConditions: list[VolumeHealthCondition] | None = None
    lastTransitionTime: Time | None = None


class ModifyVolumeStatus(Model):
    status: str
    targetVolumeAttributesClassName: str | None = None


class PersistentVolumeClaimStatus(Model):
    accessModes: list[str] | None = None
    allocatedResourceStatuses: dict[str, str] | None = None
    allocatedResources: dict[str, Quantity] | None = None
    capacity: dict[str, Quantity] | None = None
    conditions: Annotated[list[PersistentVolumeClaimCondition], MergeKey("type")] | None = None
    currentVolumeAttributesClassName: str | None = None
    healthStatus: VolumeHealthStatus | None = None
    modifyVolumeStatus: ModifyVolumeStatus | None = None
    phase: str | None = None


class PersistentVolumeClaim(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: PersistentVolumeClaimSpec | None = None
    status: PersistentVolumeClaimStatus | None = None


class AzureFilePersistentVolumeSource(Model):
    secretName: str
    shareName: str
    readOnly: bool | None = None
    secretNamespace: str | None = None


class SecretReference(Model):
    name: str | None = None
    namespace: str | None = None


class CephFSPersistentVolumeSource(Model):
    monitors: list[str]
    path: str | None = None
    readOnly: bool | None = None
    secretFile: str | None = None
    secretRef: SecretReference | None = None
    user: str | None = None


class CinderPersistentVolumeSource(Model):
    volumeID: str
    fsType: str | None = None
    readOnly: bool | None = None
    secretRef: SecretReference | None = None


class CSIPersistentVolumeSource(Model):
    driver: str
    volumeHandle: str
    controllerExpandSecretRef: SecretReference | None = None
    controllerPublishSecretRef: SecretReference | None = None
    fsType: str | None = None
    nodeExpandSecretRef: SecretReference | None = None
    nodePublishSecretRef: SecretReference | None = None
    nodeStageSecretRef: SecretReference | None = None
    readOnly: bool | None = None
    volumeAttributes: dict[str, str] | None = None


class FlexPersistentVolumeSource(Model):
    driver: str
    fsType: str | None = None
    options: dict[str, str] | None = None
    readOnly: bool | None = None
    secretRef: SecretReference | None = None


class GlusterfsPersistentVolumeSource(Model):
    endpoints: str
    path: str
    endpointsNamespace: str | None = None
    readOnly: bool | None = None


class ISCSIPersistentVolumeSource(Model):
    iqn: str
    lun: Int32
    targetPortal: str
    chapAuthDiscovery: bool | None = None
    chapAuthSession: bool | None = None
    fsType: str | None = None
    initiatorName: str | None = None
    iscsiInterface: str | None = None
    portals: list[str] | None = None
    readOnly: bool | None = None
    secretRef: SecretReference | None = None


class LocalVolumeSource(Model):
    path: str
    fsType: str | None = None


class VolumeNodeAffinity(Model):
    required: NodeSelector | None = None


class RBDPersistentVolumeSource(Model):
    image: str
    monitors: list[str]
    fsType: str | None = None
    keyring: str | None = None
    pool: str | None = None
    readOnly: bool | None = None
    secretRef: SecretReference | None = None
    user: str | None = None


class ScaleIOPersistentVolumeSource(Model):
    gateway: str
    secretRef: SecretReference
    system: str
    fsType: str | None = None
    protectionDomain: str | None = None
    readOnly: bool | None = None
    sslEnabled: bool | None = None
    storageMode: str | None = None
    storagePool: str | None = None
    volumeName: str | None = None


class StorageOSPersistentVolumeSource(Model):
    fsType: str | None = None
    readOnly: bool | None = None
    secretRef: ObjectReference | None = None
    volumeName: str | None = None
    volumeNamespace: str | None = None


class PersistentVolumeSpec(Model):
    accessModes: list[str] | None = None
    awsElasticBlockStore: AWSElasticBlockStoreVolumeSource | None = None
    azureDisk: AzureDiskVolumeSource | None = None
    azureFile: AzureFilePersistentVolumeSource | None = None
    capacity: dict[str, Quantity] | None = None
    cephfs: CephFSPersistentVolumeSource | None = None
    cinder: CinderPersistentVolumeSource | None = None
    claimRef: ObjectReference | None = None
    csi: CSIPersistentVolumeSource | None = None
    fc: FCVolumeSource | None = None
    flexVolume: FlexPersistentVolumeSource | None = None
    flocker: FlockerVolumeSource | None = None
    gcePersistentDisk: GCEPersistentDiskVolumeSource | None = None
    glusterfs: GlusterfsPersistentVolumeSource | None = None
    hostPath: HostPathVolumeSource | None = None
    iscsi: ISCSIPersistentVolumeSource | None = None
    local: LocalVolumeSource | None = None
    mountOptions: list[str] | None = None
    nfs: NFSVolumeSource | None = None
    nodeAffinity: VolumeNodeAffinity | None = None
    persistentVolumeReclaimPolicy: str | None = None
    photonPersistentDisk: PhotonPersistentDiskVolumeSource | None = None
    portworxVolume: PortworxVolumeSource | None = None
    quobyte: QuobyteVolumeSource | None = None
    rbd: RBDPersistentVolumeSource | None = None
    scaleIO: ScaleIOPersistentVolumeSource | None = None
    storageClassName: str | None = None
    storageos: StorageOSPersistentVolumeSource | None = None
    volumeAttributesClassName: str | None = None
    volumeMode: str | None = None
    vsphereVolume: VsphereVirtualDiskVolumeSource | None = None


class PersistentVolumeStatus(Model):
    lastPhaseTransitionTime: Time | None = None
    message: str | None = None
    phase: str | None = None
    reason: str | None = None


class PersistentVolume(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: PersistentVolumeSpec | None = None
    status: PersistentVolumeStatus | None = None
