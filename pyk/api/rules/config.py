"""ConfigMaps, Secrets and ServiceAccounts: keys, sizes, types, and what stays as it is when `immutable`."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api.kinds import Column, Rules
from pyk.api.names import config_key
from pyk.api.objects import Object, annotations_of
from pyk.api.rules.common import AGE, NAME, check_unchanged
from pyk.api.status import FieldError

_SIZE_LIMIT = 1024 * 1024
_TOO_LONG = f"may not be more than {_SIZE_LIMIT} bytes"
_WHEN_IMMUTABLE = "field is immutable when `immutable` is set"
_SERVICE_ACCOUNT_NAME = "kubernetes.io/service-account.name"
_REQUIRED_KEYS = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}


def _decoded_size(text: str) -> int:
    return len(text) * 3 // 4 - text[-2:].count("=")


def _check_keys(data: dict[str, str], path: str) -> Iterator[FieldError]:
    for key in data:
        if (problem := config_key(key)) is not None:
            yield FieldError.invalid(f"{path}[{key}]", key, problem)


def _check_immutable(new: Object, old: Object | None, *fields: str) -> Iterator[FieldError]:
    if old is None or not old.get("immutable"):
        return
    if not new.get("immutable"):
        yield FieldError.forbidden("immutable", _WHEN_IMMUTABLE)
    for field in fields:
        if (new.get(field) or {}) != (old.get(field) or {}):
            yield FieldError.forbidden(field, _WHEN_IMMUTABLE)


def _validate_config_map(config_map: Object, old: Object | None) -> Iterable[FieldError]:
    data, binary = config_map.get("data") or {}, config_map.get("binaryData") or {}
    yield from _check_keys(data, "data")
    yield from _check_keys(binary, "binaryData")
    for key in data.keys() & binary.keys():
        yield FieldError.invalid(f"data[{key}]", key, "duplicate of key present in binaryData")
    size = sum(len(value.encode()) for value in data.values()) + sum(_decoded_size(text) for text in binary.values())
    if size > _SIZE_LIMIT:
        yield FieldError.too_long("[]", _TOO_LONG)  # the object as a whole
    yield from _check_immutable(config_map, old, "data", "binaryData")


def _default_secret(secret: Object) -> None:
    if not secret.get("type"):
        secret["type"] = "Opaque"
    # stringData is write-only: it goes into data, base64, and wins there.
    written = secret.pop("stringData", None) or {}
    if written:
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in written.items()}
        secret["data"] = (secret.get("data") or {}) | encoded


def _validate_secret(secret: Object, old: Object | None) -> Iterable[FieldError]:
    data, kind = secret.get("data") or {}, secret["type"]
    yield from _check_keys(data, "data")
    if sum(_decoded_size(text) for text in data.values()) > _SIZE_LIMIT:
        yield FieldError.too_long("data", _TOO_LONG)
    for key in _REQUIRED_KEYS.get(kind, ()):
        if key not in data:
            yield FieldError.required(f"data[{key}]")
        elif kind.startswith("kubernetes.io/dockerc") and not _is_json(data[key]):
            yield FieldError.invalid(f"data[{key}]", "<secret contents redacted>", "invalid JSON")
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
        yield FieldError.required("data[username]")
        yield FieldError.required("data[password]")
    if kind == "kubernetes.io/service-account-token" and not annotations_of(secret).get(_SERVICE_ACCOUNT_NAME):
        yield FieldError.required(f"metadata.annotations[{_SERVICE_ACCOUNT_NAME}]")
    if old is not None:
        yield from check_unchanged("type", kind, old.get("type"))
        yield from _check_immutable(secret, old, "data")


def _is_json(text: str) -> bool:
    try:
        json.loads(base64.b64decode(text))
    except ValueError:
        return False
    return True


def _data_count(*fields: str) -> Any:
    return lambda obj, now: sum(len(obj.get(field) or ()) for field in fields)


CONFIG_MAP = Rules(
    validate=_validate_config_map,
    columns=(NAME, Column("Data", _data_count("data", "binaryData"), kind="integer"), AGE),
)
SECRET = Rules(
    default=_default_secret,
    validate=_validate_secret,
    columns=(
        NAME,
        Column("Type", lambda secret, now: secret.get("type") or ""),
        Column("Data", _data_count("data"), kind="integer"),
        AGE,
    ),
    fields={"type": lambda secret: secret.get("type") or ""},
)
SERVICE_ACCOUNT = Rules(columns=(NAME, Column("Secrets", _data_count("secrets"), kind="integer"), AGE))
