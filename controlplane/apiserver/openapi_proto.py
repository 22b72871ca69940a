"""The OpenAPI v2 document in gnostic's protobuf form, which kubectl asks for when it checks a manifest itself.

kubectl does so for a `kind: List`. Only what such checks read is encoded: the definitions with their
types, references and `x-` extensions. Field numbers are those of gnostic's `openapiv2/OpenAPIv2.proto`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""Clients ask with an `@` in it, which their own parsers of media types refuse in an answer."""

_SCHEMA_TEXTS = {"$ref": 1, "format": 2, "title": 3, "description": 4}


def encode_document(document: dict[str, Any]) -> bytes:
    """The `Document` message of an OpenAPI v2 document: swagger, info and definitions."""
    info = _text(1, document["info"]["title"]) + _text(2, document["info"]["version"])
    return _text(1, document["swagger"]) + _bytes(2, info) + _bytes(8, b"") + _bytes(9, _named(document["definitions"]))


def _named(schemas: dict[str, Any]) -> bytes:
    """Repeated `NamedSchema`, as `Definitions` and `Properties` hold them."""
    return b"".join(_bytes(1, _text(1, name) + _bytes(2, _schema(schema))) for name, schema in schemas.items())


def _schema(schema: dict[str, Any]) -> bytes:
    parts = [_text(number, schema[name]) for name, number in _SCHEMA_TEXTS.items() if schema.get(name)]
    parts += [_text(19, name) for name in schema.get("required") or ()]
    if "additionalProperties" in schema:
        additional = schema["additionalProperties"]
        inner = (
            _varint(2 << 3) + _varint(additional) if isinstance(additional, bool) else _bytes(1, _schema(additional))
        )
        parts.append(_bytes(21, inner))
    if "type" in schema:
        parts.append(_bytes(22, b"".join(_text(1, name) for name in _listed(schema["type"]))))
    if "items" in schema:
        parts.append(_bytes(23, _bytes(1, _schema(schema["items"]))))
    parts += [_bytes(24, _schema(inner)) for inner in schema.get("allOf") or ()]
    if schema.get("properties"):
        parts.append(_bytes(25, _named(schema["properties"])))
    parts += [_bytes(31, _text(1, key) + _bytes(2, _yaml(value))) for key, value in schema.items() if key[:2] == "x-"]
    return b"".join(parts)


def _listed(value: str | list[str]) -> Iterable[str]:
    return [value] if isinstance(value, str) else value


def _yaml(value: Any) -> bytes:
    """An `Any` whose value is given as YAML, of which JSON is a part."""
    return _bytes(2, orjson.dumps(value))


def _text(number: int, text: str) -> bytes:
    return _bytes(number, text.encode())


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
