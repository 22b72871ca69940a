"""Pods: spec, affinity, tolerations, status (core/v1)."""

from __future__ import annotations

from typing import Annotated

from pyk.api.base import Int32, Int64, MergeKey, Model, Quantity, Time
from pyk.api.core_containers import (
    AppArmorProfile,
    Container,
    EphemeralContainer,
    ResourceRequirements,
    SeccompProfile,
    SELinuxOptions,
    WindowsSecurityContextOptions,
)
from pyk.api.core_volumes import LocalObjectReference, Volume
from pyk.api.meta import LabelSelector, ObjectMeta


class NodeSelectorRequirement(Model):
    key: str
    operator: str
    values: list[str] | None = None


class NodeSelectorTerm(Model):
    matchExpressions: list[NodeSelectorRequirement] | None = None
    matchFields: list[NodeSelectorRequirement] | None = None


class PreferredSchedulingTerm(Model):
    preference: NodeSelectorTerm
    weight: Int32


class NodeSelector(Model):
    nodeSelectorTerms: list[NodeSelectorTerm]


class NodeAffinity(Model):
    preferredDuringSchedulingIgnoredDuringExecution: list[PreferredSchedulingTerm] | None = None
    requiredDuringSchedulingIgnoredDuringExecution: NodeSelector | None = None


class PodAffinityTerm(Model):
    topologyKey: str
    labelSelector: LabelSelector | None = None
    matchLabelKeys: list[str] | None = None
    mismatchLabelKeys: list[str] | None = None
    namespaceSelector: LabelSelector | None = None
    namespaces: list[str] | None = None


class WeightedPodAffinityTerm(Model):
    podAffinityTerm: PodAffinityTerm
    weight: Int32


class PodAffinity(Model):
    preferredDuringSchedulingIgnoredDuringExecution: list[WeightedPodAffinityTerm] | None = None
    requiredDuringSchedulingIgnoredDuringExecution: list[PodAffinityTerm] | None = None


class PodAntiAffinity(Model):
    preferredDuringSchedulingIgnoredDuringExecution: list[WeightedPodAffinityTerm] | None = None
    requiredDuringSchedulingIgnoredDuringExecution: list[PodAffinityTerm] | None = None


class Affinity(Model):
    nodeAffinity: NodeAffinity | None = None
    podAffinity: PodAffinity | None = None
    podAntiAffinity: PodAntiAffinity | None = None


class PodDNSConfigOption(Model):
    name: str | None = None
    value: str | None = None


class PodDNSConfig(Model):
    nameservers: list[str] | None = None
    options: list[PodDNSConfigOption] | None = None
    searches: list[str] | None = None


class EvictionResponder(Model):
    name: str
    priority: Int32


class HostAlias(Model):
    ip: str
    hostnames: list[str] | None = None


class PodOS(Model):
    name: str


class PodReadinessGate(Model):
    conditionType: str


class PodResourceClaim(Model):
    name: str
    resourceClaimName: str | None = None
    resourceClaimTemplateName: str | None = None


class PodSchedulingGate(Model):
    name: str


class PodSchedulingGroup(Model):
    podGroupName: str | None = None


class Sysctl(Model):
    name: str
    value: str


class PodSecurityContext(Model):
    appArmorProfile: AppArmorProfile | None = None
    fsGroup: Int64 | None = None
    fsGroupChangePolicy: str | None = None
    runAsGroup: Int64 | None = None
    runAsNonRoot: bool | None = None
    runAsUser: Int64 | None = None
    seLinuxChangePolicy: str | None = None
    seLinuxOptions: SELinuxOptions | None = None
    seccompProfile: SeccompProfile | None = None
    supplementalGroups: list[Int64] | None = None
    supplementalGroupsPolicy: str | None = None
    sysctls: list[Sysctl] | None = None
    windowsOptions: WindowsSecurityContextOptions | None = None


