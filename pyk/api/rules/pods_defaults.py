"""What Kubernetes fills into pods and pod templates that their author left out.

Source: `pkg/apis/core/v1/defaults.go`. A template gets the defaults of the spec only; requests from limits, host ports
and service links are filled in when the pod is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyk.api.objects import Object
from pyk.api.rules.common import set_default, some
from pyk.api.rules.pods_resources import sum_of_requests

Document = dict[str, Any]

_MODE = 0o644
_CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")
_POD_LEVEL_RESOURCES = ("cpu", "memory")


def default_pod(pod: Object) -> None:
    """Fill in a Pod's defaults."""
    set_default(pod, "spec", {})
    spec = pod["spec"]
    default_pod_spec(spec)
    set_default(spec, "enableServiceLinks", True)
    for container in (*some(spec, "initContainers"), *some(spec, "containers")):
        _requests_from_limits(container["resources"])
        if spec.get("hostNetwork"):
            for port in some(container, "ports"):
                if not port.get("hostPort"):
                    port["hostPort"] = port["containerPort"]
    if spec.get("resources"):
        _pod_level_requests(spec)


def default_template(owner: Object) -> None:
    """Fill in the defaults of the pod template in `spec.template` of a workload."""
    spec = ((owner.get("spec") or {}).get("template") or {}).get("spec")
    if spec is not None:
        default_pod_spec(spec)


def default_pod_spec(spec: Document) -> None:
    """Fill in what a Pod and a pod template have in common."""
    set_default(spec, "dnsPolicy", "ClusterFirst")
    set_default(spec, "restartPolicy", "Always")
    set_default(spec, "securityContext", {})
    set_default(spec, "schedulerName", "default-scheduler")
    set_default(spec, "terminationGracePeriodSeconds", 30)
    if spec["terminationGracePeriodSeconds"] < 0:
        spec["terminationGracePeriodSeconds"] = 1  # as Kubernetes treats a negative one wherever it reads it
    # The old name of the field is kept in step with the new one.
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for field in _CONTAINER_LISTS:
        for container in some(spec, field):
            _default_container(container)
    for volume in some(spec, "volumes"):
        _default_volume(volume)


def image_tag(image: str) -> str:
    """The tag of an image reference; `latest` when it has neither tag nor digest, empty when it has a digest only."""
    name, _, digest = image.partition("@")
    _, colon, tag = name.rpartition("/")[2].partition(":")
    if colon:
        return tag
    return "" if digest else "latest"


def _pull_policy(image: str | None) -> str:
    return "Always" if image_tag(image or "") == "latest" else "IfNotPresent"


def _default_container(container: Document) -> None:
    set_default(container, "terminationMessagePath", "/dev/termination-log")
    set_default(container, "terminationMessagePolicy", "File")
    if not container.get("imagePullPolicy"):
        container["imagePullPolicy"] = _pull_policy(container.get("image"))
    set_default(container, "resources", {})
    for port in some(container, "ports"):
        set_default(port, "protocol", "TCP")
    for variable in some(container, "env"):
        source = variable.get("valueFrom")
        if source:
            _default_field_sources(source)
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(probe) is not None:
            _default_probe(container[probe])
    for handler in ("postStart", "preStop"):
        action = (container.get("lifecycle") or {}).get(handler)
        if action:
            _default_http_get(action.get("httpGet"))


def _default_field_sources(source: Document) -> None:
    if source.get("fieldRef"):
        set_default(source["fieldRef"], "apiVersion", "v1")
    if source.get("resourceFieldRef"):
        set_default(source["resourceFieldRef"], "divisor", "0")
    if source.get("fileKeyRef"):
        set_default(source["fileKeyRef"], "optional", False)


def _default_probe(probe: Document) -> None:
    for field, value in (
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ):
        if not probe.get(field):
            probe[field] = value
    _default_http_get(probe.get("httpGet"))
    if probe.get("grpc"):
        set_default(probe["grpc"], "service", "")


def _default_http_get(action: Document | None) -> None:
    if action is None:
        return
    if not action.get("path"):
        action["path"] = "/"
    if not action.get("scheme"):
        action["scheme"] = "HTTP"


def _requests_from_limits(resources: Document) -> None:
    limits = resources.get("limits")
    if limits:
        resources["requests"] = limits | (resources.get("requests") or {})


def _pod_level_requests(spec: Document) -> None:
    """A pod-level limit without a request: the sum of the containers' requests, or the limit when they have none."""
    resources = spec["resources"]
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name in _POD_LEVEL_RESOURCES:
        if name in limits and name not in requests:
            requests[name] = sum_of_requests(spec, name) or limits[name]
    if requests:
        resources["requests"] = requests


# What a volume's source gets: field -> value, for the sources that have defaults.
_VOLUME_DEFAULTS: dict[str, Document] = {
    "secret": {"defaultMode": _MODE},
    "configMap": {"defaultMode": _MODE},
    "downwardAPI": {"defaultMode": _MODE},
    "projected": {"defaultMode": _MODE},
    "hostPath": {"type": ""},
    "iscsi": {"iscsiInterface": "default"},
    "rbd": {"pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring"},
    "azureDisk": {"cachingMode": "ReadWrite", "kind": "Shared", "fsType": "ext4", "readOnly": False},
    "scaleIO": {"storageMode": "ThinProvisioned", "fsType": "xfs"},
}


def volume_sources(volume: Document) -> list[str]:
    """The fields of a volume that name a source."""
    return [field for field, value in volume.items() if field != "name" and value is not None]


def _default_volume(volume: Document) -> None:
    if not volume_sources(volume):
        volume["emptyDir"] = {}
    for field, defaults in _VOLUME_DEFAULTS.items():
        source = volume.get(field)
        if source is not None:
            for name, value in defaults.items():
                set_default(source, name, value)
    for item in _downward_items(volume):
        _default_field_sources(item)
    for projection in some(volume.get("projected"), "sources"):
        if projection.get("serviceAccountToken"):
            set_default(projection["serviceAccountToken"], "expirationSeconds", 3600)
    claim = ((volume.get("ephemeral") or {}).get("volumeClaimTemplate") or {}).get("spec")
    if claim:
        set_default(claim, "volumeMode", "Filesystem")
    image = volume.get("image")
    if image is not None and not image.get("pullPolicy"):
        image["pullPolicy"] = _pull_policy(image.get("reference"))


def _downward_items(volume: Document) -> Iterator[Document]:
    yield from some(volume.get("downwardAPI"), "items")
    for projection in some(volume.get("projected"), "sources"):
        yield from some(projection.get("downwardAPI"), "items")
