"""Short builders of the documents that these tests are about."""

from __future__ import annotations

from typing import Any

from pyk.api.objects import Object, owner_reference
from pyk.reconcile.clock import timestamp

NOW = 1_700_000_000.0


def metadata(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "default",
        "uid": f"uid-{name}",
        "resourceVersion": "1",
        "generation": 1,
        "creationTimestamp": timestamp(NOW - 1000),
        **more,
    }


def deployment(*, replicas: int = 3, image: str = "a", surge: Any = 1, unavailable: Any = 0, **spec: Any) -> Object:
    """A Deployment `web`, as the API server defaults it."""
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": image}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata("web"),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
            },
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
            **spec,
        },
    }


def replica_set(name: str, *, replicas: int = 3, available: int | None = None, image: str = "a", **more: Any) -> Object:
    """A ReplicaSet of the Deployment `web` whose status has caught up; `available` pods are (all, if not given)."""
    there = replicas if available is None else available
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": image}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": metadata(name, ownerReferences=[owner_reference(deployment())], **more),
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template},
        "status": {
            "replicas": replicas,
            "readyReplicas": there,
            "availableReplicas": there,
            "observedGeneration": 1,
        },
    }


def pod(name: str, *, ready: float | None = None, node: str = "n1", owner: Object | None = None, **more: Any) -> Object:
    """A running pod; `ready` is for how many seconds it has been so."""
    conditions = []
    if ready is not None:
        conditions.append({"type": "Ready", "status": "True", "lastTransitionTime": timestamp(NOW - ready)})
    references = [owner_reference(owner)] if owner is not None else []
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(name, labels={"app": "web"}, ownerReferences=references, **more),
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": "Running", "conditions": conditions},
    }


def node(name: str = "n1", *, ready: str | None = "True", taints: list[Any] | None = None, **spec: Any) -> Object:
    """A node that said so about itself."""
    conditions = [{"type": "Ready", "status": ready, "lastHeartbeatTime": timestamp(NOW)}] if ready else []
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {**metadata(name), "namespace": ""},
        "spec": {**({"taints": taints} if taints else {}), **spec},
        "status": {"conditions": conditions},
    }
