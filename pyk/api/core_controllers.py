"""ReplicationControllers (core/v1)."""

from __future__ import annotations

from typing import Annotated

from pyk.api.base import Int32, Int64, MergeKey, Model, Time
from pyk.api.core_pods import PodTemplateSpec
from pyk.api.meta import ObjectMeta


class ReplicationControllerSpec(Model):
    minReadySeconds: Int32 | None = None
    replicas: Int32 | None = None
    selector: dict[str, str] | None = None
    template: PodTemplateSpec | None = None


class ReplicationControllerCondition(Model):
    lastTransitionTime: Time | None = None
    message: str | None = None
    reason: str | None = None
    status: str
    type: str


class ReplicationControllerStatus(Model):
    replicas: Int32
    availableReplicas: Int32 | None = None
    conditions: Annotated[list[ReplicationControllerCondition], MergeKey("type")] | None = None
    fullyLabeledReplicas: Int32 | None = None
    observedGeneration: Int64 | None = None
    readyReplicas: Int32 | None = None


class ReplicationController(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: ReplicationControllerSpec | None = None
    status: ReplicationControllerStatus | None = None
