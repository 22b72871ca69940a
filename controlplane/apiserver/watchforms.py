"""The lines of a watch for clients that do not want the objects as they are: Tables, or metadata alone.

Bookmarks come in the same form as the events between them, so that a client decodes one kind of thing; errors are a
`Status` in every form.
"""

from __future__ import annotations

from controlplane.apiserver import responses, tables
from controlplane.apiserver.encoding import decode
from controlplane.apiserver.negotiation import Accepted
from controlplane.apiserver.streaming import Render
from controlplane.apiserver.watchcache import WireEvent
from pyk.api.kinds import Kind
from pyk.reconcile.clock import Clock


def render_for(accepted: Accepted, kind: Kind, include: str, clock: Clock) -> Render | None:
    """How to write one watch's events; None when the objects go out as they are.

    `include` is what a Table's row holds of its object: None, Metadata or Object.
    """
    if accepted.form == "Table":
        return _table_lines(kind, include, clock, accepted.version)
    return _partial_lines(accepted.version) if accepted.form else None


def _partial_lines(version: str) -> Render:
    def line(event: WireEvent) -> bytes:
        if event.type == "ERROR":
            return event.line
        return responses.json_lines(event.type, tables.in_version(tables.partial_object(decode(event.data)), version))

    return line


def _table_lines(kind: Kind, include: str, clock: Clock, version: str) -> Render:
    """Events as Tables of one row; only the first tells the columns."""
    is_first = True

    def line(event: WireEvent) -> bytes:
        nonlocal is_first
        if event.type == "ERROR":
            return event.line
        table = tables.table_event(
            kind, decode(event.data), now=clock.time(), include_object=include, is_first=is_first
        )
        is_first = False
        return responses.json_lines(event.type, tables.in_version(table, version))

    return line