class Toleration(Model):
    effect: str | None = None
    key: str | None = None
    operator: str | None = None
    tolerationSeconds: Int64 | None = None
    value: str | None = None


class TopologySpreadConstraint(Model):
    maxSkew: Int32
    topologyKey: str
    whenUnsatisfiable: str
    labelSelector: LabelSelector | None = None
    matchLabelKeys: list[str] | None = None
    minDomains: Int32 | None = None
    nodeAffinityPolicy: str | None = None
    nodeTaintsPolicy: str | None = None


class PodSpec(Model):
    containers: Annotated[list[Container], MergeKey("name")]
    activeDeadlineSeconds: Int64 | None = None
    affinity: Affinity | None = None
    automountServiceAccountToken: bool | None = None
    dnsConfig: PodDNSConfig | None = None
    dnsPolicy: str | None = None
    enableServiceLinks: bool | None = None
    ephemeralContainers: Annotated[list[EphemeralContainer], MergeKey("name")] | None = None
    evictionResponders: list[EvictionResponder] | None = None
    hostAliases: Annotated[list[HostAlias], MergeKey("ip")] | None = None
    hostIPC: bool | None = None
    hostNetwork: bool | None = None
    hostPID: bool | None = None
    hostUsers: bool | None = None
    hostname: str | None = None
    hostnameOverride: str | None = None
    imagePullSecrets: Annotated[list[LocalObjectReference], MergeKey("name")] | None = None
    initContainers: Annotated[list[Container], MergeKey("name")] | None = None
    nodeName: str | None = None
    nodeSelector: dict[str, str] | None = None
    os: PodOS | None = None
    overhead: dict[str, Quantity] | None = None
    preemptionPolicy: str | None = None
    priority: Int32 | None = None
    priorityClassName: str | None = None
    readinessGates: list[PodReadinessGate] | None = None
    resourceClaims: Annotated[list[PodResourceClaim], MergeKey("name", retain=True)] | None = None
    resources: ResourceRequirements | None = None
    restartPolicy: str | None = None
    runtimeClassName: str | None = None
    schedulerName: str | None = None
    schedulingGates: Annotated[list[PodSchedulingGate], MergeKey("name")] | None = None
    schedulingGroup: PodSchedulingGroup | None = None
    securityContext: PodSecurityContext | None = None
    serviceAccount: str | None = None
    serviceAccountName: str | None = None
    setHostnameAsFQDN: bool | None = None
    shareProcessNamespace: bool | None = None
    subdomain: str | None = None
    terminationGracePeriodSeconds: Int64 | None = None
    tolerations: list[Toleration] | None = None
    topologySpreadConstraints: (
        Annotated[list[TopologySpreadConstraint], MergeKey("topologyKey", keys=("topologyKey", "whenUnsatisfiable"))]
        | None
    ) = None
    volumes: Annotated[list[Volume], MergeKey("name", retain=True)] | None = None


class PodCondition(Model):
    status: str
    type: str
    lastProbeTime: Time | None = None
    lastTransitionTime: Time | None = None
    message: str | None = None
    observedGeneration: Int64 | None = None
    reason: str | None = None


class ResourceHealth(Model):
    resourceID: str
    health: str | None = None
    message: str | None = None


class ResourceStatus(Model):
    name: str
    resources: list[ResourceHealth] | None = None


class ContainerStateRunning(Model):
    startedAt: Time | None = None


class ContainerStateTerminated(Model):
    exitCode: Int32
    containerID: str | None = None
    finishedAt: Time | None = None
    message: str | None = None
    reason: str | None = None
    signal: Int32 | None = None
    startedAt: Time | None = None


class ContainerStateWaiting(Model):
    message: str | None = None
    reason: str | None = None


class ContainerState(Model):
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None
    waiting: ContainerStateWaiting | None = None


class LinuxContainerUser(Model):
    gid: Int32
    uid: Int32
    supplementalGroups: list[Int64] | None = None


