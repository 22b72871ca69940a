"""Metadata that every object carries, and the objects of the protocol itself (meta/v1)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from pyk.api.base import Int32, Int64, MergeKey, MergeSet, Model, Time


class ManagedFieldsEntry(Model):
    apiVersion: str | None = None
    fieldsType: str | None = None
    fieldsV1: dict[str, Any] | None = None
    manager: str | None = None
    operation: str | None = None
    subresource: str | None = None
    time: Time | None = None


class OwnerReference(Model):
    apiVersion: str
    kind: str
    name: str
    uid: str
    blockOwnerDeletion: bool | None = None
    controller: bool | None = None


class ObjectMeta(Model):
    annotations: dict[str, str] | None = None
    creationTimestamp: Time | None = None
    deletionGracePeriodSeconds: Int64 | None = None
    deletionTimestamp: Time | None = None
    finalizers: Annotated[list[str], MergeSet()] | None = None
    generateName: str | None = None
    generation: Int64 | None = None
    labels: dict[str, str] | None = None
    managedFields: list[ManagedFieldsEntry] | None = None
    name: str | None = None
    namespace: str | None = None
    ownerReferences: Annotated[list[OwnerReference], MergeKey("uid")] | None = None
    resourceVersion: str | None = None
    selfLink: str | None = None
    uid: str | None = None


class LabelSelectorRequirement(Model):
    key: str
    operator: str
    values: list[str] | None = None


class LabelSelector(Model):
    matchExpressions: list[LabelSelectorRequirement] | None = None
    matchLabels: dict[str, str] | None = None


class ShardInfo(Model):
    selector: str


class ListMeta(Model):
    continue_: str | None = Field(default=None, alias="continue")
    remainingItemCount: Int64 | None = None
    resourceVersion: str | None = None
    selfLink: str | None = None
    shardInfo: ShardInfo | None = None


class StatusCause(Model):
    field: str | None = None
    message: str | None = None
    reason: str | None = None


class StatusDetails(Model):
    causes: list[StatusCause] | None = None
    group: str | None = None
    kind: str | None = None
    name: str | None = None
    retryAfterSeconds: Int32 | None = None
    uid: str | None = None


class Status(Model):
    apiVersion: str | None = None
    code: Int32 | None = None
    details: StatusDetails | None = None
    kind: str | None = None
    message: str | None = None
    metadata: ListMeta | None = None
    reason: str | None = None
    status: str | None = None


class Preconditions(Model):
    resourceVersion: str | None = None
    uid: str | None = None


class DeleteOptions(Model):
    apiVersion: str | None = None
    dryRun: list[str] | None = None
    gracePeriodSeconds: Int64 | None = None
    ignoreStoreReadErrorWithClusterBreakingPotential: bool | None = None
    kind: str | None = None
    orphanDependents: bool | None = None
    preconditions: Preconditions | None = None
    propagationPolicy: str | None = None


class Condition(Model):
    lastTransitionTime: Time
    message: str
    reason: str
    status: str
    type: str
    observedGeneration: Int64 | None = None
