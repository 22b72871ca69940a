"""`Table`s and metadata-only objects: the two forms in which clients ask for objects that are not the object.

`kubectl get` asks for a `Table` (meta.k8s.io/v1), whose columns are the kind's own; garbage collectors and
dashboards ask for `PartialObjectMetadata`. Everything here is a pure function of the objects and the time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyk.api.kinds import Column, Kind
from pyk.api.objects import Object
from pyk.api.rules.common import AGE, NAME

API_VERSION = "meta.k8s.io/v1"


def columns_of(kind: Kind) -> tuple[Column, ...]:
    """The kind's columns; name and age when it declares none."""
    return kind.rules.columns or (NAME, AGE)


def render_table(
    kind: Kind,
    objects: Iterable[Object],
    *,
    now: float,
    include_object: str = "Metadata",
    resource_version: str,
    continue_token: str = "",
    remaining: int | None = None,
) -> dict[str, Any]:
    """The `Table` of a list (or of one object, with its resource version). `now` is in seconds since the epoch.

    `include_object` is what a row carries beside its cells: `Metadata`, the whole `Object`, or `None`.
    """
    columns = columns_of(kind)
    return {
        "kind": "Table",
        "apiVersion": API_VERSION,
        "metadata": _list_metadata(resource_version, continue_token, remaining),
        "columnDefinitions": [_definition(column) for column in columns],
        "rows": [_row(columns, obj, now, include_object) for obj in objects],
    }


def table_event(
    kind: Kind, obj: Object, *, now: float, include_object: str = "Metadata", is_first: bool
) -> dict[str, Any]:
    """The `Table` of one watch event; only the first event of a watch defines the columns.

    A bookmark, which has no name, becomes a row of empty cells, whose object holds its annotations.
    """
    columns = columns_of(kind)
    if obj["metadata"].get("name"):
        row = _row(columns, obj, now, include_object)
    else:
        row = _row((), obj, now, include_object)
        row["cells"] = [0 if column.kind == "integer" else "" for column in columns]
    return {
        "kind": "Table",
        "apiVersion": API_VERSION,
        "metadata": {"resourceVersion": obj["metadata"].get("resourceVersion", "")},
        "columnDefinitions": [_definition(column) for column in columns] if is_first else [],
        "rows": [row],
    }


def render_partial(
    objects: Iterable[Object], *, resource_version: str, continue_token: str = "", remaining: int | None = None
) -> dict[str, Any]:
    """The `PartialObjectMetadataList` of a list."""
    return {
        "kind": "PartialObjectMetadataList",
        "apiVersion": API_VERSION,
        "metadata": _list_metadata(resource_version, continue_token, remaining),
        "items": [partial_object(obj) for obj in objects],
    }


def in_version(document: Object, version: str) -> Object:
    """A Table or partial object, with those inside it, in another version of meta.k8s.io; anything else as it is."""
    api_version = f"meta.k8s.io/{version}"
    if api_version != API_VERSION and document.get("apiVersion") == API_VERSION:
        document["apiVersion"] = api_version
        for inside in (*document.get("items", ()), *(row.get("object") for row in document.get("rows", ()))):
            if inside:
                in_version(inside, version)
    return document


def partial_object(obj: Object) -> dict[str, Any]:
    """The object's metadata alone, as a `PartialObjectMetadata`."""
    return {"kind": "PartialObjectMetadata", "apiVersion": API_VERSION, "metadata": obj["metadata"]}


def _list_metadata(resource_version: str, continue_token: str, remaining: int | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"resourceVersion": resource_version}
    if continue_token:
        metadata["continue"] = continue_token
    if remaining is not None:
        metadata["remainingItemCount"] = remaining
    return metadata


def _definition(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    }


def _row(columns: tuple[Column, ...], obj: Object, now: float, include_object: str) -> dict[str, Any]:
    row: dict[str, Any] = {"cells": [column.cell(obj, now) for column in columns]}
    if include_object == "Object":
        row["object"] = obj
    elif include_object == "Metadata":
        row["object"] = partial_object(obj)
    return row
