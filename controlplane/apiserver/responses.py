"""HTTP answers: objects, lists and errors as the client accepts them, compressed when that pays.

Nothing is parsed for a client that takes JSON objects as they are: their bytes go out as the cache has them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import orjson
import yaml
from aiohttp import web

from controlplane.apiserver import tables
from controlplane.apiserver.answer import PIECE_BYTES, Answer
from controlplane.apiserver.encoding import decode, dumps
from controlplane.apiserver.listing import Listing
from controlplane.apiserver.negotiation import Accepted, not_acceptable
from pyk.api.kinds import Kind
from pyk.api.objects import Object
from pyk.api.status import ApiError

_GZIP_FROM_BYTES = 128 << 10
"""As kube-apiserver; below that the time costs more than the bytes."""
_WARNING_CHARACTERS = 4096
_LONGEST_WARNING = 256
_MOST_WARNINGS = 50
_END_OF_LIST = b"]}"


def text(words: str, status: int = 200) -> Answer:
    """A line for people and probes."""
    return Answer(words.encode(), status, "text/plain; charset=utf-8")


def page_not_found() -> Answer:
    """404 for a path that is no resource's."""
    return text("404 page not found\n", 404)


def document(value: Any, accepted: Accepted, status: int = 200) -> Answer:
    """Any document, as JSON or YAML."""
    if accepted.form and isinstance(value, dict):
        value = tables.in_version(value, accepted.version)
    body = dumps(value) if accepted.media == "json" else to_yaml(value)
    return Answer(body, status, accepted.content_type)


def to_yaml(value: Any) -> bytes:
    return yaml.dump(value, Dumper=yaml.CSafeDumper, default_flow_style=False, allow_unicode=True).encode()


def one(kind: Kind, wire: bytes, accepted: Accepted, *, now: float, include: str, status: int = 200) -> Answer:
    """One object in the form that is asked for."""
    if accepted.form == "" and accepted.media == "json":
        return Answer(wire, status)
    obj = decode(wire)
    if accepted.form == "" or "metadata" not in obj or obj.get("kind") == "Status":
        return document(obj, accepted, status)
    version = obj["metadata"].get("resourceVersion", "")
    if accepted.form == "Table":
        table = tables.render_table(kind, [obj], now=now, include_object=include, resource_version=version)
        return document(table, accepted, status)
    if accepted.form == "PartialObjectMetadataList":
        raise not_acceptable("you requested PartialObjectMetadataList, but the requested object is not a list")
    return document(tables.partial_object(obj), accepted, status)


def many(kind: Kind, listing: Listing, accepted: Accepted, *, now: float, include: str) -> Answer:
    """A list in the form that is asked for."""
    if accepted.form == "" and accepted.media == "json":
        return _joined(kind, listing)
    objects = [decode(entry.data) for entry in listing.entries]
    if accepted.form == "":
        whole = {
            "kind": kind.list_kind,
            "apiVersion": kind.api_version,
            "metadata": listing.metadata(),
            "items": objects,
        }
        return document(whole, accepted)
    if accepted.form == "PartialObjectMetadata":
        raise not_acceptable("you requested PartialObjectMetadata, but the requested object is a list")
    facts: dict[str, Any] = {
        "resource_version": str(listing.revision),
        "continue_token": listing.continue_token,
        "remaining": listing.remaining,
    }
    if accepted.form == "Table":
        return document(tables.render_table(kind, objects, now=now, include_object=include, **facts), accepted)
    return document(tables.render_partial(objects, **facts), accepted)


def computed(kind: Kind, items: list[Object], accepted: Accepted, *, now: float, include: str) -> Answer:
    """A list of objects that are not stored, in the form that is asked for."""
    if accepted.form == "Table":
        table = tables.render_table(kind, items, now=now, include_object=include, resource_version="")
        return document(table, accepted)
    if accepted.form:
        return document(tables.render_partial(items, resource_version=""), accepted)
    whole = {"kind": kind.list_kind, "apiVersion": kind.api_version, "metadata": {}, "items": items}
    return document(whole, accepted)


def _joined(kind: Kind, listing: Listing) -> Answer:
    """A list as a join of its objects' bytes, piece by piece."""
    entries = listing.entries
    head = dumps({"kind": kind.list_kind, "apiVersion": kind.api_version, "metadata": listing.metadata()})
    head = head[:-1] + b',"items":['
    length = len(head) + sum([len(entry.data) for entry in entries]) + max(len(entries) - 1, 0) + len(_END_OF_LIST)
    return Answer(_pieces(head, [entry.data for entry in entries]), length=length)


def _pieces(head: bytes, objects: list[bytes]) -> Iterator[bytes]:
    start = size = 0
    for index, data in enumerate(objects):
        size += len(data)
        if size >= PIECE_BYTES:
            head += b",".join(objects[start : index + 1])
            yield head
            head, start, size = b",", index + 1, 0
    if start < len(objects):
        head += b",".join(objects[start:])
    elif objects:
        head = b""
    yield head + _END_OF_LIST


def failure(error: ApiError, accepted: Accepted) -> Answer:
    """The one place where an error becomes an answer."""
    response = document(error.to_status(), accepted, error.code)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    if error.code == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="pyk"'
    return response


def add_warnings(response: Answer, warnings: Iterable[str]) -> None:
    """`Warning` headers, which clients show to people; as many as fit into what clients take of headers."""
    room = _WARNING_CHARACTERS
    for text in islice(warnings, _MOST_WARNINGS):
        shown = "".join(character if character.isprintable() else " " for character in text[:_LONGEST_WARNING])
        room -= len(shown)
        if room < 0:
            return
        quoted = shown.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.add("Warning", f'299 - "{quoted}"')


def finish(request: web.Request, response: Answer, query: Mapping[str, Sequence[str]]) -> None:
    """Indent an answer that a person reads, and compress a big one for a client that can take it."""
    if response.media == "application/json" and response.length:
        asked = query.get("pretty")
        is_pretty = asked[0] in ("1", "true") if asked else _is_person(request.headers.get("User-Agent", ""))
        if is_pretty:
            response.replace(orjson.dumps(orjson.loads(response.whole()), option=orjson.OPT_INDENT_2) + b"\n")
    if response.length >= _GZIP_FROM_BYTES and "gzip" in request.headers.get("Accept-Encoding", ""):
        squeeze = zlib.compressobj(1, zlib.DEFLATED, 31)
        response.replace(b"".join([*map(squeeze.compress, response.pieces()), squeeze.flush()]))
        response.headers["Content-Encoding"] = "gzip"
        response.headers["Vary"] = "Accept-Encoding"


def _is_person(user_agent: str) -> bool:
    """The same clients as in apiserver's `isPrettyPrint`."""
    return user_agent.startswith(("curl", "Wget", "Mozilla/5.0"))


def success(**details: Any) -> dict[str, Any]:
    """A `Status` that tells of success."""
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", **details}


def json_lines(event: str, obj: Any) -> bytes:
    """One watch event of a rendered object."""
    return orjson.dumps({"type": event, "object": obj}) + b"\n"
