"""Where a request goes: the rules of all Ingresses as one table, made anew when one changes. Pure.

The rules are those of the Ingress API (`networking.k8s.io/v1`, concepts/services-networking/ingress):

- A host that is named exactly goes before a wildcard, which stands for one label, and that before a rule for every
host. - `Exact` is the whole path; `Prefix` goes by the elements between slashes, and `ImplementationSpecific` means the
same
  here. The longest path that matches wins, and `Exact` before `Prefix` where they are equally long.
- What no rule matches goes to the `defaultBackend` of an Ingress for that host, then to that of any Ingress.
- Of two Ingresses that say the same the older one has it.

Paths are compared as the backend will understand them: percent-encoding undone (but for an encoded slash) and `.`, `..`
and doubled slashes resolved, so no spelling of a path gets around a rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from pyk.api.duration import seconds_of
from pyk.api.objects import Object, annotations_of, name_of, namespace_of

CONTROLLER = "pyk.io/ingress"
"""`spec.controller` of the IngressClasses whose Ingresses are served here."""
CLASS_ANNOTATION = "kubernetes.io/ingress.class"
ANY_HOST = ""
SSL_REDIRECT = "ingress.pyk.io/ssl-redirect"
READ_TIMEOUT = "ingress.pyk.io/read-timeout-seconds"
DEFAULT_READ_SECONDS = 60.0
_LONGEST_READ_SECONDS = 86_400.0
_KEPT = "%2F"
_SLASH = re.compile("%2[fF]")


@dataclass(frozen=True, slots=True)
class Backend:
    """A port of a Service: its name, or its number as text."""

    namespace: str
    service: str
    port: str


@dataclass(frozen=True, slots=True)
class Route:
    """Where a rule leads. `backend` is None for one that cannot be served (a resource)."""

    ingress: str
    backend: Backend | None
    redirects_to_tls: bool = False
    read_seconds: float = DEFAULT_READ_SECONDS


@dataclass(slots=True)
class HostRules:
    """The rules of one host: whole paths, and prefixes by their elements."""

    exact: dict[str, Route] = field(default_factory=dict)
    prefixes: dict[tuple[str, ...], Route] = field(default_factory=dict)
    fallback: Route | None = None

    def match(self, path: str, elements: tuple[str, ...]) -> Route | None:
        """The rule with the longest path."""
        found = self.exact.get(path)
        if found is not None:
            return found
        for length in range(len(elements), -1, -1):
            found = self.prefixes.get(elements[:length])
            if found is not None:
                return found
        return None


class Table:
    """All rules. `hosts` are those of the rules; wildcards are kept as `*.example.com`."""

    def __init__(self, ingresses: Iterable[Object] = ()) -> None:
        self.hosts: dict[str, HostRules] = {}
        for ingress in sorted(ingresses, key=_age):
            self._add(ingress)

    def match(self, host: str, raw_path: str) -> Route | None:
        """The route of a request by its Host header and its path as it was sent; None when there is none."""
        path = resolved(raw_path)
        elements = elements_of(path)
        levels = [rules for name in _names_of(host) if (rules := self.hosts.get(name)) is not None]
        for rules in levels:
            found = rules.match(path, elements)
            if found is not None:
                return found
        return next((rules.fallback for rules in levels if rules.fallback is not None), None)

    def _add(self, ingress: Object) -> None:
        spec = ingress.get("spec") or {}
        default = spec.get("defaultBackend")
        fallback = self._route(ingress, default) if default is not None else None
        if fallback is not None:
            rules = self._rules(ANY_HOST)
            rules.fallback = rules.fallback or fallback
        for rule in spec.get("rules") or ():
            rules = self._rules((rule.get("host") or ANY_HOST).lower())
            if fallback is not None:
                rules.fallback = rules.fallback or fallback
            for each in (rule.get("http") or {}).get("paths") or ():
                path, route = resolved(each.get("path") or "/"), self._route(ingress, each["backend"])
                if each["pathType"] == "Exact":
                    rules.exact.setdefault(path, route)
                else:
                    rules.prefixes.setdefault(elements_of(path), route)

    def _rules(self, host: str) -> HostRules:
        return self.hosts.setdefault(host, HostRules())

    def _route(self, ingress: Object, backend: Mapping[str, Any]) -> Route:
        annotations = annotations_of(ingress)
        return Route(
            f"{namespace_of(ingress)}/{name_of(ingress)}",
            backend_of(ingress, backend),
            annotations.get(SSL_REDIRECT, "").lower() == "true",
            read_seconds(annotations.get(READ_TIMEOUT)),
        )


def backend_of(ingress: Object, backend: Mapping[str, Any]) -> Backend | None:
    """The Service's port that a backend names; None for a resource."""
    service = backend.get("service")
    if service is None:
        return None
    port = service.get("port") or {}
    return Backend(namespace_of(ingress), service["name"], str(port.get("name") or port.get("number") or ""))


def backends(ingress: Object) -> Iterator[Backend | None]:
    """Every backend that the Ingress names."""
    spec = ingress.get("spec") or {}
    if spec.get("defaultBackend") is not None:
        yield backend_of(ingress, spec["defaultBackend"])
    for rule in spec.get("rules") or ():
        for each in (rule.get("http") or {}).get("paths") or ():
            yield backend_of(ingress, each["backend"])


def own_classes(classes: Iterable[Object]) -> set[str]:
    """The names of the IngressClasses that are ours."""
    return {name_of(each) for each in classes if (each.get("spec") or {}).get("controller") == CONTROLLER}


def class_of(ingress: Object) -> str:
    """The name of the class that the Ingress asks for; empty when it asks for none."""
    name = (ingress.get("spec") or {}).get("ingressClassName")
    return name if name is not None else annotations_of(ingress).get(CLASS_ANNOTATION, "")


def read_seconds(text: str | None) -> float:
    """How long a backend may be silent; the default for what is no number of seconds."""
    try:
        seconds = float(text) if text is not None else DEFAULT_READ_SECONDS
    except ValueError:
        return DEFAULT_READ_SECONDS
    return seconds if 0 < seconds <= _LONGEST_READ_SECONDS else DEFAULT_READ_SECONDS


def hostname(header: str) -> str:
    """The name in a Host header: without the port and a dot at its end, in lower case."""
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.partition(":")[0].rstrip(".").lower()


def resolved(raw_path: str) -> str:
    """The path as a server understands it. An encoded slash stays encoded: it is part of an element."""
    if "%" not in raw_path and "//" not in raw_path and "/." not in raw_path:
        return raw_path
    kept: list[str] = []
    parts = [_KEPT.join(map(unquote, _SLASH.split(part))) for part in raw_path.split("/")]
    for part in parts:
        if part == "..":
            del kept[-1:]
        elif part not in ("", "."):
            kept.append(part)
    is_directory = bool(kept) and parts[-1] in ("", ".", "..")
    return "/" + "/".join(kept) + ("/" if is_directory else "")


def elements_of(path: str) -> tuple[str, ...]:
    """What stands between a path's slashes; a slash at its end means nothing."""
    return tuple(part for part in path.split("/") if part)


def _names_of(host: str) -> tuple[str, ...]:
    """The hosts of rules that a request's host matches, the most special first."""
    name = hostname(host)
    _, dot, parent = name.partition(".")
    return (name, f"*.{parent}", ANY_HOST) if dot else (name, ANY_HOST)


def _age(ingress: Object) -> tuple[float, str, str]:
    return seconds_of(ingress["metadata"]["creationTimestamp"]), namespace_of(ingress), name_of(ingress)
