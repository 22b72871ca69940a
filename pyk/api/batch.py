"""Jobs and CronJobs (batch/v1)."""

from __future__ import annotations

from typing import Annotated

from pyk.api.base import Int32, Int64, MergeKey, MergeSet, Model, Time
from pyk.api.core_pods import ObjectReference, PodTemplateSpec
from pyk.api.meta import LabelSelector, ObjectMeta


class PodFailurePolicyOnExitCodesRequirement(Model):
    operator: str
    values: Annotated[list[Int32], MergeSet()]
    containerName: str | None = None


class PodFailurePolicyOnPodConditionsPattern(Model):
    type: str
    status: str | None = None


class PodFailurePolicyRule(Model):
    action: str
    onExitCodes: PodFailurePolicyOnExitCodesRequirement | None = None
    onPodConditions: list[PodFailurePolicyOnPodConditionsPattern] | None = None


class PodFailurePolicy(Model):
    rules: list[PodFailurePolicyRule]


class SuccessPolicyRule(Model):
    succeededCount: Int32 | None = None
    succeededIndexes: str | None = None


class SuccessPolicy(Model):
    rules: list[SuccessPolicyRule]


class JobSpec(Model):
    template: PodTemplateSpec
    activeDeadlineSeconds: Int64 | None = None
    backoffLimit: Int32 | None = None
    backoffLimitPerIndex: Int32 | None = None
    completionMode: str | None = None
    completions: Int32 | None = None
    managedBy: str | None = None
    manualSelector: bool | None = None
    maxFailedIndexes: Int32 | None = None
    parallelism: Int32 | None = None
    podFailurePolicy: PodFailurePolicy | None = None
    podReplacementPolicy: str | None = None
    selector: LabelSelector | None = None
    successPolicy: SuccessPolicy | None = None
    suspend: bool | None = None
    ttlSecondsAfterFinished: Int32 | None = None


class JobCondition(Model):
    status: str
    type: str
    lastProbeTime: Time | None = None
    lastTransitionTime: Time | None = None
    message: str | None = None
    reason: str | None = None


class UncountedTerminatedPods(Model):
    failed: Annotated[list[str], MergeSet()] | None = None
    succeeded: Annotated[list[str], MergeSet()] | None = None


class JobStatus(Model):
    active: Int32 | None = None
    completedIndexes: str | None = None
    completionTime: Time | None = None
    conditions: Annotated[list[JobCondition], MergeKey("type")] | None = None
    failed: Int32 | None = None
    failedIndexes: str | None = None
    ready: Int32 | None = None
    startTime: Time | None = None
    succeeded: Int32 | None = None
    terminating: Int32 | None = None
    uncountedTerminatedPods: UncountedTerminatedPods | None = None


class Job(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: JobSpec | None = None
    status: JobStatus | None = None


class JobTemplateSpec(Model):
    metadata: ObjectMeta | None = None
    spec: JobSpec | None = None


class CronJobSpec(Model):
    jobTemplate: JobTemplateSpec
    schedule: str
    concurrencyPolicy: str | None = None
    failedJobsHistoryLimit: Int32 | None = None
    startingDeadlineSeconds: Int64 | None = None
    successfulJobsHistoryLimit: Int32 | None = None
    suspend: bool | None = None
    timeZone: str | None = None


class CronJobStatus(Model):
    active: list[ObjectReference] | None = None
    lastScheduleTime: Time | None = None
    lastSuccessfulTime: Time | None = None


class CronJob(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: CronJobSpec | None = None
    status: CronJobStatus | None = None