class ContainerUser(Model):
    linux: LinuxContainerUser | None = None


class ImageVolumeStatus(Model):
    imageRef: str


class VolumeStatus(Model):
    image: ImageVolumeStatus | None = None


class VolumeMountStatus(Model):
    mountPath: str
    name: str
    readOnly: bool | None = None
    recursiveReadOnly: str | None = None
    volumeStatus: VolumeStatus | None = None


class ContainerStatus(Model):
    image: str
    imageID: str
    name: str
    ready: bool
    restartCount: Int32
    allocatedResources: dict[str, Quantity] | None = None
    allocatedResourcesStatus: list[ResourceStatus] | None = None
    containerID: str | None = None
    lastState: ContainerState | None = None
    resources: ResourceRequirements | None = None
    started: bool | None = None
    state: ContainerState | None = None
    stopSignal: str | None = None
    user: ContainerUser | None = None
    volumeMounts: list[VolumeMountStatus] | None = None


class ContainerExtendedResourceRequest(Model):
    containerName: str
    requestName: str
    resourceName: str


class PodExtendedResourceClaimStatus(Model):
    requestMappings: list[ContainerExtendedResourceRequest]
    resourceClaimName: str


class HostIP(Model):
    ip: str


class NodeAllocatableMappedResources(Model):
    name: str
    quantity: Quantity


class NodeAllocatableOverheadResources(Model):
    name: str
    perContainer: Quantity | None = None
    perPod: Quantity | None = None


class NodeAllocatableResourceClaimStatus(Model):
    resourceClaimName: str
    containers: list[str] | None = None
    mapping: list[NodeAllocatableMappedResources] | None = None
    overhead: list[NodeAllocatableOverheadResources] | None = None


class PodIP(Model):
    ip: str


class PodResourceClaimStatus(Model):
    name: str
    resourceClaimName: str | None = None


class VolumeHealthCondition(Model):
    reason: str
    status: str
    message: str | None = None


class PodVolumeHealth(Model):
    name: str
    healthConditions: list[VolumeHealthCondition] | None = None
    lastTransitionTime: Time | None = None


class PodStatus(Model):
    allocatedResources: dict[str, Quantity] | None = None
    conditions: Annotated[list[PodCondition], MergeKey("type")] | None = None
    containerStatuses: list[ContainerStatus] | None = None
    ephemeralContainerStatuses: list[ContainerStatus] | None = None
    extendedResourceClaimStatus: PodExtendedResourceClaimStatus | None = None
    hostIP: str | None = None
    hostIPs: list[HostIP] | None = None
    initContainerStatuses: list[ContainerStatus] | None = None
    message: str | None = None
    nodeAllocatableResourceClaimStatuses: list[NodeAllocatableResourceClaimStatus] | None = None
    nominatedNodeName: str | None = None
    observedGeneration: Int64 | None = None
    phase: str | None = None
    podIP: str | None = None
    podIPs: Annotated[list[PodIP], MergeKey("ip")] | None = None
    qosClass: str | None = None
    reason: str | None = None
    resize: str | None = None
    resourceClaimStatuses: Annotated[list[PodResourceClaimStatus], MergeKey("name")] | None = None
    resources: ResourceRequirements | None = None
    startTime: Time | None = None
    volumeHealth: list[PodVolumeHealth] | None = None


class Pod(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: PodSpec | None = None
    status: PodStatus | None = None


class PodTemplateSpec(Model):
    metadata: ObjectMeta | None = None
    spec: PodSpec | None = None


class ObjectReference(Model):
    apiVersion: str | None = None
    fieldPath: str | None = None
    kind: str | None = None
    name: str | None = None
    namespace: str | None = None
    resourceVersion: str | None = None
    uid: str | None = None


class Binding(Model):
    target: ObjectReference
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None


class PodTemplate(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    template: PodTemplateSpec | None = None
