"""Lists: which objects, as of which revision, in which pages.

A list without a limit, and the first page of one with a limit, come from the watch cache; later pages are of the same
revision, from the cache while nothing has changed since, else from the store's snapshot. A continue token names the
revision and the last key; when that revision has been compacted the answer is 410 with a token that goes on with the
present objects (an inconsistent list, as Kubernetes offers it). Source: the API concepts pages on chunking and on
resource versions.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from controlplane.apiserver.request import ListOptions, parse_revision
from controlplane.apiserver.watchcache import Entry, KindCache, WatchCache, make_entry, selection
from controlplane.store.contract import Compacted, FutureRevision, Store
from pyk.api.kinds import Kind
from pyk.api.status import ApiError, bad_request, expired

_INCONSISTENT = -1
_PAGE = 500
"""Keys read from the store at a time while a selector skips some."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The entries of one page, the revision they are of, and how to go on.

    `remaining` is None where Kubernetes does not tell (selectors, last page).
    """

    entries: Sequence[Entry]
    revision: int
    continue_token: str = ""
    remaining: int | None = None

    def metadata(self) -> dict[str, Any]:
        """The `ListMeta`."""
        found: dict[str, Any] = {"resourceVersion": str(self.revision)}
        if self.continue_token:
            found["continue"] = self.continue_token
        if self.remaining:
            found["remainingItemCount"] = self.remaining
        return found


class ExpiredContinue(ApiError):
    """410 for a continue token whose revision is gone; carries a token for the inconsistent rest."""

    def __init__(self, token: str) -> None:
        super().__init__(
            410,
            "Expired",
            "The provided continue parameter is too old to display a consistent list result. You can start a new list "
            "without the continue parameter, or use the continue token in this response to retrieve the remainder of "
            "the results. Continuing with the provided token results in an inconsistent list - objects that were "
            "created, modified, or deleted between the time the first chunk was returned and now may show up in the "
            "list.",
        )
        self.token = token

    def to_status(self) -> dict[str, Any]:
        return {**super().to_status(), "metadata": {"continue": self.token}}


def _token(revision: int, start: str) -> str:
    document = {"v": "meta.k8s.io/v1", "rv": revision, "start": start}
    return base64.urlsafe_b64encode(orjson.dumps(document)).decode().rstrip("=")


def _parse_token(token: str) -> tuple[int, str]:
    try:
        document = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        revision, start = document["rv"], document["start"]
    except (ValueError, binascii.Error, KeyError, TypeError):
        raise bad_request("invalid continue token: continue key is not valid: it was not made by this server") from None
    if not isinstance(revision, int) or not isinstance(start, str) or document.get("v") != "meta.k8s.io/v1":
        raise bad_request("invalid continue token: continue key is not valid: incorrect encoded start resourceVersion")
    return revision, start


class Lister:
    """Answers lists from the watch cache and the store."""

    def __init__(self, store: Store, cache: WatchCache) -> None:
        self._store = store
        self._cache = cache

    async def list(self, kind: Kind, namespace: str, options: ListOptions) -> Listing:
        """The objects of a namespace (all with an empty one). Raises 400, 410 and 504 `ApiError`."""
        cache = self._cache.of(kind)
        selects = selection(kind, options.labels, options.fields)
        if options.continue_token:
            return await self._continue(cache, namespace, options)
        wanted = parse_revision(options.resource_version)
        exact = options.resource_version_match == "Exact" or (
            bool(options.limit) and wanted > 0 and not options.resource_version_match
        )
        if not options.resource_version:
            await self._cache.catch_up()
        elif wanted > self._cache.revision:
            await self._cache.wait_for(wanted)
        if exact and cache.changed > wanted:
            return await self._snapshot(cache, namespace, options, wanted, "")
        revision = wanted if exact else self._cache.revision
        entries = cache.entries(namespace if kind.namespaced else "")
        if selects is None and not options.limit:
            return Listing(entries, revision)
        if selects is not None:
            entries = [entry for entry in entries if selects(entry)]
        return self._first_page(cache.kind, entries, revision, options)

    def _first_page(self, kind: Kind, entries: Sequence[Entry], revision: int, options: ListOptions) -> Listing:
        limit = options.limit
        if not limit or len(entries) <= limit:
            return Listing(entries, revision)
        page = entries[:limit]
        start = kind.storage_key(page[-1].namespace, page[-1].name)[len(kind.storage_prefix) :]
        remaining = None if options.has_selector else len(entries) - limit
        return Listing(page, revision, _token(revision, start), remaining)

    async def _continue(self, cache: KindCache, namespace: str, options: ListOptions) -> Listing:
        if options.resource_version and options.resource_version != "0":
            raise bad_request("specifying resource version is not allowed when using continue")
        revision, start = _parse_token(options.continue_token)
        if namespace and cache.kind.namespaced and not start.startswith(f"{namespace}/"):
            raise bad_request("invalid continue token: continue key is not valid: it belongs to another namespace")
        if revision == _INCONSISTENT:
            revision = await self._cache.catch_up()
        return await self._snapshot(cache, namespace, options, revision, start)

    async def _snapshot(
        self, cache: KindCache, namespace: str, options: ListOptions, revision: int, start: str
    ) -> Listing:
        """The page behind the key `start` as of a revision of the past."""
        kind = cache.kind
        root = kind.storage_prefix
        prefix = f"{root}{namespace}/" if namespace and kind.namespaced else root
        selects = selection(kind, options.labels, options.fields)
        found: list[Entry] = []
        after = f"{root}{start}" if start else None
        remaining = 1
        while remaining and (not options.limit or len(found) < options.limit):
            size = 0 if not options.limit else _PAGE if selects else options.limit
            try:
                page = await self._store.list(prefix, at=revision, after_key=after, limit=size)
            except Compacted:
                if start:
                    raise ExpiredContinue(_token(_INCONSISTENT, start)) from None
                raise expired(f"The resourceVersion for the provided list is too old: {revision}") from None
            except FutureRevision:
                raise bad_request(f"resourceVersion {revision} has not happened yet") from None
            remaining = page.remaining
            for position, stored in enumerate(page.entries):
                after = stored.key
                entry = make_entry(kind, stored.key, stored.value, stored.revision)
                if selects is None or selects(entry):
                    found.append(entry)
                    if options.limit and len(found) == options.limit:
                        remaining += len(page.entries) - position - 1
                        break
        if not remaining or after is None:
            return Listing(found, revision)
        token = _token(revision, after[len(root) :])
        return Listing(found, revision, token, None if options.has_selector else remaining)
