"""IngressClasses and Ingresses.

Source: `pkg/apis/networking/validation/validation.go`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api import names
from pyk.api.kind import Column, Rules
from pyk.api.objects import Object, annotations_of
from pyk.api.rules.common import (
    AGE,
    NAME,
    check_choice,
    check_name,
    check_optional_name,
    check_range,
    check_unchanged,
    set_default,
    some,
)
from pyk.api.status import FieldError

Document = dict[str, Any]

DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"
OLD_CLASS = "kubernetes.io/ingress.class"
_LONGEST_CONTROLLER = 250
_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_NOT_IN_PATH = ("//", "/./", "/../", "%2f", "%2F")
_NOT_AT_END = ("/..", "/.")
_DOMAIN_PATH = re.compile(r"[^/]+/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+\Z")


def _default_class(ingress_class: Object) -> None:
    parameters = (ingress_class.get("spec") or {}).get("parameters")
    if parameters is not None:
        set_default(parameters, "scope", "Cluster")


def _validate_class(ingress_class: Object, old: Object | None) -> Iterable[FieldError]:
    spec = ingress_class.get("spec") or {}
    controller = spec.get("controller") or ""
    if old is not None:
        yield from check_unchanged("spec.controller", controller, (old.get("spec") or {}).get("controller"))
    if len(controller) > _LONGEST_CONTROLLER:
        yield FieldError.too_long("spec.controller", f"may not be more than {_LONGEST_CONTROLLER} bytes")
    if not controller:
        yield FieldError.required("spec.controller", "must not be empty")
    elif _DOMAIN_PATH.match(controller) is None or names.dns_subdomain(controller.partition("/")[0]) is not None:
        detail = 'must be a domain-prefixed path (such as "acme.io/foo")'
        yield FieldError.invalid("spec.controller", controller, detail)
    parameters = spec.get("parameters")
    if parameters is not None:
        yield from _check_parameters(parameters, "spec.parameters")


def _check_parameters(parameters: Document, path: str) -> Iterator[FieldError]:
    yield from check_optional_name(names.dns_subdomain, f"{path}.apiGroup", parameters.get("apiGroup"))
    for field in ("kind", "name"):
        yield from check_name(names.path_segment, f"{path}.{field}", parameters[field])
    yield from check_choice(parameters, path, "scope", ("Cluster", "Namespace"))
    namespace = parameters.get("namespace")
    if parameters["scope"] == "Namespace" and not namespace:
        yield FieldError.required(f"{path}.namespace", "`parameters.scope` is set to 'Namespace'")
    elif parameters["scope"] == "Cluster" and namespace is not None:
        yield FieldError.forbidden(f"{path}.namespace", "`parameters.scope` is set to 'Cluster'")
    elif namespace:
        yield from check_name(names.dns_label, f"{path}.namespace", namespace)


def _parameters(ingress_class: Object, now: float) -> str:
    parameters = (ingress_class.get("spec") or {}).get("parameters")
    if not parameters:
        return "<none>"
    group = parameters.get("apiGroup")
    return f"{parameters['kind']}{'.' if group else ''}{group or ''}/{parameters['name']}"


INGRESS_CLASS = Rules(
    default=_default_class,
    validate=_validate_class,
    columns=(
        NAME,
        Column("Controller", lambda obj, now: (obj.get("spec") or {}).get("controller") or ""),
        Column("Parameters", _parameters),
        AGE,
    ),
)


def _validate(ingress: Object, old: Object | None) -> Iterable[FieldError]:
    spec = ingress.get("spec") or {}
    annotated = annotations_of(ingress).get(OLD_CLASS)
    if old is None and annotated is not None and spec.get("ingressClassName") is not None:
        detail = "can not be set when the class field is also set"
        yield FieldError.invalid("annotations.kubernetes.io/ingress.class", annotated, detail)
    rules = some(spec, "rules")
    if not rules and spec.get("defaultBackend") is None:
        detail = "either `defaultBackend` or `rules` must be specified"
        yield FieldError.invalid("spec", rules, detail)
    if spec.get("defaultBackend") is not None:
        yield from _check_backend(spec["defaultBackend"], "spec.defaultBackend")
    for index, rule in enumerate(rules):
        yield from _check_rule(rule, f"spec.rules[{index}]")
    for index, tls in enumerate(some(spec, "tls")):
        for position, host in enumerate(tls.get("hosts") or ()):
            yield from _check_host(host, f"spec.tls[{index}].hosts[{position}]")
        yield from check_optional_name(names.dns_subdomain, f"spec.tls[{index}].secretName", tls.get("secretName"))
    yield from check_optional_name(names.dns_subdomain, "spec.ingressClassName", spec.get("ingressClassName"))


def _check_host(host: str, path: str) -> Iterator[FieldError]:
    bare = host.removeprefix("*.")
    if (problem := names.dns_subdomain(bare)) is not None:
        yield FieldError.invalid(path, host, problem)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _check_rule(rule: Document, path: str) -> Iterator[FieldError]:
    host = rule.get("host") or ""
    if host:
        if _is_ip(host):
            yield FieldError.invalid(f"{path}.host", host, "must be a DNS name, not an IP address")
        else:
            yield from _check_host(host, f"{path}.host")
    if rule.get("http") is not None:
        paths = rule["http"]["paths"]
        if not paths:
            yield FieldError.required(f"{path}.http.paths")
        for index, each in enumerate(paths):
            yield from _check_path(each, f"{path}.http.paths[{index}]")


def _check_path(rule: Document, path: str) -> Iterator[FieldError]:
    yield from _check_backend(rule["backend"], f"{path}.backend")
    kind, value = rule["pathType"], rule.get("path") or ""
    yield from check_choice(rule, path, "pathType", _PATH_TYPES, is_required=True)
    if kind in ("Exact", "Prefix"):
        if not value.startswith("/"):
            yield FieldError.invalid(f"{path}.path", value, "must be an absolute path")
        for part in _NOT_IN_PATH:
            if part in value:
                yield FieldError.invalid(f"{path}.path", value, f"must not contain '{part}'")
        for part in _NOT_AT_END:
            if value.endswith(part):
                yield FieldError.invalid(f"{path}.path", value, f"cannot end with '{part}'")
    elif value and not value.startswith("/"):
        yield FieldError.invalid(f"{path}.path", value, "must be an absolute path")


def _check_backend(backend: Document, path: str) -> Iterator[FieldError]:
    service, resource = backend.get("service"), backend.get("resource")
    if service is not None and resource is not None:
        yield FieldError.invalid(path, "", "cannot set both resource and service backends")
    elif resource is not None:
        for field in ("kind", "name"):
            if not resource.get(field):
                yield FieldError.required(f"{path}.resource.{field}")
    elif service is None:
        yield FieldError.required(path, "resource or service backend is required")
    else:
        where = f"{path}.service"
        yield from check_name(names.dns_label_1035, f"{where}.name", service["name"])
        port = service.get("port") or {}
        name, number = port.get("name"), port.get("number")
        if name and number:
            yield FieldError.invalid(where, "", "cannot set both port name & port number")
        elif name:
            if (problem := names.port_name(name)) is not None:
                yield FieldError.invalid(f"{where}.port.name", name, problem)
        elif number:
            yield from check_range(f"{where}.port.number", number, 1, 65535)
        else:
            yield FieldError.required(where, "port name or number is required")


def _prepare(ingress: Object, old: Object | None) -> None:
    if old is None:
        ingress["status"] = {"loadBalancer": {}}


def _validate_status(ingress: Object, old: Object | None) -> Iterable[FieldError]:
    load_balancer = (ingress.get("status") or {}).get("loadBalancer")
    for index, each in enumerate(some(load_balancer, "ingress")):
        where = f"status.loadBalancer.ingress[{index}]"
        if each.get("ip") and not _is_ip(each["ip"]):
            yield FieldError.invalid(f"{where}.ip", each["ip"], "must be a valid IP address, (e.g. 10.9.8.7)")
        if each.get("hostname"):
            if _is_ip(each["hostname"]):
                detail = "must be a DNS name, not an IP address"
                yield FieldError.invalid(f"{where}.hostname", each["hostname"], detail)
            yield from check_name(names.dns_subdomain, f"{where}.hostname", each["hostname"])


def _class_name(ingress: Object, now: float) -> str:
    return (ingress.get("spec") or {}).get("ingressClassName") or annotations_of(ingress).get(OLD_CLASS) or "<none>"


_SHOWN_HOSTS = 3


def _hosts(ingress: Object, now: float) -> str:
    hosts = [rule["host"] for rule in some(ingress.get("spec"), "rules") if rule.get("host")]
    if not hosts:
        return "*"
    more = f" + {len(hosts) - _SHOWN_HOSTS} more..." if len(hosts) > _SHOWN_HOSTS else ""
    return ",".join(hosts[:_SHOWN_HOSTS]) + more


def _address(ingress: Object, now: float) -> str:
    points = some((ingress.get("status") or {}).get("loadBalancer"), "ingress")
    return ",".join(point.get("ip") or point.get("hostname") or "" for point in points)


INGRESS = Rules(
    prepare=_prepare,
    validate=_validate,
    validate_status=_validate_status,
    columns=(
        NAME,
        Column("Class", _class_name),
        Column("Hosts", _hosts),
        Column("Address", _address),
        Column("Ports", lambda ingress, now: "80, 443" if some(ingress.get("spec"), "tls") else "80"),
        AGE,
    ),
)
