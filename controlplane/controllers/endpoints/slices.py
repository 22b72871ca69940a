"""From the endpoints that there should be to the least writes of EndpointSlices that bring them about. Pure.

An endpoint stays in the slice that it is in. Slices that change anyway are filled up first; what is left goes into one
slice that has room for all of it, or into new ones. Slices are never merged only to have fewer: every write is sent to
every node. For the same reason a slice that nobody needs any more becomes the next new one. Source: `reconciler.go` of
`staging/src/k8s.io/endpointslice`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.controllers.endpoints.members import Ports, port_documents
from pyk.api.kinds import ENDPOINT_SLICE
from pyk.api.objects import Object, annotations_of, labels_of, name_of, namespace_of, owner_reference
from pyk.reconcile.actions import Action, Create, Delete, Update

Document = dict[str, Any]

MOST_ENDPOINTS = 100
SERVICE_LABEL = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
HEADLESS_LABEL = "service.kubernetes.io/headless"
_NO_PORTS: Ports = ()

Key = tuple[str, Ports]
"""What all endpoints of one slice have in common: the type of address, and the ports."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What slices of an owner should hold, and what each of them carries."""

    owner: Object
    endpoints: Mapping[Key, list[Document]]
    labels: Mapping[str, str]
    families: tuple[str, ...]
    annotations: Mapping[str, str] | None = None
    keeps_empty: bool = True
    """Whether one empty slice of each family stays when there are no endpoints."""


def service_of_slice(endpoint_slice: Object) -> tuple[str, ...]:
    """The key of the Service that a slice says it is of."""
    service = labels_of(endpoint_slice).get(SERVICE_LABEL)
    return (f"{namespace_of(endpoint_slice)}/{service}",) if service else ()


def key_of_slice(endpoint_slice: Object) -> Key:
    ports = tuple(
        (port.get("name") or "", port.get("port") or 0, port.get("protocol") or "TCP", port.get("appProtocol") or "")
        for port in endpoint_slice.get("ports") or ()
    )
    return endpoint_slice["addressType"], ports


def identity(endpoint: Document) -> tuple[str, ...]:
    """What makes an endpoint the same one as before."""
    return (*endpoint["addresses"], (endpoint.get("targetRef") or {}).get("uid") or "")


def plan(wanted: Wanted, existing: Iterable[Object]) -> list[Action]:
    """The writes, deletions last."""
    by_key: dict[Key, list[Object]] = {}
    actions: list[Action] = []
    going: list[Object] = []
    for endpoint_slice in sorted(existing, key=name_of):
        if endpoint_slice["addressType"] in wanted.families:
            by_key.setdefault(key_of_slice(endpoint_slice), []).append(endpoint_slice)
        else:
            going.append(endpoint_slice)
    for family in wanted.families:
        endpoints = {key: found for key, found in wanted.endpoints.items() if key[0] == family and found}
        present = {key: found for key, found in by_key.items() if key[0] == family}
        if not endpoints and wanted.keeps_empty:
            endpoints = {next(iter(present), (family, _NO_PORTS)): []}
        for key, found in endpoints.items():
            writes, removals = _plan_key(wanted, key, found, present.get(key, []))
            actions += writes
            going += removals
        for key, unwanted in present.items():
            if key not in endpoints:
                going += unwanted
    return _reused(actions, going)


def _reused(actions: list[Action], going: list[Object]) -> list[Action]:
    """A slice that would go becomes one that would be made, if both are of one family: one write instead of two."""
    result: list[Action] = []
    spare = list(going)
    for action in actions:
        if isinstance(action, Create):
            family = action.obj["addressType"]
            old = next((each for each in spare if each["addressType"] == family), None)
            if old is not None:
                spare.remove(old)
                metadata = {**old["metadata"], **action.obj["metadata"]}
                metadata.pop("generateName", None)
                result.append(Update({**action.obj, "metadata": metadata}))
                continue
        result.append(action)
    return [*result, *map(Delete.of, spare)]


def _plan_key(
    wanted: Wanted, key: Key, endpoints: list[Document], existing: list[Object]
) -> tuple[list[Action], list[Object]]:
    missing = {identity(endpoint): endpoint for endpoint in endpoints}
    contents: list[tuple[Object, list[Document], bool]] = []
    for endpoint_slice in existing:
        kept, is_changed = [], _carries_else(wanted, endpoint_slice)
        for endpoint in endpoint_slice.get("endpoints") or ():
            new = missing.pop(identity(endpoint), None)
            is_changed = is_changed or new is None or not _same(new, endpoint)
            if new is not None:
                kept.append(new)
        contents.append((endpoint_slice, kept, is_changed))
    added = list(missing.values())
    for _, kept, is_changed in contents:
        if is_changed and added and kept:
            room = MOST_ENDPOINTS - len(kept)
            kept += added[:room]
            added = added[room:]
    if added:
        # The fullest of the others that takes all the rest; an empty one that would go is as good.
        fitting = [each for each in contents if len(each[1]) + len(added) <= MOST_ENDPOINTS]
        if fitting:
            chosen = max(fitting, key=lambda each: len(each[1]))
            chosen[1].extend(added)
            contents[contents.index(chosen)] = (chosen[0], chosen[1], True)
            added = []
    writes: list[Action] = []
    removals: list[Object] = []
    survivors = [each for each in contents if each[1]] or ([] if endpoints else contents[:1])
    for each in contents:
        endpoint_slice, kept, is_changed = each
        if each not in survivors:
            removals.append(endpoint_slice)
        elif is_changed:
            writes.append(Update(_filled(wanted, key, kept, endpoint_slice)))
    while added or (not endpoints and not contents and not writes):
        writes.append(Create(_filled(wanted, key, added[:MOST_ENDPOINTS], None)))
        added = added[MOST_ENDPOINTS:]
    return writes, removals


def _same(one: Document, other: Document) -> bool:
    return {name: value for name, value in one.items() if value} == {
        name: value for name, value in other.items() if value
    }


def _carries_else(wanted: Wanted, endpoint_slice: Object) -> bool:
    if labels_of(endpoint_slice) != dict(wanted.labels):
        return True
    if wanted.annotations is not None and annotations_of(endpoint_slice) != dict(wanted.annotations):
        return True
    return bool(endpoint_slice["metadata"].get("ownerReferences") != [owner_reference(wanted.owner)])


def _filled(wanted: Wanted, key: Key, endpoints: list[Document], present: Object | None) -> Object:
    """The slice to write: `present` with other content, or a new one."""
    family, ports = key
    metadata: Document = {
        "generateName": f"{name_of(wanted.owner)}-",
        "namespace": namespace_of(wanted.owner),
    }
    if present is not None:
        metadata = {part: value for part, value in present["metadata"].items() if part != "managedFields"}
    metadata |= {"labels": dict(wanted.labels), "ownerReferences": [owner_reference(wanted.owner)]}
    if wanted.annotations is not None:
        metadata["annotations"] = dict(wanted.annotations)
    return {
        "apiVersion": ENDPOINT_SLICE.api_version,
        "kind": ENDPOINT_SLICE.kind,
        "metadata": metadata,
        "addressType": family,
        "endpoints": endpoints,
        "ports": port_documents(ports),
    }
