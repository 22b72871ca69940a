"""Workloads (apps)."""

from __future__ import annotations

from pyk.api.kind import Kind, ScalePaths

KINDS = (
    Kind(
        "apps",
        "v1",
        "ReplicaSet",
        "replicasets",
        "apps:ReplicaSet",
        short_names=("rs",),
        categories=("all",),
        rules_path="rules.replicasets:RULES",
        has_status=True,
        has_generation=True,
        scale=ScalePaths(),
    ),
    Kind(
        "apps",
        "v1",
        "Deployment",
        "deployments",
        "apps:Deployment",
        short_names=("deploy",),
        categories=("all",),
        rules_path="rules.deployments:RULES",
        has_status=True,
        has_generation=True,
        scale=ScalePaths(),
    ),
    Kind(
        "apps",
        "v1",
        "StatefulSet",
        "statefulsets",
        "apps:StatefulSet",
        short_names=("sts",),
        categories=("all",),
        rules_path="rules.statefulsets:RULES",
        has_status=True,
        has_generation=True,
        scale=ScalePaths(),
    ),
    Kind(
        "apps",
        "v1",
        "DaemonSet",
        "daemonsets",
        "apps:DaemonSet",
        short_names=("ds",),
        categories=("all",),
        rules_path="rules.daemonsets:RULES",
        has_status=True,
        has_generation=True,
    ),
    Kind(
        "apps",
        "v1",
        "ControllerRevision",
        "controllerrevisions",
        "apps:ControllerRevision",
        rules_path="rules.templates:CONTROLLER_REVISION",
    ),
)
