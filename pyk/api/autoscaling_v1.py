"""HorizontalPodAutoscalers as they were first (autoscaling/v1): one target, for the share of requested cpu in use."""

from __future__ import annotations

from pyk.api.base import Int32, Int64, Model, Time
from pyk.api.meta import ObjectMeta


class CrossVersionObjectReference(Model):
    kind: str
    name: str
    apiVersion: str | None = None


class HorizontalPodAutoscalerSpec(Model):
    maxReplicas: Int32
    scaleTargetRef: CrossVersionObjectReference
    minReplicas: Int32 | None = None
    targetCPUUtilizationPercentage: Int32 | None = None


class HorizontalPodAutoscalerStatus(Model):
    currentReplicas: Int32
    desiredReplicas: Int32
    currentCPUUtilizationPercentage: Int32 | None = None
    lastScaleTime: Time | None = None
    observedGeneration: Int64 | None = None


class HorizontalPodAutoscaler(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: HorizontalPodAutoscalerSpec | None = None
    status: HorizontalPodAutoscalerStatus | None = None
