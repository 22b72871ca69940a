"""Checks of containers: names, images, ports, resources and mounts.

Source: `pkg/apis/core/validation/validation.go`. Environment and files, probes and handlers, and security contexts have
modules of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pyk.api import names
from pyk.api.quantity import parse_quantity
from pyk.api.rules.common import (
    AT_LEAST_ZERO,
    check_choice,
    check_name,
    check_range,
    check_required,
    check_unique,
    some,
)
from pyk.api.rules.environment_validation import check_environment
from pyk.api.rules.pods_resources import sum_of_requests
from pyk.api.rules.probes_validation import check_lifecycle, check_probe
from pyk.api.rules.security_validation import check_security_context
from pyk.api.rules.volumes_validation import check_local_path
from pyk.api.status import FieldError

Document = dict[str, Any]

PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_MESSAGE_POLICIES = ("File", "FallbackToLogsOnError")
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_PROPAGATIONS = ("None", "HostToContainer", "Bidirectional")
_RECURSIVE = ("Disabled", "IfPossible", "Enabled")
_STANDARD_RESOURCES = ("cpu", "memory", "ephemeral-storage")
_RESTART_POLICIES = ("Always", "Never", "OnFailure")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_NOT_EPHEMERAL = (
    "ports",
    "resources",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
)
_POD_LEVEL_RESOURCES = ("cpu", "memory")
_MOST_RESTART_RULES, _MOST_EXIT_CODES = 20, 255


def check_containers(spec: Document, path: str) -> Iterator[FieldError]:
    """All containers of a pod spec at `path`."""
    volumes = {volume["name"]: volume for volume in some(spec, "volumes")}
    containers, init_containers = some(spec, "containers"), some(spec, "initContainers")
    if not containers:
        yield FieldError.required(f"{path}.containers")
    for index, container in enumerate(containers):
        where = f"{path}.containers[{index}]"
        yield from _check_container(container, volumes, spec, where)
        yield from check_lifecycle(container.get("lifecycle"), spec, f"{where}.lifecycle")
        for probe in _PROBES:
            yield from check_probe(container.get(probe), probe, spec, f"{where}.{probe}")
        yield from _check_restart_policy(container, where)
    taken = {container["name"] for container in containers}
    for index, container in enumerate(init_containers):
        where = f"{path}.initContainers[{index}]"
        yield from _check_container(container, volumes, spec, where)
        yield from _check_init_container(container, spec, where)
        if container["name"] in taken:
            yield FieldError.duplicate(f"{where}.name", container["name"])
        taken.add(container["name"])
    yield from check_unique(f"{path}.containers", containers, "name")
    yield from _check_host_ports(containers, f"{path}.containers")


def check_ephemeral_containers(spec: Document, path: str) -> Iterator[FieldError]:
    """Debug containers, which have no ports, probes or handlers and need a name that no container has."""
    volumes = {volume["name"]: volume for volume in some(spec, "volumes")}
    taken = {container["name"] for container in (*some(spec, "containers"), *some(spec, "initContainers"))}
    for index, container in enumerate(some(spec, "ephemeralContainers")):
        where = f"{path}.ephemeralContainers[{index}]"
        yield from _check_container(container, volumes, spec, where)
        if container["name"] in taken:
            yield FieldError.duplicate(f"{where}.name", container["name"])
        target = container.get("targetContainerName")
        if target and target not in {each["name"] for each in some(spec, "containers")}:
            yield FieldError.not_found(f"{where}.targetContainerName", target)
        taken.add(container["name"])
        for field in _NOT_EPHEMERAL:
            if container.get(field):
                yield FieldError.forbidden(f"{where}.{field}", "cannot be set for an Ephemeral Container")
        for position, mount in enumerate(some(container, "volumeMounts")):
            for field in ("subPath", "subPathExpr"):
                if mount.get(field):
                    detail = "cannot be set for an Ephemeral Container"
                    yield FieldError.forbidden(f"{where}.volumeMounts[{position}].{field}", detail)


def _check_container(
    container: Document, volumes: Mapping[str, Document], spec: Document, path: str
) -> Iterator[FieldError]:
    yield from check_name(names.dns_label, f"{path}.name", container["name"])
    image = container.get("image") or ""
    if not image:
        yield FieldError.required(f"{path}.image")
    elif image != image.strip():
        yield FieldError.invalid(f"{path}.image", image, "must not have leading or trailing whitespace")
    yield from check_choice(container, path, "terminationMessagePolicy", _MESSAGE_POLICIES)
    yield from check_choice(container, path, "imagePullPolicy", PULL_POLICIES)
    if container.get("ports"):
        yield from _check_ports(container["ports"], bool(spec.get("hostNetwork")), f"{path}.ports")
    yield from check_environment(container, volumes, path)
    yield from _check_mounts(container, volumes, path)
    yield from check_resources(container.get("resources") or {}, f"{path}.resources")
    yield from _check_claims(container, spec, f"{path}.resources.claims")
    yield from check_resize_policy(container, spec, path)
    yield from check_security_context(container.get("securityContext"), spec, f"{path}.securityContext")


def _check_init_container(container: Document, spec: Document, path: str) -> Iterator[FieldError]:
    if container.get("restartPolicy") == "Always":
        yield from check_lifecycle(container.get("lifecycle"), spec, f"{path}.lifecycle")
        for probe in _PROBES:
            yield from check_probe(container.get(probe), probe, spec, f"{path}.{probe}")
    else:
        for field in ("lifecycle", *_PROBES):
            if container.get(field) is not None:
                detail = "may not be set for init containers without restartPolicy=Always"
                yield FieldError.forbidden(f"{path}.{field}", detail)
    yield from _check_restart_policy(container, path)


def _check_restart_policy(container: Document, path: str) -> Iterator[FieldError]:
    yield from check_choice(container, path, "restartPolicy", _RESTART_POLICIES)
    rules = some(container, "restartPolicyRules")
    if rules and not container.get("restartPolicy"):
        yield FieldError.required(f"{path}.restartPolicy", "must specify restartPolicy when restart rules are used")
    if len(rules) > _MOST_RESTART_RULES:
        yield FieldError.too_many(f"{path}.restartPolicyRules", len(rules), _MOST_RESTART_RULES)
    for index, rule in enumerate(rules):
        where = f"{path}.restartPolicyRules[{index}]"
        yield from check_choice(rule, where, "action", ("Restart", "RestartAllContainers"), is_required=True)
        if rule.get("exitCodes") is None:
            yield FieldError.required(f"{where}.exitCodes", "must be specified")
        else:
            yield from check_choice(
                rule["exitCodes"], f"{where}.exitCodes", "operator", ("In", "NotIn"), is_required=True
            )
            codes = rule["exitCodes"].get("values") or ()
            if len(codes) > _MOST_EXIT_CODES:
                yield FieldError.too_many(f"{where}.exitCodes.values", len(codes), _MOST_EXIT_CODES)


def _check_ports(ports: list[Document], host_network: bool, path: str) -> Iterator[FieldError]:
    seen = set()
    for index, port in enumerate(ports):
        where = f"{path}[{index}]"
        name = port.get("name") or ""
        if name and (problem := names.port_name(name)) is not None:
            yield FieldError.invalid(f"{where}.name", name, problem)
        elif name and name in seen:
            yield FieldError.duplicate(f"{where}.name", name)
        seen.add(name)
        if port["containerPort"] == 0:
            yield FieldError.required(f"{where}.containerPort")
        else:
            yield from check_range(f"{where}.containerPort", port["containerPort"], 1, 65535)
        host_port = port.get("hostPort") or 0
        if host_port:
            yield from check_range(f"{where}.hostPort", host_port, 1, 65535)
        # In a pod template the host port may be left out: it is filled in when the pod is made.
        if host_network and host_port not in (0, port["containerPort"]):
            detail = "must match `containerPort` when `hostNetwork` is true"
            yield FieldError.invalid(f"{where}.hostPort", host_port, detail)
        yield from check_choice(port, where, "protocol", _PROTOCOLS, is_required=True)


def _check_host_ports(containers: list[Document], path: str) -> Iterator[FieldError]:
    seen = set()
    for index, container in enumerate(containers):
        for position, port in enumerate(some(container, "ports")):
            if port.get("hostPort"):
                claim = f"{port.get('protocol')}/{port.get('hostIP') or ''}/{port['hostPort']}"
                if claim in seen:
                    yield FieldError.duplicate(f"{path}[{index}].ports[{position}].hostPort", claim)
                seen.add(claim)


def _check_mounts(container: Document, volumes: Mapping[str, Document], path: str) -> Iterator[FieldError]:
    seen = set()
    for index, mount in enumerate(some(container, "volumeMounts")):
        where = f"{path}.volumeMounts[{index}]"
        yield from check_required(mount, where, "name")
        if mount["name"] not in volumes:
            yield FieldError.not_found(f"{where}.name", mount["name"])
        yield from check_required(mount, where, "mountPath")
        if mount["mountPath"] in seen:
            yield FieldError.invalid(f"{where}.mountPath", mount["mountPath"], "must be unique")
        seen.add(mount["mountPath"])
        if mount.get("subPath"):
            yield from check_local_path(mount["subPath"], f"{where}.subPath")
        if mount.get("subPathExpr"):
            if mount.get("subPath"):
                detail = "subPathExpr and subPath are mutually exclusive"
                yield FieldError.invalid(f"{where}.subPathExpr", mount["subPathExpr"], detail)
            yield from check_local_path(mount["subPathExpr"], f"{where}.subPathExpr")
        yield from check_choice(mount, where, "mountPropagation", _PROPAGATIONS)
        if mount.get("mountPropagation") == "Bidirectional" and not (container.get("securityContext") or {}).get(
            "privileged"
        ):
            detail = "Bidirectional mount propagation is available only to privileged containers"
            yield FieldError.forbidden(f"{where}.mountPropagation", detail)
        yield from check_choice(mount, where, "recursiveReadOnly", _RECURSIVE)
        if mount.get("recursiveReadOnly") in ("IfPossible", "Enabled") and not mount.get("readOnly"):
            detail = "may only be specified when readOnly is true"
            yield FieldError.forbidden(f"{where}.recursiveReadOnly", detail)
    for index, device in enumerate(some(container, "volumeDevices")):
        where = f"{path}.volumeDevices[{index}]"
        volume = volumes.get(device["name"])
        if volume is None:
            yield FieldError.not_found(f"{where}.name", device["name"])
        elif not volume.get("persistentVolumeClaim") and not volume.get("ephemeral"):
            detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"
            yield FieldError.invalid(f"{where}.name", device["name"], detail)
        if device["devicePath"] in seen:
            yield FieldError.invalid(
                f"{where}.devicePath", device["devicePath"], "must not already exist as a path in volumeMounts"
            )


def check_resize_policy(container: Document, spec: Document, path: str) -> Iterator[FieldError]:
    """What a container says of changes of its resources while it runs."""
    for index, policy in enumerate(some(container, "resizePolicy")):
        where = f"{path}.resizePolicy[{index}]"
        yield from check_choice(policy, where, "resourceName", ("cpu", "memory"), is_required=True)
        yield from check_choice(policy, where, "restartPolicy", ("NotRequired", "RestartContainer"), is_required=True)
        if spec.get("restartPolicy") == "Never" and policy.get("restartPolicy") == "RestartContainer":
            detail = "must be 'NotRequired' when `restartPolicy` is 'Never'"
            yield FieldError.invalid(f"{path}.resizePolicy", policy["restartPolicy"], detail)
    yield from check_unique(f"{path}.resizePolicy", some(container, "resizePolicy"), "resourceName")


def check_pod_level_resources(spec: Document, path: str) -> Iterator[FieldError]:
    """What the pod as a whole requests and may use: at least what its containers request, no less than one may use."""
    resources = spec["resources"]
    for field in ("requests", "limits"):
        for name in resources.get(field) or {}:
            if name not in _POD_LEVEL_RESOURCES and not name.startswith("hugepages-"):
                yield FieldError.not_supported(f"{path}.resources.{field}[{name}]", name, _POD_LEVEL_RESOURCES)
    yield from check_resources(resources, f"{path}.resources")
    for name in _POD_LEVEL_RESOURCES:
        requested = (resources.get("requests") or {}).get(name)
        total = sum_of_requests(spec, name)
        if requested is not None and total and parse_quantity(requested) < parse_quantity(total):
            detail = f"must be greater than or equal to aggregate container requests of {total}"
            yield FieldError.invalid(f"{path}.resources.requests[{name}]", requested, detail)
        most = (resources.get("limits") or {}).get(name)
        for field in ("containers", "initContainers"):
            for index, container in enumerate(some(spec, field)):
                limit = ((container.get("resources") or {}).get("limits") or {}).get(name)
                if most is not None and limit is not None and parse_quantity(limit) > parse_quantity(most):
                    detail = f"must be less than or equal to pod limits of {most}"
                    where = f"{path}.{field}[{index}].resources.limits[{name}]"
                    yield FieldError.invalid(where, limit, detail)


def _check_claims(container: Document, spec: Document, path: str) -> Iterator[FieldError]:
    """The pod's claims of devices that a container has: each once, and among the pod's."""
    known = sorted(each["name"] for each in some(spec, "resourceClaims"))
    seen = set()
    for index, claim in enumerate(some(container.get("resources"), "claims")):
        name, where = claim["name"], f"{path}[{index}]"
        if not name:
            yield FieldError.required(where)
            continue
        if name in seen:
            yield FieldError.duplicate(where, name)
        seen.add(name)
        if name not in known:
            among = f": {', '.join(known)}" if known else " which is empty"
            yield FieldError.not_found(where, name, f"must be one of the names in pod.spec.resourceClaims{among}")


def _is_overcommitable(name: str) -> bool:
    return name in _STANDARD_RESOURCES


def check_resources(resources: Document, path: str) -> Iterator[FieldError]:
    """Requests and limits: known names, no negative amount, no request above its limit."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name, quantity in limits.items():
        yield from _check_quantity(name, quantity, f"{path}.limits")
    for name, quantity in requests.items():
        yield from _check_quantity(name, quantity, f"{path}.requests")
        limit = limits.get(name)
        if limit is not None:
            amount, bound = parse_quantity(quantity), parse_quantity(limit)
            if not _is_overcommitable(name) and amount != bound:
                detail = f"must be equal to {name} limit of {limit}"
                yield FieldError.invalid(f"{path}.requests", quantity, detail)
            elif amount > bound:
                detail = f"must be less than or equal to {name} limit of {limit}"
                yield FieldError.invalid(f"{path}.requests", quantity, detail)
        elif not _is_overcommitable(name):
            yield FieldError.required(f"{path}.limits", "Limit must be set for non overcommitable resources")


def _check_quantity(name: str, quantity: str, path: str) -> Iterator[FieldError]:
    if (problem := names.qualified_name(name)) is not None:
        yield FieldError.invalid(path, name, problem)
    elif "/" not in name and name not in _STANDARD_RESOURCES and not name.startswith("hugepages-"):
        yield FieldError.invalid(path, name, "must be a standard resource for containers")
    amount = parse_quantity(quantity)
    if amount < 0:
        yield FieldError.invalid(f"{path}[{name}]", quantity, AT_LEAST_ZERO)
    if "/" in name and amount.denominator != 1:
        yield FieldError.invalid(f"{path}[{name}]", quantity, "must be an integer")
