"""HorizontalPodAutoscalers as they were first (autoscaling/v1): one target, for the share of requested cpu in use."""

from __future__ import annotations

from pyk.api.base import Model, Time
from pyk.api.meta import ObjectMeta


class CrossVersionObjectReference(Model):
    kind: str
    name: str
    apiVersion: str | None = None


class HorizontalPodAutoscalerSpec(Model):
    maxReplicas: int
    scaleTargetRef: CrossVersionObjectReference
    minReplicas: int | None = None
    targetCPUUtilizationPercentage: int | None = None


class HorizontalPodAutoscalerStatus(Model):
    currentReplicas: int
    desiredReplicas: int
    currentCPUUtilizationPercentage: int | None = None
    lastScaleTime: Time | None = None
    observedGeneration: int | None = None


class HorizontalPodAutoscaler(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: HorizontalPodAutoscalerSpec | None = None
    status: HorizontalPodAutoscalerStatus | None = None
