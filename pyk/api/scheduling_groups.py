"""Groups of pods that are scheduled together (scheduling.k8s.io/v1alpha2): PodGroup and Workload.

A Workload is the plan of an application: templates of groups. A PodGroup is one group as it is; its pods name it in
`spec.schedulingGroup.podGroupName`.
"""

from __future__ import annotations

from typing import Annotated

from pyk.api.base import Int32, MergeKey, Model
from pyk.api.meta import Condition, ObjectMeta


class BasicSchedulingPolicy(Model):
    pass


class GangSchedulingPolicy(Model):
    minCount: Int32


class PodGroupSchedulingPolicy(Model):
    basic: BasicSchedulingPolicy | None = None
    gang: GangSchedulingPolicy | None = None


class TopologyConstraint(Model):
    key: str


class PodGroupSchedulingConstraints(Model):
    topology: list[TopologyConstraint] | None = None


class PodGroupResourceClaim(Model):
    name: str
    resourceClaimName: str | None = None
    resourceClaimTemplateName: str | None = None


class PodGroupResourceClaimStatus(Model):
    name: str
    resourceClaimName: str | None = None


class WorkloadPodGroupTemplateReference(Model):
    podGroupTemplateName: str
    workloadName: str


class PodGroupTemplateReference(Model):
    workload: WorkloadPodGroupTemplateReference | None = None


class PodGroupSpec(Model):
    schedulingPolicy: PodGroupSchedulingPolicy
    disruptionMode: str | None = None
    podGroupTemplateRef: PodGroupTemplateReference | None = None
    priority: Int32 | None = None
    priorityClassName: str | None = None
    resourceClaims: Annotated[list[PodGroupResourceClaim], MergeKey("name", retain=True)] | None = None
    schedulingConstraints: PodGroupSchedulingConstraints | None = None


class PodGroupStatus(Model):
    conditions: Annotated[list[Condition], MergeKey("type")] | None = None
    resourceClaimStatuses: Annotated[list[PodGroupResourceClaimStatus], MergeKey("name", retain=True)] | None = None


class PodGroup(Model):
    spec: PodGroupSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    status: PodGroupStatus | None = None


class PodGroupTemplate(Model):
    name: str
    schedulingPolicy: PodGroupSchedulingPolicy
    disruptionMode: str | None = None
    priority: Int32 | None = None
    priorityClassName: str | None = None
    resourceClaims: Annotated[list[PodGroupResourceClaim], MergeKey("name", retain=True)] | None = None
    schedulingConstraints: PodGroupSchedulingConstraints | None = None


class TypedLocalObjectReference(Model):
    kind: str
    name: str
    apiGroup: str | None = None


class WorkloadSpec(Model):
    podGroupTemplates: Annotated[list[PodGroupTemplate], MergeKey("name")]
    controllerRef: TypedLocalObjectReference | None = None


class Workload(Model):
    spec: WorkloadSpec
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
