"""The environment of a container, and `$(VAR)` in what it runs. Pure: objects come through a lookup function.

Source: the Kubernetes API of Container.env, and `third_party/forked/golang/expansion` for the syntax: `$(NAME)` is
replaced where NAME is known and left as it is where not; `$$` is a literal dollar sign.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from agent.pods.downward import Facts, UnknownField, field_value, resource_value
from agent.pods.envfile import BadFile, ReadFile, variable_in
from agent.volumes.projection import content_of
from pyk.api.kinds import CONFIG_MAP, SECRET, Kind
from pyk.api.objects import Object, namespace_of

Lookup = Callable[[Kind, str], Object | None]
"""An object of the pod's namespace, None when there is none."""

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
_NAME = re.compile(r"[ -<>-~]+\Z")  # printable ASCII without =


class ConfigError(Exception):
    """The container cannot be configured (`CreateContainerConfigError`); the text is for people."""


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`text` with its `$(NAME)` references to known variables replaced."""

    def replacement(match: re.Match[str]) -> str:
        if match.group(0) == "$$":
            return "$"
        return variables.get(match.group(1), match.group(0))

    return _REFERENCE.sub(replacement, text)


def missing(text: str, variables: Mapping[str, str]) -> list[str]:
    """The names that `text` refers to and that are unknown or empty, in order."""
    return sorted({name for name in _REFERENCE.findall(text) if name and not variables.get(name)})


def container_environment(
    pod: Object,
    container: Mapping[str, Any],
    lookup: Lookup,
    facts: Facts,
    read_file: ReadFile = lambda *_: None,
    links: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[str, str], list[str]]:
    """The variables of `envFrom` and `env` in order, and the keys of `envFrom` that cannot be names of variables.

    Before them are `links`, the variables of services, which the container's own hide.
    `read_file` reads the files in the pod's volumes that `fileKeyRef` names.
    Raises `ConfigError` when something that is referred to is not there and not optional.
    """
    variables: dict[str, str] = dict(links)
    skipped: list[str] = []
    for source in container.get("envFrom") or ():
        for kind, reference in ((CONFIG_MAP, source.get("configMapRef")), (SECRET, source.get("secretRef"))):
            if reference is None:
                continue
            content = _content(pod, kind, reference, lookup)
            for key, value in sorted((content or {}).items()):
                name = (source.get("prefix") or "") + key
                if _NAME.match(name):
                    variables[name] = value.decode("utf-8", "surrogateescape")
                else:
                    skipped.append(key)
    for variable in container.get("env") or ():
        origin = variable.get("valueFrom")
        if origin is None:
            variables[variable["name"]] = expand(variable.get("value") or "", variables)
            continue
        value_found = (
            _value_in_file(origin["fileKeyRef"], read_file)
            if origin.get("fileKeyRef") is not None
            else _value(pod, container, origin, lookup, facts)
        )
        if value_found is not None:
            variables[variable["name"]] = value_found
    return variables, skipped


def _value(
    pod: Object, container: Mapping[str, Any], origin: Mapping[str, Any], lookup: Lookup, facts: Facts
) -> str | None:
    try:
        if (field := origin.get("fieldRef")) is not None:
            return field_value(pod, field["fieldPath"], facts)
        if (resource := origin.get("resourceFieldRef")) is not None:
            return resource_value(pod, container["name"], resource, facts)
    except UnknownField as error:
        raise ConfigError(str(error)) from error
    for kind, reference in ((CONFIG_MAP, origin.get("configMapKeyRef")), (SECRET, origin.get("secretKeyRef"))):
        if reference is None:
            continue
        content = _content(pod, kind, reference, lookup)
        if content is None:
            return None
        if reference["key"] in content:
            return content[reference["key"]].decode("utf-8", "surrogateescape")
        if reference.get("optional"):
            return None
        what = "ConfigMap" if kind is CONFIG_MAP else "Secret"
        raise ConfigError(f"couldn't find key {reference['key']} in {what} {namespace_of(pod)}/{reference['name']}")
    raise ConfigError(f"a variable's valueFrom of {'/'.join(origin)} is not served by this node")


def _value_in_file(reference: Mapping[str, Any], read_file: ReadFile) -> str | None:
    path, volume, key = reference["path"], reference["volumeName"], reference["key"]
    text = read_file(volume, path)
    try:
        value = None if text is None else variable_in(text, key)
    except BadFile as error:
        raise ConfigError(f'couldn\'t parse env file "{path}" of volume "{volume}": {error}') from error
    if value is not None or reference.get("optional"):
        return value
    if text is None:
        raise ConfigError(f'env file "{path}" of volume "{volume}" not found')
    raise ConfigError(f'environment variable key "{key}" not found in file "{path}" of volume "{volume}"')


def _content(pod: Object, kind: Kind, reference: Mapping[str, Any], lookup: Lookup) -> dict[str, bytes] | None:
    """The object's data; None when it is not there but optional."""
    name = reference.get("name") or ""
    found = lookup(kind, name)
    if found is not None:
        return content_of(kind, found)
    if reference.get("optional"):
        return None
    raise ConfigError(f'{kind.singular} "{name}" not found')
