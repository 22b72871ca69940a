"""Volumes of a pod (core/v1)."""

from __future__ import annotations

from pyk.api.base import Int32, Int64, Model, Quantity
from pyk.api.meta import LabelSelector, ObjectMeta


class AWSElasticBlockStoreVolumeSource(Model):
    volumeID: str
    fsType: str | None = None
    partition: Int32 | None = None
    readOnly: bool | None = None


class AzureDiskVolumeSource(Model):
    diskName: str
    diskURI: str
    cachingMode: str | None = None
    fsType: str | None = None
    kind: str | None = None
    readOnly: bool | None = None


class AzureFileVolumeSource(Model):
    secretName: str
    shareName: str
    readOnly: bool | None = None


class LocalObjectReference(Model):
    name: str | None = None


class CephFSVolumeSource(Model):
    monitors: list[str]
    path: str | None = None
    readOnly: bool | None = None
    secretFile: str | None = None
    secretRef: LocalObjectReference | None = None
    user: str | None = None


class CinderVolumeSource(Model):
    volumeID: str
    fsType: str | None = None
    readOnly: bool | None = None
    secretRef: LocalObjectReference | None = None


class KeyToPath(Model):
    key: str
    path: str
    mode: Int32 | None = None
    user: Int32 | None = None


class ConfigMapVolumeSource(Model):
    defaultMode: Int32 | None = None
    defaultUser: Int32 | None = None
    items: list[KeyToPath] | None = None
    name: str | None = None
    optional: bool | None = None


class CSIVolumeSource(Model):
    driver: str
    fsType: str | None = None
    nodePublishSecretRef: LocalObjectReference | None = None
    readOnly: bool | None = None
    volumeAttributes: dict[str, str] | None = None


class ObjectFieldSelector(Model):
    fieldPath: str
    apiVersion: str | None = None


class ResourceFieldSelector(Model):
    resource: str
    containerName: str | None = None
    divisor: Quantity | None = None


class DownwardAPIVolumeFile(Model):
    path: str
    fieldRef: ObjectFieldSelector | None = None
    mode: Int32 | None = None
    resourceFieldRef: ResourceFieldSelector | None = None
    user: Int32 | None = None


class DownwardAPIVolumeSource(Model):
    defaultMode: Int32 | None = None
    defaultUser: Int32 | None = None
    items: list[DownwardAPIVolumeFile] | None = None


class EmptyDirVolumeSource(Model):
    medium: str | None = None
    mode: Int32 | None = None
    sizeLimit: Quantity | None = None


class TypedLocalObjectReference(Model):
    kind: str
    name: str
    apiGroup: str | None = None


class TypedObjectReference(Model):
    kind: str
    name: str
    apiGroup: str | None = None
    namespace: str | None = None


class VolumeResourceRequirements(Model):
    limits: dict[str, Quantity] | None = None
    requests: dict[str, Quantity] | None = None


class PersistentVolumeClaimSpec(Model):
    accessModes: list[str] | None = None
    dataSource: TypedLocalObjectReference | None = None
    dataSourceRef: TypedObjectReference | None = None
    resources: VolumeResourceRequirements | None = None
    selector: LabelSelector | None = None
    storageClassName: str | None = None
    volumeAttributesClassName: str | None = None
    volumeMode: str | None = None
    volumeName: str | None = None


class PersistentVolumeClaimTemplate(Model):
    spec: PersistentVolumeClaimSpec
    metadata: ObjectMeta | None = None


class EphemeralVolumeSource(Model):
    volumeClaimTemplate: PersistentVolumeClaimTemplate | None = None


class FCVolumeSource(Model):
    fsType: str | None = None
    lun: Int32 | None = None
    readOnly: bool | None = None
    targetWWNs: list[str] | None = None
    wwids: list[str] | None = None


class FlexVolumeSource(Model):
    driver: str
    fsType: str | None = None
    options: dict[str, str] | None = None
    readOnly: bool | None = None
    secretRef: LocalObjectReference | None = None


class FlockerVolumeSource(Model):
    datasetName: str | None = None
    datasetUUID: str | None = None


class GCEPersistentDiskVolumeSource(Model):
    pdName: str
    fsType: str | None = None
    partition: Int32 | None = None
    readOnly: bool | None = None


class GitRepoVolumeSource(Model):
    repository: str
    directory: str | None = None
    revision: str | None = None


class GlusterfsVolumeSource(Model):
    endpoints: str
    path: str
    readOnly: bool | None = None


class HostPathVolumeSource(Model):
    path: str
    type: str | None = None


class ImageVolumeSource(Model):
    pullPolicy: str | None = None
    reference: str | None = None


class ISCSIVolumeSource(Model):
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
    secretRef: LocalObjectReference | None = None


class NFSVolumeSource(Model):
    path: str
    server: str
    readOnly: bool | None = None


class PersistentVolumeClaimVolumeSource(Model):
    claimName: str
    readOnly: bool | None = None


