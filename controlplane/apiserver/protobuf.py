"""Bodies in Kubernetes' protobuf encoding, which kubectl and other Go clients send for the kinds that they know.

Only reading is served: such clients take JSON answers, and encoding from JSON would cost what caching bytes saves
(`benchmarks/bench_protobuf.py` measures how much).
`protobuf_fields.txt` names the fields of every struct; the wire format is protobuf's, inside the envelope
`k8s\\0` + `runtime.Unknown`. What comes out is the document as the same client would have sent it in JSON.
Source: the API concepts page on protobuf encoding; the protocol buffers documentation on the wire format.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import orjson

from pyk.api.objects import Object
from pyk.api.status import bad_request
from pyk.reconcile.clock import micro_timestamp, timestamp

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 60
_NANOSECONDS = 1e9

Wire = int | bytes


class _BadMessage(ValueError):
    """The bytes are not what the schema says."""


@dataclass(frozen=True, slots=True)
class Field:
    """`name` is empty for an inlined struct; `type` without its prefixes."""

    name: str
    type: str
    is_list: bool
    is_map: bool
    keeps_zero: bool


@cache
def schema() -> Mapping[str, Mapping[int, Field]]:
    """The fields of every struct by their numbers."""
    structs = {}
    for line in files("controlplane.apiserver").joinpath("protobuf_fields.txt").read_text().splitlines():
        if not line.startswith("#"):
            struct, *fields = line.split(" ")
            structs[struct] = dict(_parse_field(field) for field in fields if field)
    return structs


def _parse_field(text: str) -> tuple[int, Field]:
    name, _, rest = text.partition("=")
    number, _, kind = rest.partition(":")
    plain = kind.removeprefix("*").removeprefix("[]").removeprefix("{}")
    keeps_zero = kind.startswith("*") or not name.endswith("?")
    is_list, is_map = kind.startswith("[]"), kind.startswith("{}")
    return int(number), Field(name.removesuffix("?"), plain, is_list, is_map, keeps_zero)


def parse_protobuf(body: bytes) -> Object:
    """The document in an enveloped message. Raises a 400 `ApiError` for what is none, or of an unknown kind."""
    try:
        if not body.startswith(_MAGIC):
            raise _BadMessage("it does not begin with the prefix k8s\\x00")
        envelope = dict(_wire(body[len(_MAGIC) :]))
        types = dict(_wire(_as_bytes(envelope.get(1, b""))))
        api_version, kind = _text(types.get(1, b"")), _text(types.get(2, b""))
        if envelope.get(3):
            raise _BadMessage("its content is encoded once more")
        struct = _struct_of(api_version, kind)
        document = _struct(struct, _as_bytes(envelope.get(2, b"")), 0)
    except (ValueError, IndexError, OverflowError, OSError) as error:
        raise bad_request(f"the protobuf message cannot be read: {error}") from None
    document["kind"], document["apiVersion"] = kind, api_version
    return document


def _struct_of(api_version: str, kind: str) -> str:
    group, _, version = api_version.rpartition("/")
    short = group.partition(".")[0] or "core"
    for struct in (f"{short}/{version}.{kind}", f"{short}.{kind}", f"meta.{kind}"):
        if struct in schema():
            return struct
    raise _BadMessage(f'no kind "{kind}" is registered for version "{api_version}"')


def _wire(data: bytes) -> Iterator[tuple[int, Wire]]:
    """Numbers and raw values of a message's fields, in their order."""
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        number, form = tag >> 3, tag & 7
        if form == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if form == _BYTES:
            size, position = _varint(data, position)
        elif form in (_FIXED64, _FIXED32):
            size = 8 if form == _FIXED64 else 4
        else:
            raise _BadMessage(f"wire type {form} is unknown")
        if position + size > end:
            raise _BadMessage("it ends too early")
        yield number, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7
        if shift > 63:
            raise _BadMessage("a number is too long")


def _as_bytes(value: Wire) -> bytes:
    if not isinstance(value, bytes):
        raise _BadMessage("a message or text was expected where a number is")
    return value


def _integer(value: Wire) -> int:
    if not isinstance(value, int):
        raise _BadMessage("a number was expected where bytes are")
    return value - (1 << 64) if value >= 1 << 63 else value


def _text(value: Wire) -> str:
    return _as_bytes(value).decode()


def _struct(struct: str, data: bytes, depth: int) -> Object:
    if depth > _DEEPEST:
        raise _BadMessage("it is nested too deeply")
    fields = schema()[struct]
    document: Object = {}
    for number, raw in _wire(data):
        field = fields.get(number)
        if field is None:
            continue  # of a newer version than this server knows
        if field.is_map:
            entry = dict(_wire(_as_bytes(raw)))
            value = _value(field.type, entry[2], depth) if 2 in entry else _zero(field.type)
            document.setdefault(field.name, {})[_text(entry.get(1, b""))] = value
        elif field.is_list:
            items = document.setdefault(field.name, [])
            if field.type == "int" and isinstance(raw, bytes):
                items.extend(_packed(raw))
            else:
                items.append(_value(field.type, raw, depth))
        else:
            value = _value(field.type, raw, depth)
            if not field.name:
                document.update(value)
            elif value is not None and (value or field.keeps_zero or isinstance(value, dict)):
                document[field.name] = value
    return document


def _packed(raw: bytes) -> Iterator[int]:
    position = 0
    while position < len(raw):
        value, position = _varint(raw, position)
        yield _integer(value)


def _value(kind: str, raw: Wire, depth: int) -> Any:
    read = _SCALARS.get(kind)
    return read(raw) if read is not None else _struct(kind, _as_bytes(raw), depth + 1)


def _zero(kind: str) -> Any:
    return {"string": "", "bytes": "", "quantity": "0", "strings": [], "int": 0, "bool": False}.get(kind, {})


def _time(raw: Wire) -> str | None:
    seconds = dict(_wire(_as_bytes(raw)))
    return timestamp(_integer(seconds[1])) if 1 in seconds else None


def _micro_time(raw: Wire) -> str | None:
    parts = dict(_wire(_as_bytes(raw)))
    if 1 not in parts:
        return None
    return micro_timestamp(_integer(parts[1]) + _integer(parts.get(2, 0)) / _NANOSECONDS)


def _int_or_string(raw: Wire) -> int | str:
    parts = dict(_wire(_as_bytes(raw)))
    return _text(parts.get(3, b"")) if parts.get(1) else _integer(parts.get(2, 0))


def _json(raw: Wire) -> Any:
    inside = dict(_wire(_as_bytes(raw))).get(1)
    return orjson.loads(_as_bytes(inside)) if inside else None


_SCALARS: Mapping[str, Callable[[Wire], Any]] = {
    "string": _text,
    "bool": lambda raw: bool(_integer(raw)),
    "int": _integer,
    "bytes": lambda raw: base64.b64encode(_as_bytes(raw)).decode(),
    "strings": lambda raw: [_text(item) for _, item in _wire(_as_bytes(raw))],
    "quantity": lambda raw: _text(dict(_wire(_as_bytes(raw))).get(1, b"0")),
    "time": _time,
    "microtime": _micro_time,
    "intorstring": _int_or_string,
    "json": _json,
}
