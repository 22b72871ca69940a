"""Which requests the audit log tells of, and how much of each: an audit.k8s.io/v1 Policy, read from a file.

The first rule that matches a request gives its level; a request that no rule matches is not logged. Source: the
Kubernetes documentation on auditing; apiserver `pkg/audit/policy` (checker.go) and `pkg/apis/audit/validation`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import yaml

from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.request import RequestInfo
from pyk.errors import UserError

API_VERSION = "audit.k8s.io/v1"
STAGES = ("RequestReceived", "ResponseStarted", "ResponseComplete", "Panic")
_RULE_FIELDS = (
    "level",
    "users",
    "userGroups",
    "verbs",
    "resources",
    "namespaces",
    "nonResourceURLs",
    "omitStages",
    "omitManagedFields",
)


class BadPolicy(UserError):
    """The policy file cannot be used; the text says where and why."""


class Level(IntEnum):
    """How much of a request is logged; each level has what the lower ones have."""

    NONE = 0
    METADATA = 1
    REQUEST = 2
    REQUEST_RESPONSE = 3

    @property
    def word(self) -> str:
        return _WORDS[self]


_WORDS = {
    Level.NONE: "None",
    Level.METADATA: "Metadata",
    Level.REQUEST: "Request",
    Level.REQUEST_RESPONSE: "RequestResponse",
}
_LEVELS = {word: level for level, word in _WORDS.items()}


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources of one API group; no names means all."""

    group: str = ""
    resources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def match(self, info: RequestInfo) -> bool:
        if self.group != info.group:
            return False
        if not self.resources:
            return True
        if self.names and info.name not in self.names:
            return False
        whole = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
        choices = {whole, "*", f"{info.resource}/*"}
        if info.subresource:
            choices.add(f"*/{info.subresource}")
        return not choices.isdisjoint(self.resources)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is logged of one request."""

    level: Level
    omit_stages: frozenset[str] = frozenset()
    omit_managed_fields: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """Conditions, all of which must hold, and the verdict then. An empty condition holds."""

    verdict: Verdict
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    resources: tuple[Resources, ...] = ()
    paths: tuple[str, ...] = ()

    def match(self, user: UserInfo, info: RequestInfo) -> bool:
        if self.users and user.name not in self.users:
            return False
        if self.groups and not any(group in self.groups for group in user.groups):
            return False
        if self.verbs and info.verb not in self.verbs:
            return False
        if self.namespaces or self.resources:
            if not info.is_resource or (self.namespaces and info.namespace not in self.namespaces):
                return False
            return not self.resources or any(each.match(info) for each in self.resources)
        if self.paths:
            return not info.is_resource and any(_path_matches(info.path, each) for each in self.paths)
        return True


def _path_matches(path: str, pattern: str) -> bool:
    return path == pattern or (pattern.endswith("*") and path.startswith(pattern.rstrip("*")))


_UNLOGGED = Verdict(Level.NONE)


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules in their order."""

    rules: tuple[Rule, ...] = field(default_factory=tuple)

    def verdict(self, user: UserInfo, info: RequestInfo) -> Verdict:
        """What is logged of a request."""
        for rule in self.rules:
            if rule.match(user, info):
                return rule.verdict
        return _UNLOGGED


def read_policy(path: Path) -> Policy:
    """The policy in a YAML file. Raises OSError and `BadPolicy`."""
    try:
        document = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadPolicy(f"the audit policy {path} is no YAML: {error}") from None
    try:
        return policy_of(document)
    except BadPolicy as error:
        raise BadPolicy(f"the audit policy {path}: {error}") from None


def policy_of(document: Any) -> Policy:
    """The policy in a document. Raises `BadPolicy`."""
    if not isinstance(document, dict) or document.get("kind") != "Policy" or document.get("apiVersion") != API_VERSION:
        raise BadPolicy(f"it is no Policy of {API_VERSION}")
    rules = document.get("rules")
    if not isinstance(rules, list) or not rules:
        raise BadPolicy("it has no rules")
    stages = _stages(document, "omitStages")
    omit_managed = document.get("omitManagedFields") is True
    return Policy(tuple(_rule(rule, f"rules[{index}]", stages, omit_managed) for index, rule in enumerate(rules)))


def _rule(rule: Any, path: str, stages: Collection[str], omit_managed: bool) -> Rule:
    if not isinstance(rule, dict):
        raise BadPolicy(f"{path} is no rule")
    for key in rule:
        if key not in _RULE_FIELDS:
            raise BadPolicy(f'{path}: unknown field "{key}"')
    level = rule.get("level")
    if level not in _LEVELS:
        raise BadPolicy(f'{path}.level: Unsupported value: "{level}": supported values: {_listed(_LEVELS)}')
    resources = tuple(_resources(rule, path))
    urls, namespaces = _texts(rule, "nonResourceURLs", path), _texts(rule, "namespaces", path)
    if urls and (resources or namespaces):
        raise BadPolicy(f"{path}.nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs")
    for url in urls:
        where = f'{path}.nonResourceURLs: "{url}": non-resource URL'
        if not url.startswith("/") and url != "*":
            raise BadPolicy(f"{where} rules must begin with a '/' character")
        if "*" in url[:-1]:
            raise BadPolicy(f"{where} wildcards '*' must be the final character of the rule")
    own = rule.get("omitManagedFields")
    return Rule(
        Verdict(
            _LEVELS[level],
            frozenset({*stages, *_stages(rule, f"{path}.omitStages")}),
            omit_managed if own is None else bool(own),
        ),
        _texts(rule, "users", path),
        _texts(rule, "userGroups", path),
        _texts(rule, "verbs", path),
        namespaces,
        resources,
        urls,
    )


def _resources(rule: dict[str, Any], path: str) -> Iterator[Resources]:
    for index, each in enumerate(rule.get("resources") or ()):
        where = f"{path}.resources[{index}]"
        if not isinstance(each, dict):
            raise BadPolicy(f"{where} names no group and resources")
        resources, names = _texts(each, "resources", where), _texts(each, "resourceNames", where)
        if names and not resources:
            raise BadPolicy(f"{where}.resourceNames: using resourceNames requires at least one resource")
        yield Resources(str(each.get("group") or ""), resources, names)


def _texts(document: dict[str, Any], name: str, path: str) -> tuple[str, ...]:
    values = document.get(name) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BadPolicy(f"{path}.{name} is no list of texts")
    return tuple(values)


def _stages(document: dict[str, Any], path: str) -> frozenset[str]:
    stages = document.get("omitStages") or []
    for stage in stages:
        if stage not in STAGES:
            raise BadPolicy(f'{path}: Unsupported value: "{stage}": allowed stages are {",".join(STAGES)}')
    return frozenset(stages)


def _listed(choices: Collection[str]) -> str:
    return ", ".join(f'"{choice}"' for choice in sorted(choices))
