"""Devices that pods claim (resource.k8s.io/v1): what drivers publish, what is asked for, and what was allocated.

A driver publishes its devices in ResourceSlices; a DeviceClass is an administrator's choice among them; a ResourceClaim
asks for some, a ResourceClaimTemplate for some for each pod. Selectors are expressions in CEL, which is not evaluated
here: drivers and schedulers of the user's read and write these objects.
"""

from __future__ import annotations

from typing import Annotated, Any

from pyk.api.base import Int64, MergeKey, Model, Quantity, Time
from pyk.api.core_pods import NodeSelector
from pyk.api.meta import Condition, ObjectMeta

_Bool = bool


class CELDeviceSelector(Model):
    expression: str


class DeviceSelector(Model):
    cel: CELDeviceSelector | None = None


class OpaqueDeviceConfiguration(Model):
    driver: str
    parameters: dict[str, Any]


class DeviceClassConfiguration(Model):
    opaque: OpaqueDeviceConfiguration | None = None


class DeviceClassSpec(Model):
    config: list[DeviceClassConfiguration] | None = None
    extendedResourceName: str | None = None
    selectors: list[DeviceSelector] | None = None


class DeviceClass(Model):
    spec: DeviceClassSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None


class DeviceToleration(Model):
    effect: str | None = None
    key: str | None = None
    operator: str | None = None
    tolerationSeconds: Int64 | None = None
    value: str | None = None


class CapacityRequirements(Model):
    requests: dict[str, Quantity] | None = None


class ExactDeviceRequest(Model):
    deviceClassName: str
    adminAccess: bool | None = None
    allocationMode: str | None = None
    capacity: CapacityRequirements | None = None
    count: Int64 | None = None
    selectors: list[DeviceSelector] | None = None
    tolerations: list[DeviceToleration] | None = None


class DeviceSubRequest(Model):
    deviceClassName: str
    name: str
    allocationMode: str | None = None
    capacity: CapacityRequirements | None = None
    count: Int64 | None = None
    selectors: list[DeviceSelector] | None = None
    tolerations: list[DeviceToleration] | None = None


class DeviceRequest(Model):
    name: str
    exactly: ExactDeviceRequest | None = None
    firstAvailable: list[DeviceSubRequest] | None = None


class DeviceConstraint(Model):
    distinctAttribute: str | None = None
    matchAttribute: str | None = None
    requests: list[str] | None = None


class DeviceClaimConfiguration(Model):
    opaque: OpaqueDeviceConfiguration | None = None
    requests: list[str] | None = None


class DeviceClaim(Model):
    config: list[DeviceClaimConfiguration] | None = None
    constraints: list[DeviceConstraint] | None = None
    requests: list[DeviceRequest] | None = None


class ResourceClaimSpec(Model):
    devices: DeviceClaim | None = None


class DeviceRequestAllocationResult(Model):
    device: str
    driver: str
    pool: str
    request: str
    adminAccess: bool | None = None
    bindingConditions: list[str] | None = None
    bindingFailureConditions: list[str] | None = None
    consumedCapacity: dict[str, Quantity] | None = None
    shareID: str | None = None
    tolerations: list[DeviceToleration] | None = None


class DeviceAllocationConfiguration(Model):
    source: str
    opaque: OpaqueDeviceConfiguration | None = None
    requests: list[str] | None = None


class DeviceAllocationResult(Model):
    config: list[DeviceAllocationConfiguration] | None = None
    results: list[DeviceRequestAllocationResult] | None = None


class AllocationResult(Model):
    allocationTimestamp: Time | None = None
    devices: DeviceAllocationResult | None = None
    nodeSelector: NodeSelector | None = None


class ResourceClaimConsumerReference(Model):
    name: str
    resource: str
    uid: str
    apiGroup: str | None = None


class NetworkDeviceData(Model):
    hardwareAddress: str | None = None
    interfaceName: str | None = None
    ips: list[str] | None = None


class AllocatedDeviceStatus(Model):
    device: str
    driver: str
    pool: str
    conditions: Annotated[list[Condition], MergeKey("type")] | None = None
    data: dict[str, Any] | None = None
    networkData: NetworkDeviceData | None = None
    shareID: str | None = None


class ResourceClaimStatus(Model):
    allocation: AllocationResult | None = None
    devices: (
        Annotated[list[AllocatedDeviceStatus], MergeKey("driver", ("driver", "device", "pool", "shareID"))] | None
    ) = None
    reservedFor: Annotated[list[ResourceClaimConsumerReference], MergeKey("uid")] | None = None


class ResourceClaim(Model):
    spec: ResourceClaimSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: ResourceClaimStatus | None = None


class ResourceClaimTemplateSpec(Model):
    spec: ResourceClaimSpec
    metadata: ObjectMeta | None = None


class ResourceClaimTemplate(Model):
    spec: ResourceClaimTemplateSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None


class ResourcePool(Model):
    generation: Int64
    name: str
    resourceSliceCount: Int64


class DeviceAttribute(Model):
    bool: _Bool | None = None
    int: Int64 | None = None
    string: str | None = None
    version: str | None = None


class CapacityRequestPolicyRange(Model):
    min: Quantity
    max: Quantity | None = None
    step: Quantity | None = None


class CapacityRequestPolicy(Model):
    default: Quantity | None = None
    validRange: CapacityRequestPolicyRange | None = None
    validValues: list[Quantity] | None = None


class DeviceCapacity(Model):
    value: Quantity
    requestPolicy: CapacityRequestPolicy | None = None


class Counter(Model):
    value: Quantity


class CounterSet(Model):
    counters: dict[str, Counter]
    name: str


class DeviceCounterConsumption(Model):
    counterSet: str
    counters: dict[str, Counter]


class DeviceTaint(Model):
    effect: str
    key: str
    timeAdded: Time | None = None
    value: str | None = None


class Device(Model):
    name: str
    allNodes: bool | None = None
    allowMultipleAllocations: bool | None = None
    attributes: dict[str, DeviceAttribute] | None = None
    bindingConditions: list[str] | None = None
    bindingFailureConditions: list[str] | None = None
    bindsToNode: bool | None = None
    capacity: dict[str, DeviceCapacity] | None = None
    consumesCounters: list[DeviceCounterConsumption] | None = None
    nodeName: str | None = None
    nodeSelector: NodeSelector | None = None
    taints: list[DeviceTaint] | None = None


class ResourceSliceSpec(Model):
    driver: str
    pool: ResourcePool
    allNodes: bool | None = None
    devices: list[Device] | None = None
    nodeName: str | None = None
    nodeSelector: NodeSelector | None = None
    perDeviceNodeSelection: bool | None = None
    sharedCounters: list[CounterSet] | None = None


class ResourceSlice(Model):
    spec: ResourceSliceSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
