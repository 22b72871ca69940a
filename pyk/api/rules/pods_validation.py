"""Checks of a pod's spec as a whole, for pods and for the pod templates of workloads.

Source: `ValidatePodSpec` and `ValidatePodTemplateSpec` of `pkg/apis/core/validation/validation.go`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from pyk.api import names
from pyk.api.objects import Object, annotations_of
from pyk.api.remembering import remembered
from pyk.api.rules.common import (
    MAX_INT32,
    check_annotations,
    check_choice,
    check_labels,
    check_name,
    check_optional_name,
    check_range,
    check_unique,
    some,
)
from pyk.api.rules.containers_validation import (
    check_containers,
    check_ephemeral_containers,
    check_pod_level_resources,
    check_resources,
)
from pyk.api.rules.scheduling_validation import check_scheduling
from pyk.api.rules.security_validation import check_pod_security_context
from pyk.api.rules.volumes_validation import check_volumes
from pyk.api.status import FieldError

Document = dict[str, Any]

MIRROR = "kubernetes.io/config.mirror"
"""The annotation of a pod that stands in the API for a static pod of a node."""
_DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
_RESTART_POLICIES = ("Always", "Never", "OnFailure")
_LONGEST_HOSTNAME = 64
"""What Linux takes as a host name (sethostname(2))."""
_MAX_NAMESERVERS, _MAX_SEARCHES, _MAX_SEARCH_CHARACTERS = 3, 32, 2048
_NAMES = (
    ("nodeName", names.dns_subdomain),
    ("hostname", names.dns_label),
    ("subdomain", names.dns_label),
    ("serviceAccountName", names.dns_subdomain),
    ("runtimeClassName", names.dns_subdomain),
    ("priorityClassName", names.dns_subdomain),
    ("schedulerName", names.qualified_name),
)


def check_pod(pod: Object) -> Iterator[FieldError]:
    """A new Pod."""
    spec = pod["spec"]
    yield from check_pod_spec(spec, "spec")
    if some(spec, "ephemeralContainers"):
        yield FieldError.forbidden("spec.ephemeralContainers", "cannot be set on create")
    if some(spec, "schedulingGates") and spec.get("nodeName"):
        yield FieldError.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared")
    mirrored = annotations_of(pod).get(MIRROR)
    if mirrored is not None and not spec.get("nodeName"):
        detail = "must set spec.nodeName if mirror pod annotation is set"
        yield FieldError.invalid(f"metadata.annotations[{MIRROR}]", mirrored, detail)


def check_template(template: Document, path: str) -> Iterator[FieldError]:
    """The pod template at `path` of a workload."""
    metadata, spec = template.get("metadata") or {}, template.get("spec")
    yield from check_labels(metadata.get("labels"), f"{path}.labels")
    yield from check_annotations(metadata.get("annotations"), f"{path}.annotations")
    if spec is None:
        yield FieldError.required(f"{path}.spec.containers")
        return
    yield from check_pod_spec(spec, f"{path}.spec")
    if some(spec, "ephemeralContainers"):
        yield FieldError.forbidden(
            f"{path}.spec.ephemeralContainers", "ephemeral containers not allowed in pod template"
        )


def check_lasting_template(template: Document, path: str, kind: str) -> Iterator[FieldError]:
    """The pod template at `path` of a workload of the kind, which keeps its pods running."""
    yield from check_template(template, path)
    spec = template.get("spec") or {}
    if spec.get("restartPolicy") != "Always" and spec.get("restartPolicy") in _RESTART_POLICIES:
        yield FieldError.not_supported(f"{path}.spec.restartPolicy", spec["restartPolicy"], ("Always",))
    if spec.get("activeDeadlineSeconds") is not None:
        detail = f"activeDeadlineSeconds in {kind} is not Supported"
        yield FieldError.forbidden(f"{path}.spec.activeDeadlineSeconds", detail)


@remembered
def check_pod_spec(spec: Document, path: str) -> Iterator[FieldError]:
    """A pod spec at `path`, as it is when its defaults are filled in."""
    yield from check_volumes(spec, path)
    yield from check_containers(spec, path)
    if some(spec, "ephemeralContainers"):
        yield from check_ephemeral_containers(spec, path)
    yield from check_choice(spec, path, "restartPolicy", _RESTART_POLICIES)
    yield from check_choice(spec, path, "dnsPolicy", _DNS_POLICIES)
    yield from _check_dns_config(spec, path)
    for field, check in _NAMES:
        if spec.get(field):
            yield from check_name(check, f"{path}.{field}", spec[field])
    yield from check_pod_security_context(spec, path)
    yield from check_scheduling(spec, path)
    yield from check_range(f"{path}.activeDeadlineSeconds", spec.get("activeDeadlineSeconds"), 1, MAX_INT32)
    if spec.get("resources"):
        yield from check_pod_level_resources(spec, path)
    if spec.get("overhead"):
        yield from check_resources({"limits": spec["overhead"]}, f"{path}.overhead")
    yield from _check_rest(spec, path)


def _check_rest(spec: Document, path: str) -> Iterator[FieldError]:
    """Fields that few pods have."""
    for index, secret in enumerate(some(spec, "imagePullSecrets")):
        if not secret.get("name"):
            yield FieldError.required(f"{path}.imagePullSecrets[{index}].name")
    for index, alias in enumerate(some(spec, "hostAliases")):
        where = f"{path}.hostAliases[{index}]"
        if not _is_ip(alias["ip"]):
            detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            yield FieldError.invalid(f"{where}.ip", alias["ip"], detail)
        for position, hostname in enumerate(alias.get("hostnames") or ()):
            yield from check_optional_name(names.dns_subdomain, f"{where}.hostnames[{position}]", hostname)
    for index, gate in enumerate(some(spec, "readinessGates")):
        where = f"{path}.readinessGates[{index}].conditionType"
        yield from check_name(names.qualified_name, where, gate["conditionType"])
    for index, gate in enumerate(some(spec, "schedulingGates")):
        yield from check_name(names.qualified_name, f"{path}.schedulingGates[{index}]", gate["name"])
    yield from check_unique(f"{path}.schedulingGates", some(spec, "schedulingGates"), "name")
    if (group := spec.get("schedulingGroup")) is not None:
        if group.get("podGroupName") is None:
            yield FieldError.invalid(f"{path}.schedulingGroup", "", "must specify one of: `podGroupName`")
        else:
            where = f"{path}.schedulingGroup.podGroupName"
            yield from check_name(names.dns_subdomain, where, group["podGroupName"])
    for index, claim in enumerate(some(spec, "resourceClaims")):
        where = f"{path}.resourceClaims[{index}]"
        yield from check_name(names.dns_label, f"{where}.name", claim["name"])
        if not claim.get("resourceClaimName") and not claim.get("resourceClaimTemplateName"):
            detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            yield FieldError.invalid(where, "", detail)
    if spec.get("os") is not None:
        yield from check_choice(spec["os"], f"{path}.os", "name", ("linux", "windows"), is_required=True)
    yield from check_choice(spec, path, "preemptionPolicy", ("Never", "PreemptLowerPriority"))
    yield from _check_hostname_override(spec, path)


def _check_hostname_override(spec: Document, path: str) -> Iterator[FieldError]:
    override = spec.get("hostnameOverride")
    if override is None:
        return
    where = f"{path}.hostnameOverride"
    yield from check_name(names.dns_subdomain, where, override)
    if len(override) > _LONGEST_HOSTNAME:
        yield FieldError.too_long(where, f"may not be more than {_LONGEST_HOSTNAME} bytes")
    if spec.get("setHostnameAsFQDN"):
        yield FieldError.forbidden(where, "may not be specified when `setHostnameAsFQDN` is true")
    if spec.get("hostNetwork"):
        yield FieldError.forbidden(where, "may not be specified when `hostNetwork` is true")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _check_dns_config(spec: Document, path: str) -> Iterator[FieldError]:
    config = spec.get("dnsConfig")
    where = f"{path}.dnsConfig"
    if spec.get("dnsPolicy") == "None":
        if config is None:
            yield FieldError.required(where, "must provide `dnsConfig` when `dnsPolicy` is None")
        elif not config.get("nameservers"):
            detail = "must provide at least one DNS nameserver when `dnsPolicy` is None"
            yield FieldError.required(f"{where}.nameservers", detail)
    if config is None:
        return
    nameservers, searches = config.get("nameservers") or [], config.get("searches") or []
    if len(nameservers) > _MAX_NAMESERVERS:
        detail = f"must not have more than {_MAX_NAMESERVERS} nameservers"
        yield FieldError.invalid(f"{where}.nameservers", nameservers, detail)
    for index, address in enumerate(nameservers):
        if not _is_ip(address):
            detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            yield FieldError.invalid(f"{where}.nameservers[{index}]", address, detail)
    if len(searches) > _MAX_SEARCHES:
        detail = f"must not have more than {_MAX_SEARCHES} search paths"
        yield FieldError.invalid(f"{where}.searches", searches, detail)
    if len(" ".join(searches)) > _MAX_SEARCH_CHARACTERS:
        detail = f"must not have more than {_MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list"
        yield FieldError.invalid(f"{where}.searches", searches, detail)
    for index, search in enumerate(searches):
        labels = search.removesuffix(".").split(".")  # which may hold underscores, other than a name of an object
        bare = ".".join(label.removeprefix("_").replace("_", "-") for label in labels)
        if search != "." and (problem := names.dns_subdomain(bare)) is not None:
            yield FieldError.invalid(f"{where}.searches[{index}]", search, problem)
    for index, option in enumerate(some(config, "options")):
        if not option.get("name"):
            yield FieldError.required(f"{where}.options[{index}]", "must not be empty")
