"""`metadata.managedFields`: which manager set which fields, kept up by every write.

An entry is one manager's: its name, whether it updates or applies, by which subresource, at which version, since when,
and its set of fields (`fieldsets.py`). Who updates a field takes it from all others; several may apply one value.
Writes of the main resource own nothing in `status` (of kinds that have that subresource), those of `status` nothing
else but metadata, and nobody owns what identifies an object. Objects without entries (somebody reset them) are not
tracked until somebody applies.

All functions are pure. Source: apimachinery `pkg/util/managedfields` and structured-merge-diff `merge`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import orjson

from controlplane.apiserver.fieldsets import BadFieldSet, FieldSet, difference, read_fields, union
from controlplane.apiserver.structure import structure_of
from controlplane.apiserver.typed import compared, created_fields
from pyk.api.base import Model
from pyk.api.kinds import Kind
from pyk.api.objects import Object
from pyk.api.remembering import ENTRIES, text_of
from pyk.api.status import FieldError

Entry = dict[str, Any]
"""One of `managedFields`, as on the wire. Never changed, only replaced."""

UNOWNED = frozenset(
    {
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "generation",
        "managedFields",
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    }
)
"""Metadata that no manager owns."""
MOST_UPDATERS = 10
"""How many entries of updates there may be; older ones become one."""
_OLDER_UPDATERS = "ancient-changes"
_LONGEST_MANAGER = 128
_LONGEST_SUBRESOURCE = 256


@lru_cache(maxsize=ENTRIES)
def manager_of(user_agent: str) -> str:
    """The manager that a request without a name for it stands for: its User-Agent's first word."""
    word = user_agent.partition("/")[0]
    return "".join(filter(str.isprintable, word)).encode()[:_LONGEST_MANAGER].decode(errors="ignore")


def entry(
    manager: str, operation: str, api_version: str, subresource: str, fields: FieldSet, seconds: str | None
) -> Entry:
    """An entry in the wire's order; `seconds` is an RFC 3339 time."""
    made: Entry = {"manager": manager, "operation": operation, "apiVersion": api_version}
    if seconds is not None:
        made["time"] = seconds
    made |= {"fieldsType": "FieldsV1", "fieldsV1": fields}
    if subresource:
        made["subresource"] = subresource
    return made


def tracked(kind: Kind, obj: Object, subresource: str) -> Object:
    """The part of an object that a write through a subresource may own."""
    metadata = {name: value for name, value in obj["metadata"].items() if name not in UNOWNED}
    if subresource == "status":
        metadata.pop("ownerReferences", None)
        parts = {"status": obj["status"]} if "status" in obj else {}
    else:
        parts = {name: value for name, value in obj.items() if name not in ("apiVersion", "kind", "metadata")}
        if kind.has_status:
            parts.pop("status", None)
    return {"metadata": metadata, **parts}


def of_creation(kind: Kind, obj: Object, manager: str, subresource: str, now: str) -> list[Entry]:
    """The entries of an object that one manager made."""
    part = tracked(kind, obj, subresource)
    text = text_of(part)
    fields = created_fields(structure_of(kind.model), part) if text is None else _created(kind.model, text)
    return [entry(manager, "Update", kind.api_version, subresource, fields, now)] if fields else []


@lru_cache(maxsize=ENTRIES)
def _created(model: type[Model], text: bytes) -> FieldSet:
    return created_fields(structure_of(model), orjson.loads(text))


def of_update(
    kind: Kind, entries: list[Entry], old: Object, new: Object, manager: str, subresource: str, now: str
) -> list[Entry]:
    """The entries when a manager made the new object of the old; the same when it took and removed nothing."""
    if not entries:
        return entries
    before, after = tracked(kind, old, subresource), tracked(kind, new, subresource)
    if before == after:
        return entries
    changed, removed = compared(structure_of(kind.model), before, after)
    lost = union(changed, removed)
    result: list[Entry] = []
    mine = None
    for each in entries:
        if mine is None and is_of(each, manager, "Update", subresource, kind.api_version):
            mine = each
        else:
            result.extend(less(each, lost))
    fields = union(difference(mine["fieldsV1"], removed), changed) if mine else changed
    if fields:
        since = now if changed or mine is None else mine.get("time")
        result.append(entry(manager, "Update", kind.api_version, subresource, fields, since))
    return in_order(_capped(result))


