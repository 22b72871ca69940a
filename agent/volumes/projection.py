"""What files a configMap, secret, downwardAPI or projected volume holds: a pure function of the pod and the objects.

The objects come through `Sources`, so that this is tested with dictionaries. Anything that is not there and not
optional is a `VolumeFailure` with the words that Kubernetes uses.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.volumes.atomic import File
from pyk.api.kinds import CONFIG_MAP, SECRET, Kind
from pyk.api.objects import Object

PROJECTED_SOURCES = ("configMap", "secret", "downwardAPI", "projected")
_DEFAULT_MODE = 0o644


class VolumeFailure(Exception):
    """A volume cannot be set up; the text is for people."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where content comes from: objects of the pod's namespace (None: not found), the pod's fields
    (`metadata.labels`) and its containers' resources (a `ResourceFieldSelector`) as text, and the token for a
    `ServiceAccountTokenProjection` (None: there is none)."""

    lookup: Callable[[Kind, str], Object | None]
    field: Callable[[str], str]
    resource: Callable[[Mapping[str, Any]], str]
    token: Callable[[Mapping[str, Any]], str | None]


def volume_files(volume: Mapping[str, Any], sources: Sources) -> dict[str, File]:
    """The files of a volume of one of the `PROJECTED_SOURCES`. Raises `VolumeFailure`."""
    if (config_map := volume.get("configMap")) is not None:
        return _object_files(CONFIG_MAP, config_map.get("name", ""), config_map, _mode_of(config_map), sources)
    if (secret := volume.get("secret")) is not None:
        return _object_files(SECRET, secret.get("secretName", ""), secret, _mode_of(secret), sources)
    if (downward := volume.get("downwardAPI")) is not None:
        return _downward_files(downward.get("items") or (), _mode_of(downward), sources)
    projected = volume["projected"]
    mode = _mode_of(projected)
    files: dict[str, File] = {}
    for source in projected.get("sources") or ():
        if (config_map := source.get("configMap")) is not None:
            files |= _object_files(CONFIG_MAP, config_map.get("name", ""), config_map, mode, sources)
        elif (secret := source.get("secret")) is not None:
            files |= _object_files(SECRET, secret.get("name", ""), secret, mode, sources)
        elif (downward := source.get("downwardAPI")) is not None:
            files |= _downward_files(downward.get("items") or (), mode, sources)
        elif (token := source.get("serviceAccountToken")) is not None:
            text = sources.token(token)
            if text is None:
                raise VolumeFailure("the service account token is not there yet")
            files[token["path"]] = File(text.encode(), mode)
        else:
            raise VolumeFailure(f"projected source {'/'.join(source)} is not served by this node")
    return files


def is_secret_bearing(volume: Mapping[str, Any]) -> bool:
    """Whether the volume's files must not reach a disk."""
    sources = (volume.get("projected") or {}).get("sources") or ()
    return "secret" in volume or any("secret" in source or "serviceAccountToken" in source for source in sources)


def _mode_of(source: Mapping[str, Any]) -> int:
    mode = source.get("defaultMode")
    return _DEFAULT_MODE if mode is None else int(mode)


def content_of(kind: Kind, obj: Object) -> dict[str, bytes]:
    """The data of a ConfigMap or Secret by key."""
    if kind is SECRET:
        return {key: base64.b64decode(value) for key, value in (obj.get("data") or {}).items()}
    data = {key: value.encode() for key, value in (obj.get("data") or {}).items()}
    return data | {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}


def _object_files(kind: Kind, name: str, source: Mapping[str, Any], mode: int, sources: Sources) -> dict[str, File]:
    optional = bool(source.get("optional"))
    found = sources.lookup(kind, name)
    if found is None:
        if optional:
            return {}
        raise VolumeFailure(f'{kind.singular} "{name}" not found')
    content = content_of(kind, found)
    items = source.get("items")
    if not items:
        return {key: File(value, mode) for key, value in content.items()}
    files = {}
    for item in items:
        if item["key"] not in content:
            if optional:
                continue
            what = "references non-existent secret key" if kind is SECRET else "references non-existent config key"
            raise VolumeFailure(f"{what}: {item['key']}")
        own = item.get("mode")
        files[item["path"]] = File(content[item["key"]], mode if own is None else int(own))
    return files


def _downward_files(items: Any, mode: int, sources: Sources) -> dict[str, File]:
    files = {}
    for item in items:
        if (field := item.get("fieldRef")) is not None:
            text = sources.field(field["fieldPath"])
        else:
            text = sources.resource(item.get("resourceFieldRef") or {})
        own = item.get("mode")
        files[item["path"]] = File(text.encode(), mode if own is None else int(own))
    return files
