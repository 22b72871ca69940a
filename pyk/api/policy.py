"""Budgets for voluntary disruptions, and the eviction that asks one (policy/v1)."""

from __future__ import annotations

from typing import Annotated

from pyk.api.base import Int32, Int64, IntOrString, MergeKey, Model, Time
from pyk.api.meta import Condition, DeleteOptions, LabelSelector, ObjectMeta


class PodDisruptionBudgetSpec(Model):
    maxUnavailable: IntOrString | None = None
    minAvailable: IntOrString | None = None
    selector: LabelSelector | None = None
    unhealthyPodEvictionPolicy: str | None = None


class PodDisruptionBudgetStatus(Model):
    currentHealthy: Int32
    desiredHealthy: Int32
    disruptionsAllowed: Int32
    expectedPods: Int32
    conditions: Annotated[list[Condition], MergeKey("type")] | None = None
    disruptedPods: dict[str, Time] | None = None
    observedGeneration: Int64 | None = None


class PodDisruptionBudget(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: PodDisruptionBudgetSpec | None = None
    status: PodDisruptionBudgetStatus | None = None


class Eviction(Model):
    apiVersion: str | None = None
    deleteOptions: DeleteOptions | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
