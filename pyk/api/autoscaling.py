"""HorizontalPodAutoscalers (autoscaling/v2)."""

from __future__ import annotations

from typing import Annotated

from pyk.api.base import Int32, Int64, MergeKey, Model, Quantity, Time
from pyk.api.meta import LabelSelector, ObjectMeta


class CrossVersionObjectReference(Model):
    kind: str
    name: str
    apiVersion: str | None = None


class MetricIdentifier(Model):
    name: str
    selector: LabelSelector | None = None


class MetricTarget(Model):
    type: str
    averageUtilization: Int32 | None = None
    averageValue: Quantity | None = None
    value: Quantity | None = None


class MetricValueStatus(Model):
    averageUtilization: Int32 | None = None
    averageValue: Quantity | None = None
    value: Quantity | None = None


class ContainerResourceMetricSource(Model):
    container: str
    name: str
    target: MetricTarget


class ExternalMetricSource(Model):
    metric: MetricIdentifier
    target: MetricTarget


class ObjectMetricSource(Model):
    describedObject: CrossVersionObjectReference
    metric: MetricIdentifier
    target: MetricTarget


class PodsMetricSource(Model):
    metric: MetricIdentifier
    target: MetricTarget


class ResourceMetricSource(Model):
    name: str
    target: MetricTarget


class MetricSpec(Model):
    type: str
    containerResource: ContainerResourceMetricSource | None = None
    external: ExternalMetricSource | None = None
    object: ObjectMetricSource | None = None
    pods: PodsMetricSource | None = None
    resource: ResourceMetricSource | None = None


class ContainerResourceMetricStatus(Model):
    container: str
    current: MetricValueStatus
    name: str


class ExternalMetricStatus(Model):
    current: MetricValueStatus
    metric: MetricIdentifier


class ObjectMetricStatus(Model):
    current: MetricValueStatus
    describedObject: CrossVersionObjectReference
    metric: MetricIdentifier


class PodsMetricStatus(Model):
    current: MetricValueStatus
    metric: MetricIdentifier


class ResourceMetricStatus(Model):
    current: MetricValueStatus
    name: str


class MetricStatus(Model):
    type: str
    containerResource: ContainerResourceMetricStatus | None = None
    external: ExternalMetricStatus | None = None
    object: ObjectMetricStatus | None = None
    pods: PodsMetricStatus | None = None
    resource: ResourceMetricStatus | None = None


class HPAScalingPolicy(Model):
    periodSeconds: Int32
    type: str
    value: Int32


class HPAScalingRules(Model):
    policies: list[HPAScalingPolicy] | None = None
    selectPolicy: str | None = None
    stabilizationWindowSeconds: Int32 | None = None
    tolerance: Quantity | None = None


class HorizontalPodAutoscalerBehavior(Model):
    scaleDown: HPAScalingRules | None = None
    scaleUp: HPAScalingRules | None = None


class HorizontalPodAutoscalerSpec(Model):
    maxReplicas: Int32
    scaleTargetRef: CrossVersionObjectReference
    behavior: HorizontalPodAutoscalerBehavior | None = None
    metrics: list[MetricSpec] | None = None
    minReplicas: Int32 | None = None


class HorizontalPodAutoscalerCondition(Model):
    status: str
    type: str
    lastTransitionTime: Time | None = None
    message: str | None = None
    observedGeneration: Int64 | None = None
    reason: str | None = None


class HorizontalPodAutoscalerStatus(Model):
    desiredReplicas: Int32
    conditions: Annotated[list[HorizontalPodAutoscalerCondition], MergeKey("type")] | None = None
    currentMetrics: list[MetricStatus] | None = None
    currentReplicas: Int32 | None = None
    lastScaleTime: Time | None = None
    observedGeneration: Int64 | None = None


class HorizontalPodAutoscaler(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: HorizontalPodAutoscalerSpec | None = None
    status: HorizontalPodAutoscalerStatus | None = None