class PhotonPersistentDiskVolumeSource(Model):
    pdID: str
    fsType: str | None = None


class PortworxVolumeSource(Model):
    volumeID: str
    fsType: str | None = None
    readOnly: bool | None = None


class ClusterTrustBundleProjection(Model):
    path: str
    labelSelector: LabelSelector | None = None
    name: str | None = None
    optional: bool | None = None
    signerName: str | None = None
    user: Int32 | None = None


class ConfigMapProjection(Model):
    items: list[KeyToPath] | None = None
    name: str | None = None
    optional: bool | None = None


class DownwardAPIProjection(Model):
    items: list[DownwardAPIVolumeFile] | None = None


class PodCertificateProjection(Model):
    keyType: str
    signerName: str
    certificateChainPath: str | None = None
    credentialBundlePath: str | None = None
    keyPath: str | None = None
    maxExpirationSeconds: Int32 | None = None
    user: Int32 | None = None
    userAnnotations: dict[str, str] | None = None


class SecretProjection(Model):
    items: list[KeyToPath] | None = None
    name: str | None = None
    optional: bool | None = None


class ServiceAccountTokenProjection(Model):
    path: str
    audience: str | None = None
    expirationSeconds: Int64 | None = None
    user: Int32 | None = None


class VolumeProjection(Model):
    clusterTrustBundle: ClusterTrustBundleProjection | None = None
    configMap: ConfigMapProjection | None = None
    downwardAPI: DownwardAPIProjection | None = None
    podCertificate: PodCertificateProjection | None = None
    secret: SecretProjection | None = None
    serviceAccountToken: ServiceAccountTokenProjection | None = None


class ProjectedVolumeSource(Model):
    defaultMode: Int32 | None = None
    defaultUser: Int32 | None = None
    sources: list[VolumeProjection] | None = None


class QuobyteVolumeSource(Model):
    registry: str
    volume: str
    group: str | None = None
    readOnly: bool | None = None
    tenant: str | None = None
    user: str | None = None


class RBDVolumeSource(Model):
    image: str
    monitors: list[str]
    fsType: str | None = None
    keyring: str | None = None
    pool: str | None = None
    readOnly: bool | None = None
    secretRef: LocalObjectReference | None = None
    user: str | None = None


class ScaleIOVolumeSource(Model):
    gateway: str
    secretRef: LocalObjectReference
    system: str
    fsType: str | None = None
    protectionDomain: str | None = None
    readOnly: bool | None = None
    sslEnabled: bool | None = None
    storageMode: str | None = None
    storagePool: str | None = None
    volumeName: str | None = None


class SecretVolumeSource(Model):
    defaultMode: Int32 | None = None
    defaultUser: Int32 | None = None
    items: list[KeyToPath] | None = None
    optional: bool | None = None
    secretName: str | None = None


class StorageOSVolumeSource(Model):
    fsType: str | None = None
    readOnly: bool | None = None
    secretRef: LocalObjectReference | None = None
    volumeName: str | None = None
    volumeNamespace: str | None = None


class VsphereVirtualDiskVolumeSource(Model):
    volumePath: str
    fsType: str | None = None
    storagePolicyID: str | None = None
    storagePolicyName: str | None = None


class Volume(Model):
    name: str
    awsElasticBlockStore: AWSElasticBlockStoreVolumeSource | None = None
    azureDisk: AzureDiskVolumeSource | None = None
    azureFile: AzureFileVolumeSource | None = None
    cephfs: CephFSVolumeSource | None = None
    cinder: CinderVolumeSource | None = None
    configMap: ConfigMapVolumeSource | None = None
    csi: CSIVolumeSource | None = None
    downwardAPI: DownwardAPIVolumeSource | None = None
    emptyDir: EmptyDirVolumeSource | None = None
    ephemeral: EphemeralVolumeSource | None = None
    fc: FCVolumeSource | None = None
    flexVolume: FlexVolumeSource | None = None
    flocker: FlockerVolumeSource | None = None
    gcePersistentDisk: GCEPersistentDiskVolumeSource | None = None
    gitRepo: GitRepoVolumeSource | None = None
    glusterfs: GlusterfsVolumeSource | None = None
    hostPath: HostPathVolumeSource | None = None
    image: ImageVolumeSource | None = None
    iscsi: ISCSIVolumeSource | None = None
    nfs: NFSVolumeSource | None = None
    persistentVolumeClaim: PersistentVolumeClaimVolumeSource | None = None
    photonPersistentDisk: PhotonPersistentDiskVolumeSource | None = None
    portworxVolume: PortworxVolumeSource | None = None
    projected: ProjectedVolumeSource | None = None
    quobyte: QuobyteVolumeSource | None = None
    rbd: RBDVolumeSource | None = None
    scaleIO: ScaleIOVolumeSource | None = None
    secret: SecretVolumeSource | None = None
    storageos: StorageOSVolumeSource | None = None
    vsphereVolume: VsphereVirtualDiskVolumeSource | None = None
