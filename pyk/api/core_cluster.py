"""Nodes and namespaces (core/v1)."""

from __future__ import annotations

from typing import Annotated

from pyk.api.base import Int32, Int64, MergeKey, MergeSet, Model, Quantity, Time
from pyk.api.meta import ObjectMeta


class ConfigMapNodeConfigSource(Model):
    kubeletConfigKey: str
    name: str
    namespace: str
    resourceVersion: str | None = None
    uid: str | None = None


class NodeConfigSource(Model):
    configMap: ConfigMapNodeConfigSource | None = None


class NodePodPreemptionPolicy(Model):
    disableResizePreemption: list[str] | None = None


class Taint(Model):
    effect: str
    key: str
    timeAdded: Time | None = None
    value: str | None = None


class NodeSpec(Model):
    configSource: NodeConfigSource | None = None
    externalID: str | None = None
    podCIDR: str | None = None
    podCIDRs: Annotated[list[str], MergeSet()] | None = None
    podPreemptionPolicy: NodePodPreemptionPolicy | None = None
    providerID: str | None = None
    taints: list[Taint] | None = None
    unschedulable: bool | None = None


class NodeAddress(Model):
    address: str
    type: str


class NodeCondition(Model):
    status: str
    type: str
    lastHeartbeatTime: Time | None = None
    lastTransitionTime: Time | None = None
    message: str | None = None
    reason: str | None = None


class NodeConfigStatus(Model):
    active: NodeConfigSource | None = None
    assigned: NodeConfigSource | None = None
    error: str | None = None
    lastKnownGood: NodeConfigSource | None = None


class DaemonEndpoint(Model):
    Port: Int32


class NodeDaemonEndpoints(Model):
    kubeletEndpoint: DaemonEndpoint | None = None


class NodeFeatures(Model):
    supplementalGroupsPolicy: bool | None = None


class ContainerImage(Model):
    names: list[str] | None = None
    sizeBytes: Int64 | None = None


class NodeSwapStatus(Model):
    capacity: Int64 | None = None


class NodeSystemInfo(Model):
    architecture: str
    bootID: str
    containerRuntimeVersion: str
    kernelVersion: str
    kubeProxyVersion: str
    kubeletVersion: str
    machineID: str
    operatingSystem: str
    osImage: str
    systemUUID: str
    runningInUserNamespace: bool | None = None
    swap: NodeSwapStatus | None = None


class NodeRuntimeHandlerFeatures(Model):
    recursiveReadOnlyMounts: bool | None = None
    userNamespaces: bool | None = None


class NodeRuntimeHandler(Model):
    features: NodeRuntimeHandlerFeatures | None = None
    name: str | None = None


class AttachedVolume(Model):
    devicePath: str
    name: str


class NodeStatus(Model):
    addresses: Annotated[list[NodeAddress], MergeKey("type")] | None = None
    allocatable: dict[str, Quantity] | None = None
    capacity: dict[str, Quantity] | None = None
    conditions: Annotated[list[NodeCondition], MergeKey("type")] | None = None
    config: NodeConfigStatus | None = None
    daemonEndpoints: NodeDaemonEndpoints | None = None
    declaredFeatures: list[str] | None = None
    features: NodeFeatures | None = None
    images: list[ContainerImage] | None = None
    nodeInfo: NodeSystemInfo | None = None
    phase: str | None = None
    runtimeHandlers: list[NodeRuntimeHandler] | None = None
    volumesAttached: list[AttachedVolume] | None = None
    volumesInUse: list[str] | None = None


class Node(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class NamespaceSpec(Model):
    finalizers: list[str] | None = None


class NamespaceCondition(Model):
    status: str
    type: str
    lastTransitionTime: Time | None = None
    message: str | None = None
    reason: str | None = None


class NamespaceStatus(Model):
    conditions: Annotated[list[NamespaceCondition], MergeKey("type")] | None = None
    phase: str | None = None


class Namespace(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: NamespaceSpec | None = None
    status: NamespaceStatus | None = None


class ComponentCondition(Model):
    status: str
    type: str
    error: str | None = None
    message: str | None = None


class ComponentStatus(Model):
    apiVersion: str | None = None
    conditions: Annotated[list[ComponentCondition], MergeKey("type")] | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
