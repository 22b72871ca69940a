"""Object metadata: what the server owns in it, and what a client may put into it.

`prepare_creation` and `prepare_update` set the server's fields; `check_creation` and `check_update` yield what is wrong
with the rest. Source: apiserver `pkg/registry/rest` (BeforeCreate, BeforeUpdate) and apimachinery
`pkg/api/validation/objectmeta.go`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api import names
from pyk.api.kinds import Kind
from pyk.api.objects import Object
from pyk.api.rules.common import check_annotations, check_labels
from pyk.api.status import FieldError, bad_request, conflict
from pyk.reconcile.clock import Clock, timestamp

MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"
_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_SUFFIX_LENGTH = 5
_LONGEST_GENERATED = 63 - _SUFFIX_LENGTH
_KEPT = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName")
_MAY_BE_EMPTY = ("labels", "annotations", "finalizers", "ownerReferences", "generateName")
_CLIENTS_MAY_NOT_SET = ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields", "generation")


def generated_name(prefix: str, clock: Clock) -> str:
    """A name for an object with that `generateName`."""
    suffix = "".join(clock.random.choices(_SUFFIX_ALPHABET, k=_SUFFIX_LENGTH))
    return prefix[:_LONGEST_GENERATED] + suffix


def place(kind: Kind, metadata: dict[str, Any], namespace: str, name: str) -> None:
    """Make the object's name and namespace the URL's (`name` empty for a creation). Raises 400 when they differ."""
    if kind.namespaced:
        if metadata.setdefault("namespace", namespace) != namespace:
            if metadata["namespace"]:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            metadata["namespace"] = namespace
    elif metadata.pop("namespace", None):
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    if name:
        given = metadata.get("name")
        if given and given != name:
            raise bad_request(f"the name of the object ({given}) does not match the name on the URL ({name})")
        metadata["name"] = name


def prepare_creation(kind: Kind, metadata: dict[str, Any], clock: Clock) -> None:
    """Give a new object its identity. Raises 400 when it claims to have a revision."""
    if metadata.pop("resourceVersion", None):
        raise bad_request("resourceVersion should not be set on objects to be created")
    for field in _CLIENTS_MAY_NOT_SET:
        metadata.pop(field, None)
    _drop_empty(metadata)
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = generated_name(metadata["generateName"], clock)
    metadata["uid"] = str(uuid.UUID(int=clock.random.getrandbits(128), version=4))
    metadata["creationTimestamp"] = timestamp(clock.time())
    if kind.has_generation:
        metadata["generation"] = 1


def _drop_empty(metadata: dict[str, Any]) -> None:
    """What is empty is left out, as by clients and servers written in Go."""
    for field in _MAY_BE_EMPTY:
        if field in metadata and not metadata[field]:
            del metadata[field]


def prepare_update(kind: Kind, new: Object, old: Object) -> None:
    """Take over the server's fields from the old object. Raises 409 for another uid or resourceVersion."""
    metadata, before = new["metadata"], old["metadata"]
    version, uid = metadata.get("resourceVersion"), metadata.get("uid")
    if uid and uid != before["uid"]:
        detail = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {before['uid']}"
        raise conflict(kind.group, kind.plural, before["name"], detail)
    if version and version != before["resourceVersion"]:
        raise conflict(kind.group, kind.plural, before["name"], MODIFIED)
    metadata["resourceVersion"] = before["resourceVersion"]
    _drop_empty(metadata)
    for field in ("selfLink", "managedFields"):
        metadata.pop(field, None)
    for field in _KEPT:
        if field in before:
            metadata[field] = before[field]
        else:
            metadata.pop(field, None)


def is_spec_changed(new: Object, old: Object) -> bool:
    """Whether anything but metadata and status differs."""
    keys = (new.keys() | old.keys()) - {"metadata", "status", "apiVersion", "kind"}
    return any(new.get(key) != old.get(key) for key in keys)


def check_creation(kind: Kind, obj: Object) -> Iterator[FieldError]:
    metadata = obj["metadata"]
    check = getattr(names, kind.name_check)
    name = metadata.get("name")
    if not name:
        yield FieldError.required("metadata.name", "name or generateName is required")
    elif (problem := check(name)) is not None:
        yield FieldError.invalid("metadata.name", name, problem)
    if generate := metadata.get("generateName"):
        # What is cut off or added behind it must not matter: a trailing dash is fine here.
        shown = f"{generate[:_LONGEST_GENERATED]}a" if generate.endswith(("-", ".")) else generate[:_LONGEST_GENERATED]
        if (problem := check(shown)) is not None:
            yield FieldError.invalid("metadata.generateName", generate, problem)
    yield from _check(metadata)


def check_update(new: Object, old: Object) -> Iterator[FieldError]:
    metadata, before = new["metadata"], old["metadata"]
    if before.get("deletionTimestamp"):
        added = [name for name in metadata.get("finalizers") or () if name not in (before.get("finalizers") or ())]
        if added:
            shown = ", ".join(f'"{name}"' for name in added)
            yield FieldError.forbidden(
                "metadata.finalizers",
                "no new finalizers can be added if the object is being deleted, found new finalizers "
                f"[]string{{{shown}}}",
            )
    if any(
        metadata.get(field) != before.get(field) for field in ("labels", "annotations", "ownerReferences", "finalizers")
    ):
        yield from _check(metadata)


def _check(metadata: dict[str, Any]) -> Iterable[FieldError]:
    yield from check_labels(metadata.get("labels"), "metadata.labels")
    yield from check_annotations(metadata.get("annotations"), "metadata.annotations")
    yield from _check_owners(metadata.get("ownerReferences") or ())
    finalizers = metadata.get("finalizers") or ()
    for index, name in enumerate(finalizers):
        if (problem := names.qualified_name(name)) is not None:
            yield FieldError.invalid(f"metadata.finalizers[{index}]", name, problem)
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        detail = "finalizers orphan and foregroundDeletion cannot be both set"
        yield FieldError.invalid("metadata.finalizers", list(finalizers), detail)


def _check_owners(references: Iterable[dict[str, Any]]) -> Iterator[FieldError]:
    controllers = []
    for index, reference in enumerate(references):
        path = f"metadata.ownerReferences[{index}]"
        for field in ("apiVersion", "kind", "name", "uid"):
            if not reference.get(field):
                yield FieldError.invalid(f"{path}.{field}", reference.get(field, ""), "must not be empty")
        if (reference.get("apiVersion"), reference.get("kind")) == ("v1", "Event"):
            yield FieldError.invalid(path, reference, "/v1, Kind=Event is disallowed from being an owner")
        if reference.get("controller"):
            controllers.append(reference)
    if len(controllers) > 1:
        detail = (
            f'Only one reference can have Controller set to true. Found "true" in references for '
            f"{controllers[0]['kind']}/{controllers[0]['name']} and {controllers[1]['kind']}/{controllers[1]['name']}"
        )
        yield FieldError.invalid("metadata.ownerReferences", controllers, detail)
