"""Views: kinds that show what another kind stores, as `events.k8s.io` shows the core group's Events.

There is one stored form. A request for a view is turned into one for the stored kind (its name, its field selector, its
documents), and what comes back is shown in the view's form. Only requests for views pay for that: everything else
passes through as bytes.
"""

from __future__ import annotations

from dataclasses import replace

from controlplane.apiserver.encoding import decode, dumps
from controlplane.apiserver.listing import Listing
from controlplane.apiserver.request import ListOptions
from controlplane.apiserver.streaming import Render
from controlplane.apiserver.watchcache import Entry, WireEvent
from pyk.api.kinds import Kind
from pyk.api.objects import Object
from pyk.api.status import bad_request


def stored_kind(kind: Kind) -> Kind:
    """The kind as which objects of `kind` are stored."""
    return kind.stored_as or kind


def stored_form(kind: Kind, document: Object) -> Object:
    """A document of a kind as it is stored."""
    if kind.stored_as is None or kind.conversion is None:
        return document
    stored = kind.conversion.to_stored(document)
    stored["kind"], stored["apiVersion"] = kind.stored_as.kind, kind.stored_as.api_version
    return stored


def shown_form(kind: Kind, stored: Object) -> Object:
    """A stored document as the kind shows it; anything else (a `Status`) as it is."""
    if kind.conversion is None or stored.get("kind") != stored_kind(kind).kind:
        return stored
    shown = kind.conversion.from_stored(stored)
    shown["kind"], shown["apiVersion"] = kind.kind, kind.api_version
    return shown


def shown(kind: Kind, wire: bytes) -> bytes:
    """The wire form of a stored object as the kind shows it."""
    return wire if kind.stored_as is None else dumps(shown_form(kind, decode(wire)))


def shown_listing(kind: Kind, listing: Listing) -> Listing:
    """A list of stored objects as the kind shows them."""
    if kind.stored_as is None:
        return listing
    entries = [
        Entry(entry.namespace, entry.name, entry.revision, shown(kind, entry.data), entry.labels, entry.fields)
        for entry in listing.entries
    ]
    return replace(listing, entries=entries)


def shown_lines(kind: Kind, render: Render | None) -> Render | None:
    """The lines of a watch: stored objects as the kind shows them, then as `render` has them."""
    if kind.stored_as is None:
        return render

    def line(event: WireEvent) -> bytes:
        converted = WireEvent(event.type, shown(kind, event.data), event.revision)
        return converted.line if render is None else render(converted)

    return line


def stored_options(kind: Kind, options: ListOptions) -> ListOptions:
    """The options of a list or watch with the stored kind's names of fields. Raises 400 for an unknown one."""
    if kind.conversion is None or not options.fields:
        return options
    found = []
    for requirement in options.fields:
        is_common = requirement.field in ("metadata.name", "metadata.namespace")
        name = requirement.field if is_common else kind.conversion.fields.get(requirement.field)
        if name is None:
            raise bad_request(f"field label not supported: {requirement.field}")
        found.append(replace(requirement, field=name))
    return replace(options, fields=tuple(found))
