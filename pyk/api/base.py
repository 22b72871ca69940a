"""What every model is made of: the base class, scalar types of the Kubernetes API, and patch markers.

Models exist to parse and check what comes in at the edge; inside, an object is its JSON document. Attribute
names are therefore the wire's names. A field that is `T | None = None` may be left out or null; a field without
a default is required. Unknown fields are errors of type `extra_forbidden`, which the API server turns
into what the request's `fieldValidation` asks for.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pyk.api.quantity import canonical_quantity


class Model(BaseModel):
    """Base of all models. Built when first used, so that importing a module of models costs little."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True, populate_by_name=True)


@dataclass(frozen=True, slots=True)
class MergeKey:
    """A list that patches merge by key.

    `patch` is the strategic merge patch key; `keys` are the list-map keys of server-side apply where they
    differ from `(patch,)`. With `retain`, a patch replaces what `$retainKeys` does not name.
    """

    patch: str
    keys: tuple[str, ...] = ()
    retain: bool = False

    @property
    def map_keys(self) -> tuple[str, ...]:
        return self.keys or (self.patch,)


@dataclass(frozen=True, slots=True)
class Bits:
    """An integer of so many bits: 32 or 64."""

    count: int


@dataclass(frozen=True, slots=True)
class MergeSet:
    """A list of scalars that patches merge as a set."""


@dataclass(frozen=True, slots=True)
class RetainKeys:
    """A struct of which a strategic merge patch may say which keys to retain (`$retainKeys`)."""


@dataclass(frozen=True, slots=True)
class SchemaName:
    """What OpenAPI documents call a scalar type, such as `io.k8s.apimachinery.pkg.api.resource.Quantity`.

    `byte` is a format.
    """

    name: str


def _quantity(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("quantities must be text or a number such as 500m, 1.5 or 64Mi")
    return canonical_quantity(str(value))


def _int_or_string(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("must be an integer or text")
    if isinstance(value, int) and not -(1 << 31) <= value < 1 << 31:
        raise ValueError(f"json: cannot unmarshal number {value} into Go value of type int32")
    return value


def _base64(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be base64 text")
    try:
        base64.b64decode(value, validate=True)
    except ValueError as error:
        raise ValueError(f"illegal base64 data: {error}") from None
    return value


def _time(value: object) -> str:
    return _canonical(value, 20, "%Y-%m-%dT%H:%M:%SZ")


def _micro_time(value: object) -> str:
    return _canonical(value, 27, "%Y-%m-%dT%H:%M:%S.%fZ")


def _canonical(value: object, length: int, form: str) -> str:
    if not isinstance(value, str):
        raise ValueError("must be RFC 3339 text")
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("has no time zone")
        if len(value) == length and value[10] == "T" and value[-1] == "Z":
            return value
        return moment.astimezone(UTC).strftime(form).rjust(length, "0")  # the C library does not pad years
    except (ValueError, OverflowError) as error:
        raise ValueError(f'"{value}" is not an RFC 3339 time: {error}') from None


def _within(bits: int) -> Any:
    return Field(ge=-(1 << (bits - 1)), le=(1 << (bits - 1)) - 1)


Int32 = Annotated[int, _within(32), Bits(32)]
Int64 = Annotated[int, _within(64), Bits(64)]
_MACHINERY = "io.k8s.apimachinery.pkg"
Quantity = Annotated[str, BeforeValidator(_quantity), SchemaName(f"{_MACHINERY}.api.resource.Quantity")]
"""A resource quantity (`500m`, `64Mi`), kept in its canonical form."""
IntOrString = Annotated[int | str, BeforeValidator(_int_or_string), SchemaName(f"{_MACHINERY}.util.intstr.IntOrString")]
Base64 = Annotated[str, BeforeValidator(_base64), SchemaName("byte")]
Time = Annotated[str, BeforeValidator(_time), SchemaName(f"{_MACHINERY}.apis.meta.v1.Time")]
"""RFC 3339 in UTC with seconds, whatever the zone and the fraction are that a client writes."""
MicroTime = Annotated[str, BeforeValidator(_micro_time), SchemaName(f"{_MACHINERY}.apis.meta.v1.MicroTime")]
"""RFC 3339 in UTC with microseconds."""
