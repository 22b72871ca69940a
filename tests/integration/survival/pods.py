"""Pods that have everything: each kind of container, hook, volume and port that takes a step of its own to make; the
same in a user namespace; and as much of it as a pod from a file may have.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from pyk.api.objects import Object

IMAGE = "pyk.local/busybox:latest"
BEGUN = ("first", "second", "helper", "main", "other")
"""The containers in the order in which they begin; `main` also says `hook`."""
DEBUG = "debug"
"""The ephemeral container."""
CPU = "700m"
"""What the main container's limit is changed to."""
_LABELS = {"app": "everything"}

_SAYS = "echo {name} >> /said/begun; "
_STAYS = "trap 'exit 0' TERM; while :; do sleep 0.02 & wait $!; done"


def needed() -> list[Object]:
    """What the pod refers to."""
    secret = {"password": base64.b64encode(b"s").decode()}
    policy = {
        "podSelector": {"matchLabels": _LABELS},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": _LABELS}}], "ports": [{"port": 80}]}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}],
    }
    return [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "own"},
            "spec": policy,
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "1"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "secrets"}, "data": secret},
    ]


def claimed(folder: Path) -> list[Object]:
    """A claim that is bound to a folder."""
    size = {"storage": "1Mi"}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "disk"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": size,
                "hostPath": {"path": str(folder)},
                "claimRef": {"namespace": "default", "name": "claim"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "claim"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": size},
                "volumeName": "disk",
                "storageClassName": "",
            },
        },
    ]


def everything(name: str, said: Path, **spec: Any) -> Object:
    """The pod; each of its containers adds a line to `said/begun` when it begins, main one to `said/ended` when told to
    stop."""
    volumes = [
        {"name": "said", "hostPath": {"path": str(said)}},
        {"name": "disk", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "secrets", "secret": {"secretName": "secrets"}},
        {"name": "image", "image": {"reference": IMAGE, "pullPolicy": "IfNotPresent"}},
        {"name": "claim", "persistentVolumeClaim": {"claimName": "claim"}},
        {
            "name": "token",
            "projected": {
                "sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                    {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                ]
            },
        },
    ]
    hooks = {
        "postStart": {"exec": {"command": ["/bin/sh", "-c", "echo hook >> /said/begun"]}},
        "preStop": {"exec": {"command": ["/bin/sh", "-c", "echo main >> /said/ended"]}},
    }
    mounts = [{"name": volume["name"], "mountPath": f"/{volume['name']}"} for volume in volumes]
    main = {
        "lifecycle": hooks,
        "ports": [{"containerPort": 80, "hostPort": 8080}],
        "resources": {"limits": {"memory": "32Mi", "cpu": "500m"}},
        "volumeMounts": [*mounts, {"name": "disk", "mountPath": "/part", "subPath": "a/part"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": _LABELS},
        "spec": {
            "nodeName": "n1",
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": False,
            "volumes": volumes,
            "initContainers": [
                _container("first"),
                _container("second", volumeMounts=[{"name": "disk", "mountPath": "/disk"}]),
                _container("helper", _STAYS, restartPolicy="Always"),
            ],
            "containers": [_container("main", _STAYS, **main), _container("other", _STAYS)],
            **spec,
        },
    }


def in_user_namespace(name: str, said: Path) -> Object:
    """The same in a user namespace."""
    pod = everything(name, said)
    return {**pod, "spec": {**pod["spec"], "hostUsers": False}}


def from_file(name: str, said: Path) -> Object:
    """The same as a static pod, which may refer to nothing in the API."""
    pod = _without(everything(name, said), {"configMap", "secret", "projected", "persistentVolumeClaim"})
    del pod["spec"]["nodeName"]
    return pod


def _without(pod: Object, sorts: set[str]) -> Object:
    """The pod without these sorts of volumes."""
    spec = pod["spec"]
    spec["volumes"] = [volume for volume in spec["volumes"] if not volume.keys() & sorts]
    names = {volume["name"] for volume in spec["volumes"]}
    for container in (*spec["initContainers"], *spec["containers"]):
        container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] in names]
    return pod


def debugging() -> Object:
    """The patch that adds an ephemeral container."""
    return {"spec": {"ephemeralContainers": [_container(DEBUG, _STAYS)]}}


def resizing() -> Object:
    """The patch that changes the main container's limit while it runs."""
    return {"spec": {"containers": [{"name": "main", "resources": {"limits": {"cpu": CPU}}}]}}


def _container(name: str, then: str = ":", **more: Any) -> Object:
    mounts = more.pop("volumeMounts", [])
    if all(mount["name"] != "said" for mount in mounts):
        mounts = [{"name": "said", "mountPath": "/said"}, *mounts]
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", _SAYS.format(name=name) + then],
        "volumeMounts": mounts,
        **more,
    }
