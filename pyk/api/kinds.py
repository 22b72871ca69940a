"""The ONE table of kinds: everything that the API server serves, and all that the client needs to know of it.

A kind is declared once, in the module of its API group in `pyk.api.groups`: its names, scope, subresources, and where
its model and its rules live. Discovery, routes, OpenAPI, tables, defaulting, validation, the client's paths and `pyk`'s
short names all follow from the declaration. Adding a kind is a row there, a model in the module of its group, and,
when it has defaults, checks or printer columns, a module of `Rules`. Importing this module builds no model.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyk.api.groups import (
    apps,
    autoscaling,
    batch,
    certificates,
    cluster,
    coordination,
    core,
    devices,
    metrics,
    policy,
    rbac,
    reviews,
)
from pyk.api.kind import Column, Kind, Rules, ScalePaths
from pyk.api.objects import Object

__all__ = ["Column", "Kind", "Rules", "ScalePaths"]

TABLE: tuple[Kind, ...] = (
    *core.KINDS,
    *apps.KINDS,
    *batch.KINDS,
    *coordination.KINDS,
    *cluster.KINDS,
    *devices.KINDS,
    *autoscaling.KINDS,
    *policy.KINDS,
    *rbac.KINDS,
    *reviews.KINDS,
    *metrics.KINDS,
    *certificates.KINDS,
)

BY_RESOURCE: Mapping[tuple[str, str, str], Kind] = {(kind.group, kind.version, kind.plural): kind for kind in TABLE}
BY_KIND: Mapping[tuple[str, str], Kind] = {(kind.api_version, kind.kind): kind for kind in TABLE}


def kind_named(word: str) -> Kind | None:
    """The kind that a person means by `pods`, `po`, `Pod`, `deploy` or `deployments.apps`; None when there is none."""
    name, _, group = word.lower().partition(".")
    for kind in TABLE:
        if group and group not in (kind.group, f"{kind.version}.{kind.group}"):
            continue
        if name in (kind.plural, kind.singular, *kind.short_names):
            return kind
    return None


def kind_of(obj: Object) -> Kind:
    """The declaration of the object's kind. Raises KeyError when it is not served."""
    return BY_KIND[obj["apiVersion"], obj["kind"]]


NAMESPACE = BY_KIND["v1", "Namespace"]
NODE = BY_KIND["v1", "Node"]
POD = BY_KIND["v1", "Pod"]
REPLICA_SET = BY_KIND["apps/v1", "ReplicaSet"]
DEPLOYMENT = BY_KIND["apps/v1", "Deployment"]
STATEFUL_SET = BY_KIND["apps/v1", "StatefulSet"]
DAEMON_SET = BY_KIND["apps/v1", "DaemonSet"]
CONTROLLER_REVISION = BY_KIND["apps/v1", "ControllerRevision"]
REPLICATION_CONTROLLER = BY_KIND["v1", "ReplicationController"]
JOB = BY_KIND["batch/v1", "Job"]
CRON_JOB = BY_KIND["batch/v1", "CronJob"]
CONFIG_MAP = BY_KIND["v1", "ConfigMap"]
SECRET = BY_KIND["v1", "Secret"]
SERVICE_ACCOUNT = BY_KIND["v1", "ServiceAccount"]
EVENT = BY_KIND["v1", "Event"]
LEASE = BY_KIND["coordination.k8s.io/v1", "Lease"]
ROLE = BY_KIND["rbac.authorization.k8s.io/v1", "Role"]
ROLE_BINDING = BY_KIND["rbac.authorization.k8s.io/v1", "RoleBinding"]
CLUSTER_ROLE = BY_KIND["rbac.authorization.k8s.io/v1", "ClusterRole"]
CLUSTER_ROLE_BINDING = BY_KIND["rbac.authorization.k8s.io/v1", "ClusterRoleBinding"]
RESOURCE_QUOTA = BY_KIND["v1", "ResourceQuota"]
LIMIT_RANGE = BY_KIND["v1", "LimitRange"]
PERSISTENT_VOLUME = BY_KIND["v1", "PersistentVolume"]
PERSISTENT_VOLUME_CLAIM = BY_KIND["v1", "PersistentVolumeClaim"]
PRIORITY_CLASS = BY_KIND["scheduling.k8s.io/v1", "PriorityClass"]
POD_GROUP = BY_KIND["scheduling.k8s.io/v1alpha2", "PodGroup"]
WORKLOAD = BY_KIND["scheduling.k8s.io/v1alpha2", "Workload"]
RUNTIME_CLASS = BY_KIND["node.k8s.io/v1", "RuntimeClass"]
STORAGE_CLASS = BY_KIND["storage.k8s.io/v1", "StorageClass"]
INGRESS_CLASS = BY_KIND["networking.k8s.io/v1", "IngressClass"]
INGRESS = BY_KIND["networking.k8s.io/v1", "Ingress"]
NETWORK_POLICY = BY_KIND["networking.k8s.io/v1", "NetworkPolicy"]
SERVICE_CIDR = BY_KIND["networking.k8s.io/v1", "ServiceCIDR"]
IP_ADDRESS = BY_KIND["networking.k8s.io/v1", "IPAddress"]
COMPONENT_STATUS = BY_KIND["v1", "ComponentStatus"]
SERVICE = BY_KIND["v1", "Service"]
ENDPOINTS = BY_KIND["v1", "Endpoints"]
ENDPOINT_SLICE = BY_KIND["discovery.k8s.io/v1", "EndpointSlice"]
POD_DISRUPTION_BUDGET = BY_KIND["policy/v1", "PodDisruptionBudget"]
NODE_METRICS = BY_KIND["metrics.k8s.io/v1beta1", "NodeMetrics"]
POD_METRICS = BY_KIND["metrics.k8s.io/v1beta1", "PodMetrics"]
HORIZONTAL_POD_AUTOSCALER = BY_KIND["autoscaling/v2", "HorizontalPodAutoscaler"]
CERTIFICATE_SIGNING_REQUEST = BY_KIND["certificates.k8s.io/v1", "CertificateSigningRequest"]
TOKEN_REVIEW = BY_KIND["authentication.k8s.io/v1", "TokenReview"]
SUBJECT_ACCESS_REVIEW = BY_KIND["authorization.k8s.io/v1", "SubjectAccessReview"]