def is_of(each: Entry, manager: str, operation: str, subresource: str, api_version: str) -> bool:
    """Whether an entry is this manager's; whoever applies is the same at every version."""
    return (
        each.get("manager", "") == manager
        and each["operation"] == operation
        and each.get("subresource", "") == subresource
        and (operation == "Apply" or each.get("apiVersion") == api_version)
    )


def less(each: Entry, lost: FieldSet) -> Iterator[Entry]:
    """The entry without some fields; nothing when it has no others."""
    fields = difference(each["fieldsV1"], lost)
    if fields == each["fieldsV1"]:
        yield each
    elif fields:
        yield {**each, "fieldsV1": fields}


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Those who apply first, then by time."""
    return sorted(
        entries,
        key=lambda each: (
            each["operation"],
            each.get("time", ""),
            each.get("manager", ""),
            each.get("apiVersion", ""),
            each.get("subresource", ""),
        ),
    )


def _capped(entries: list[Entry]) -> list[Entry]:
    """At most so many entries of updates: the oldest become one for each version."""
    updates = in_order(each for each in entries if each["operation"] == "Update")
    if len(updates) <= MOST_UPDATERS:
        return entries
    kept = [each for each in entries if each["operation"] != "Update"]
    buckets: dict[str, list[Entry]] = {}
    count = len(updates)
    for place, each in enumerate(updates):
        if count <= MOST_UPDATERS:
            kept.extend(updates[place:])
            break
        bucket = buckets.setdefault(each.get("apiVersion", ""), [])
        count -= bool(bucket)
        bucket.append(each)
    for version, merged in buckets.items():
        if len(merged) == 1:
            kept.append(merged[0])
            continue
        fields: FieldSet = {}
        for each in merged:
            fields = union(fields, each["fieldsV1"])
        kept.append(entry(_OLDER_UPDATERS, "Update", version, "", fields, merged[-1].get("time")))
    return kept


def without_times(entries: list[Entry]) -> list[Entry]:
    return [{name: value for name, value in each.items() if name != "time"} for each in entries]


# Entries that a client writes


def given(document: Any, live: list[Entry]) -> list[Entry]:
    """The entries of an object that a client sent: its own, or the live ones when it has none or none to be read.

    One empty entry resets them. Source: apimachinery `decodeLiveOrNew`.
    """
    if document == [{}]:
        return []
    if not document:
        return live
    try:
        return in_order(_read(each) for each in document)
    except BadFieldSet:
        return live


def _read(document: Any) -> Entry:
    if document.get("fieldsType") != "FieldsV1" or document.get("fieldsV1") is None:
        raise BadFieldSet("an entry needs its fields")
    return entry(
        document.get("manager") or "",
        document.get("operation") or "",
        document.get("apiVersion") or "",
        document.get("subresource") or "",
        read_fields(document["fieldsV1"]),
        document.get("time"),
    )


def check(entries: Iterable[Entry]) -> Iterator[FieldError]:
    """What is wrong with entries that a client wrote."""
    for index, each in enumerate(entries):
        path = f"metadata.managedFields[{index}]"
        if each["operation"] not in ("Apply", "Update"):
            yield FieldError.invalid(f"{path}.operation", each["operation"], "must be `Apply` or `Update`")
        manager = each["manager"]
        if len(manager.encode()) > _LONGEST_MANAGER:
            yield FieldError.too_long(f"{path}.manager", f"may not be more than {_LONGEST_MANAGER} bytes")
        if not manager.isprintable():
            yield FieldError.invalid(f"{path}.manager", manager, "should only contain printable characters")
        if len(each.get("subresource", "")) > _LONGEST_SUBRESOURCE:
            yield FieldError.too_long(f"{path}.subresource", f"may not be more than {_LONGEST_SUBRESOURCE} bytes")
