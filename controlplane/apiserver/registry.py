"""Writes: create, update, patch and delete of any kind, from a decoded document to the store and back as bytes.

Every write is: place and identity, defaults, admission, what the kind prepares, validation, the node restriction, one
compare-and-swap. A write that changes an object is a function from the present object to the new one (`modify`), so it
can be computed again when it lost a race. The present object comes from the watch cache, which may be a moment behind:
whatever is decided from it against the client (an error, "nothing to change") is decided again from a fresh read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

from controlplane.apiserver import managedfields
from controlplane.apiserver.admission_chain import Admission, Review
from controlplane.apiserver.apply import Applier, apply, configuration
from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.authorization import Authorizer
from controlplane.apiserver.decoding import WrongType, conform
from controlplane.apiserver.deletion import check_preconditions, deleted_status, is_held, meets, plan_deletion
from controlplane.apiserver.encoding import decode, dumps, encode, splice
from controlplane.apiserver.event_leases import EventLeases
from controlplane.apiserver.metadata import (
    MODIFIED,
    check_creation,
    check_update,
    is_spec_changed,
    place,
    prepare_creation,
    prepare_update,
)
from controlplane.apiserver.patch import Patch
from controlplane.apiserver.request import DeleteOptions
from controlplane.apiserver.schema import empty_status
from controlplane.apiserver.views import shown_form, stored_form
from controlplane.apiserver.watchcache import Entry, WatchCache, make_entry
from controlplane.apiserver.writes import Allocation, Compute, Write
from controlplane.store.contract import Conflict, KeyExists, Store, ValueTooLarge
from pyk.api.kinds import EVENT, NODE, Kind
from pyk.api.objects import Object
from pyk.api.rules.warnings import warnings_of
from pyk.api.status import ApiError, FieldError, already_exists, bad_request, conflict, invalid, not_found
from pyk.reconcile.clock import Clock, timestamp

_GENERATED_NAME_TRIES = 8
_MODIFY_TRIES = 100
_DELETES_AT_ONCE = 16


class Registry:
    """All kinds' writes."""

    def __init__(
        self, store: Store, cache: WatchCache, clock: Clock, authorizer: Authorizer, admission: Admission
    ) -> None:
        self._store = store
        self._cache = cache
        self._clock = clock
        self._authorizer = authorizer
        self._admission = admission
        self._event_leases = EventLeases(store, clock)
        self._allocations: dict[Kind, Allocation] = {}

    def allocate_with(self, kind: Kind, allocation: Allocation) -> None:
        """Let writes of a kind take what they need there."""
        self._allocations[kind] = allocation

    async def create(
        self,
        write: Write,
        document: Object,
        doubled: Sequence[str] = (),
        managers: list[managedfields.Entry] | None = None,
    ) -> bytes:
        """Create an object; its wire form. Raises 400, 403, 404, 409 and 422 `ApiError`.

        `managers` are its `managedFields`; None for all fields being the writer's.
        """
        kind = write.kind
        for attempt in range(_GENERATED_NAME_TRIES):
            obj = self.conform(write, document, doubled)
            metadata = obj.setdefault("metadata", {})
            place(kind, metadata, write.namespace, write.name)
            is_generated = not metadata.get("name") and bool(metadata.get("generateName"))
            prepare_creation(kind, metadata, self._clock)
            name = metadata.get("name") or ""
            try:
                await self._finish_creation(write, obj, managers)
                key = kind.storage_key(write.namespace, name)
                stored = encode(obj)
                if not write.options.dry_run:
                    self._cache.of(kind).expect(stored, obj)
                    return splice(stored, await self._store.create(key, stored, lease=await self._lease_for(kind)))
                if await self._read(kind, write.namespace, name) is None:
                    return dumps(obj)
            except (ApiError, ValueTooLarge):
                await _give_back(write)
                raise
            except KeyExists:
                await _give_back(write)
            if not is_generated or attempt == _GENERATED_NAME_TRIES - 1:
                break
        raise already_exists(kind.group, kind.plural, name)

    async def _finish_creation(self, write: Write, obj: Object, managers: list[managedfields.Entry] | None) -> None:
        kind, rules = write.kind, write.kind.rules
        if kind.has_status and kind is not NODE:  # a node registers itself with its status
            obj["status"] = dict(empty_status(kind.model))  # never missing: clients read its fields without asking
        rules.default(obj)
        if managers is None:
            now = obj["metadata"]["creationTimestamp"]
            managers = managedfields.of_creation(kind, obj, write.manager, write.subresource, now)
        await self._review(write, obj, None)
        rules.prepare(obj, None)
        errors = [*check_creation(kind, obj), *rules.validate(obj, None), *_check_view(write, obj, None)]
        if errors:
            raise invalid(kind.group, kind.kind, obj["metadata"].get("name") or "", errors)
        self._authorizer.check_write(write.user, kind, None, obj, write.subresource)
        if allocation := self._allocations.get(kind):
            await allocation.take(write, obj, None)
        write.warn(list(warnings_of(kind.kind, obj, None)))
        if managers:
            obj["metadata"]["managedFields"] = managers

    async def _review(self, write: Write, obj: Object | None, old: Object | None) -> None:
        operation: Literal["CREATE", "UPDATE", "DELETE"] = (
            "CREATE" if old is None else "UPDATE" if obj is not None else "DELETE"
        )
        name = (obj or old or {})["metadata"].get("name") or write.name
        await self._admission.review(
            Review(
                operation,
                write.user,
                write.kind,
                write.namespace,
                name,
                write.subresource,
                obj,
                old,
                write.options.dry_run,
                write.warnings,
                write.give_back,
            )
        )

    def conform(
        self, write: Write, document: Object, doubled: Sequence[str] = (), *, old: Object | None = None
    ) -> Object:
        """The document as its model has it, with the kind's own type fields. `old` is the object that it changes."""
        kind = write.view or write.kind
        obj, warnings = conform(
            kind.model,
            document,
            kind=kind.kind,
            api_version=kind.api_version,
            field_validation=write.options.field_validation,
            doubled=doubled,
            is_new=old is None,
            stored=old if write.view is None else None,
            also_wrong=partial(self._wrong_with, write) if old is None else None,
        )
        write.warn(warnings)
        obj["kind"], obj["apiVersion"] = kind.kind, kind.api_version
        return stored_form(kind, obj)

    def _wrong_with(self, write: Write, obj: Object) -> list[FieldError]:
        """What the rules of its kind say of an object to be created in which required fields have zero values."""
        kind, shown = write.kind, write.view or write.kind
        obj["kind"], obj["apiVersion"] = shown.kind, shown.api_version
        obj = stored_form(shown, obj)
        metadata = obj.setdefault("metadata", {})
        place(kind, metadata, write.namespace, write.name)
        prepare_creation(kind, metadata, self._clock)
        kind.rules.default(obj)
        kind.rules.prepare(obj, None)
        return [*check_creation(kind, obj), *kind.rules.validate(obj, None), *_check_view(write, obj, None)]

    async def update(self, write: Write, document: Object, doubled: Sequence[str] = ()) -> bytes:
        """Replace an object, or the part of it that is the subresource; its wire form."""
        metadata = document.get("metadata") or {}
        if isinstance(metadata, dict):
            if not metadata.get("name"):
                cause = "undeterminable: name must be provided"
                raise bad_request(f"the name of the object ({write.name} based on URL) was {cause}")
            place(write.kind, dict(metadata), write.namespace, write.name)  # wrong whether the object is there or not

        async def compute(old: Object) -> Object:
            obj = self.conform(write, document, doubled, old=old)
            place(write.kind, obj.setdefault("metadata", {}), write.namespace, write.name)
            return await self.finish_update(write, obj, old)

        return await self.modify(write, compute)

    async def patch(self, write: Write, patch: Patch, *, sees_managers: bool = True) -> bytes:
        """Patch an object, or the part of it that is the subresource; its wire form.

        A patch that leaves `managedFields` alone need not see them, which spares copying and checking them.
        """

        async def compute(old: Object) -> Object:
            managers = None if sees_managers else old["metadata"].pop("managedFields", None)
            patched = patch.apply(shown_form(write.view or write.kind, old))
            if managers is not None:
                old["metadata"]["managedFields"] = managers
            try:
                obj = self.conform(write, patched, old=old)
            except WrongType as error:
                problem = FieldError.invalid("patch", *patch.blamed(patched, error))
                raise invalid("", "", "", [problem]) from None
            except ApiError as error:
                if error.code != 400:
                    raise
                reason = error.message.partition(" cannot be handled as a ")[2].partition(": ")[2] or error.message
                problem = FieldError("patch", "FieldValueInvalid", f"Invalid value: {reason}")
                raise invalid("", "", "", [problem]) from None
            metadata = obj.setdefault("metadata", {})
            if (name := metadata.get("name")) and name != write.name:
                problem = FieldError.invalid("metadata.name", name, "field is immutable")
                raise invalid(write.kind.group, write.kind.kind, name, [problem])
            place(write.kind, metadata, write.namespace, write.name)
            return await self.finish_update(write, obj, old)

        return await self.modify(write, compute)

    async def apply(
        self, write: Write, document: Object, doubled: Sequence[str], may_create: Callable[[], None]
    ) -> tuple[bytes, bool]:
        """Apply a configuration (`apply.py`): the object's wire form, and whether it was created.

        `may_create` raises when the user may not. Raises 400, 403, 404, 409 and 422 `ApiError`.
        """
        kind = write.view or write.kind
        applied = configuration(kind, document, write.subresource)
        applier = Applier(write.manager, write.subresource, bool(write.options.force), timestamp(self._clock.time()))

        async def compute(old: Object) -> Object:
            version = applied["metadata"].get("resourceVersion")
            if version and version != old["metadata"]["resourceVersion"]:  # conflicts would tell of another object
                raise conflict(kind.group, kind.plural, write.name, MODIFIED)
            managers = old["metadata"].pop("managedFields", [])
            new, after = apply(kind, shown_form(kind, old), managers, applied, applier)
            obj = self.conform(write, decode(dumps(new)), doubled, old=old)
            place(write.kind, obj.setdefault("metadata", {}), write.namespace, write.name)
            old["metadata"]["managedFields"] = managers
            return await self.finish_update(write, obj, old, after)

        for _ in range(_MODIFY_TRIES):
            try:
                return await self.modify(write, compute), False
            except ApiError as error:
                if error.reason != "NotFound" or write.subresource:
                    raise
            may_create()
            if uid := applied["metadata"].get("uid"):
                detail = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                raise conflict(kind.group, kind.plural, write.name, detail)
            new, after = apply(kind, None, [], applied, applier)
            try:
                return await self.create(write, decode(dumps(new)), doubled, after), True
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
        raise conflict(kind.group, kind.plural, write.name, MODIFIED)

    async def finish_update(
        self, write: Write, new: Object, old: Object, managers: list[managedfields.Entry] | None = None
    ) -> Object:
        """The new state of an object as it may be stored, from what a client wants it to be. Raises `ApiError`.

        `managers` are its new `managedFields`; None for what changed being the writer's.
        """
        kind, rules = write.kind, write.kind.rules
        present = old["metadata"].pop("managedFields", [])
        given = new["metadata"].pop("managedFields", None)
        is_part = write.subresource in ("status", "finalize", "approval")
        part = rules.parts.get(write.subresource)
        if part is not None:
            version = new["metadata"].get("resourceVersion")
            new = part.take(new, old)
            new["metadata"] = {**old["metadata"], **({"resourceVersion": version} if version else {})}
        elif is_part:
            new = _only_subresource(write.subresource, new, old)
            if write.subresource == "status":
                rules.prepare_status(new, old)
        elif kind.has_status:
            if "status" in old:
                new["status"] = old["status"]
            else:
                new.pop("status", None)
        prepare_update(kind, new, old)
        if not is_part:
            rules.default(new)
        if managers is None:
            before = present if write.subresource else managedfields.given(given, present)
            now = timestamp(self._clock.time())
            managers = managedfields.of_update(kind, before, old, new, write.manager, write.subresource, now)
        await self._review(write, new, old)
        if not is_part:
            rules.prepare(new, old)
            if kind.has_generation and is_spec_changed(new, old):
                new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        check = rules.validate_status if write.subresource == "status" else part.validate if part else rules.validate
        errors: list[FieldError] = [*check_update(new, old), *check(new, old), *_check_view(write, new, old)]
        if given:
            errors.extend(managedfields.check(managers))
        if errors:
            raise invalid(kind.group, kind.kind, write.name, errors)
        self._authorizer.check_write(write.user, kind, old, new, write.subresource)
        if not is_part and (allocation := self._allocations.get(kind)):
            await allocation.take(write, new, old)
        if not write.subresource:
            write.warn(list(warnings_of(kind.kind, new, old)))
        if new == old and managedfields.without_times(managers) == managedfields.without_times(present):
            managers = present  # a time alone is no change
        if managers:
            new["metadata"]["managedFields"] = managers
        return new

    async def modify(self, write: Write, compute: Compute) -> bytes:
        """Change an object by a function of it; its wire form. A change that changes nothing writes nothing.

        Raises what `compute` raises, 404, and 409 when other writers win again and again.
        """
        kind = write.kind
        key = kind.storage_key(write.namespace, write.name)
        entry, is_fresh = self._cached(kind, write.namespace, write.name), False
        for _ in range(_MODIFY_TRIES):
            if entry is None:
                if is_fresh:
                    raise not_found(kind.group, kind.plural, write.name)
                entry, is_fresh = await self._read(kind, write.namespace, write.name), True
                continue
            try:
                new = await compute(decode(entry.data))
            except ApiError:
                await _give_back(write)
                # Right or wrong by an old state is no answer: only a fresh one decides.
                if is_fresh:
                    raise
                present, is_fresh = await self._read(kind, write.namespace, write.name), True
                if present is not None and present.revision == entry.revision:
                    raise
                entry = present
                continue
            if new == decode(entry.data):
                if is_fresh:
                    return entry.data
                present, is_fresh = await self._read(kind, write.namespace, write.name), True
                if present is not None and present.revision == entry.revision:
                    return entry.data
                entry = present
                continue
            if write.options.dry_run:
                return dumps(new)
            try:
                wire = await self._write(kind, key, new, entry.revision)
                await self._settle(kind, entry.data, new)
                return wire
            except ValueTooLarge:
                await _give_back(write)
                raise
            except Conflict as error:
                await _give_back(write)
                current, is_fresh = error.current, True
                entry = make_entry(kind, key, current.value, current.revision) if current is not None else None
        raise conflict(kind.group, kind.plural, write.name, MODIFIED)

    async def _write(self, kind: Kind, key: str, new: Object, expected: int) -> bytes:
        """Swap in the new state, or remove an object whose last finalizer went away while it was being deleted."""
        stored = encode(new)
        if new["metadata"].get("deletionTimestamp") and not is_held(kind, new):
            return splice(stored, await self._store.delete(key, expected))
        self._cache.of(kind).expect(stored, new)
        return splice(stored, await self._store.update(key, stored, expected, lease=await self._lease_for(kind)))

    async def delete(self, write: Write, options: DeleteOptions) -> tuple[bytes, bool]:
        """Delete an object, or begin to: its wire form (or a `Status`), and whether it is gone.

        Raises 404, 403 and 409 `ApiError`.
        """
        kind = write.kind
        key = kind.storage_key(write.namespace, write.name)
        entry, is_fresh = self._cached(kind, write.namespace, write.name), False
        is_reviewed = False
        for _ in range(_MODIFY_TRIES):
            if entry is None or not (is_fresh or meets(options, entry)):
                if entry is None and is_fresh:
                    raise not_found(kind.group, kind.plural, write.name)
                entry, is_fresh = await self._read(kind, write.namespace, write.name), True
                continue
            old = decode(entry.data)
            check_preconditions(kind, old, options)
            if not is_reviewed:
                await self._review(write, None, old)
                self._authorizer.check_write(write.user, kind, old, None, "")
                is_reviewed = True
            action, new = plan_deletion(kind, old, options, self._clock.time())
            is_told_by_status = action == "remove" and not kind.returned_when_deleted
            if options.dry_run:
                return dumps(deleted_status(kind, old) if is_told_by_status else new), action == "remove"
            try:
                if action == "remove":
                    stored = encode(new)
                    wire = splice(stored, await self._store.delete(key, entry.revision))
                    await self._settle(kind, entry.data, None)
                    return (dumps(deleted_status(kind, old)) if is_told_by_status else wire), True
                if action == "mark":
                    stored = encode(new)
                    revision = await self._store.update(key, stored, entry.revision, lease=await self._lease_for(kind))
                    return splice(stored, revision), False
                if is_fresh:
                    return entry.data, False
                entry, is_fresh = await self._read(kind, write.namespace, write.name), True
            except Conflict as error:
                current, is_fresh = error.current, True
                entry = make_entry(kind, key, current.value, current.revision) if current is not None else None
        raise conflict(kind.group, kind.plural, write.name, MODIFIED)

    async def _settle(self, kind: Kind, old: bytes, new: Object | None) -> None:
        if allocation := self._allocations.get(kind):
            is_gone = new is None or (bool(new["metadata"].get("deletionTimestamp")) and not is_held(kind, new))
            await allocation.settle(decode(old), None if is_gone else new)

    async def delete_collection(self, write: Write, entries: Sequence[Entry], options: DeleteOptions) -> None:
        """Delete every one of the objects; one that is gone already is fine."""
        gate = asyncio.Semaphore(_DELETES_AT_ONCE)

        async def delete_one(entry: Entry) -> None:
            one = Write(write.user, write.kind, entry.namespace, entry.name, options=write.options)
            async with gate:
                try:
                    await self.delete(one, options)
                except ApiError as error:
                    if error.code != 404:
                        raise

        results = await asyncio.gather(*map(delete_one, entries), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _cached(self, kind: Kind, namespace: str, name: str) -> Entry | None:
        return self._cache.of(kind).get(namespace if kind.namespaced else "", name)

    async def _read(self, kind: Kind, namespace: str, name: str) -> Entry | None:
        """The object as of now."""
        key = kind.storage_key(namespace, name)
        found = await self._store.get(key)
        return make_entry(kind, key, found.value, found.revision) if found is not None else None

    async def _lease_for(self, kind: Kind) -> int:
        return await self._event_leases.current() if kind is EVENT else 0

    async def ensure(self, user: UserInfo, objects: Iterable[tuple[Kind, Object]]) -> None:
        """Create the objects that a cluster begins with, where they are missing."""
        for kind, obj in objects:
            metadata = obj["metadata"]
            namespace = metadata.get("namespace") or ""
            if await self._read(kind, namespace, metadata["name"]) is None:
                try:
                    await self.create(Write(user, kind, namespace), obj)
                except ApiError as error:
                    if error.reason != "AlreadyExists":
                        raise


async def _give_back(write: Write) -> None:
    """Undo what admission took for a write that has not happened."""
    while write.give_back:
        await write.give_back.pop()()


def _check_view(write: Write, obj: Object, old: Object | None) -> Iterable[FieldError]:
    """What a view asks of stored objects that are written through it."""
    return write.view.rules.validate(obj, old) if write.view is not None else ()


def _only_subresource(subresource: str, new: Object, old: Object) -> Object:
    """The old object with the subresource's part of the new one, and of its metadata what clients own."""
    result = dict(old)
    result["metadata"] = dict(new["metadata"])
    owners = old["metadata"].get("ownerReferences")
    if owners is not None:
        result["metadata"]["ownerReferences"] = owners
    else:
        result["metadata"].pop("ownerReferences", None)
    if subresource == "finalize":
        finalizers = (new.get("spec") or {}).get("finalizers") or []
        result["spec"] = {**(old.get("spec") or {}), "finalizers": finalizers}
    elif subresource == "approval":
        conditions = (new.get("status") or {}).get("conditions") or []
        result["status"] = {**(old.get("status") or {}), "conditions": conditions}
    elif new.get("status") is not None:
        result["status"] = new["status"]
    else:
        result.pop("status", None)
    return result
