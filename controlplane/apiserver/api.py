"""One handler for every request: who asks, may they, and which part answers; errors become a `Status` here only.

The order is Kubernetes': read the request, authenticate, authorize, then route by verb and subresource.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from aiohttp import web

from controlplane.apiserver import metrics, responses, tokenrequests
from controlplane.apiserver.answer import Answer
from controlplane.apiserver.apply import check_options, is_apply, read_apply
from controlplane.apiserver.audit import Auditor, Trail
from controlplane.apiserver.authentication import ANONYMOUS, Authenticator
from controlplane.apiserver.authorization import Attributes, Authorizer
from controlplane.apiserver.call import Call
from controlplane.apiserver.connections import WHEN_STARTED
from controlplane.apiserver.deadlines import Deadline, Deadlines
from controlplane.apiserver.decoding import conform, parse_body
from controlplane.apiserver.encoding import decode, dumps
from controlplane.apiserver.evictions import Evictor
from controlplane.apiserver.impersonation import impersonated
from controlplane.apiserver.listing import Lister
from controlplane.apiserver.managedfields import manager_of
from controlplane.apiserver.negotiation import negotiate
from controlplane.apiserver.patch import names_managers, parse_patch
from controlplane.apiserver.paths import Paths
from controlplane.apiserver.registry import Registry
from controlplane.apiserver.request import (
    ListOptions,
    Query,
    RequestInfo,
    delete_options,
    list_options,
    parse_query,
    parse_request,
    parse_revision,
    unsupported_resource,
    write_options,
)
from controlplane.apiserver.reviews import Reviewer
from controlplane.apiserver.streams import Streams
from controlplane.apiserver.subresources import SCALE, apply_scale, bind, scale_of, write_scale
from controlplane.apiserver.tokenrequests import TokenRequests
from controlplane.apiserver.views import shown, shown_listing, stored_kind, stored_options
from controlplane.apiserver.watchcache import WatchCache
from controlplane.apiserver.writes import Write
from controlplane.store.contract import StoreFull, StoreUnavailable, ValueTooLarge
from pyk.api.kinds import NAMESPACE, POD, Kind
from pyk.api.objects import Object
from pyk.api.status import (
    ApiError,
    bad_request,
    forbidden,
    internal_error,
    method_not_allowed,
    unavailable,
)
from pyk.reconcile.clock import Clock

REQUEST_SECONDS = 60.0
"""As kube-apiserver's --request-timeout; streams have their own."""
_OPTIONS_KINDS = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}
_MOST_FIELD = 200

log = logging.getLogger(__name__)


class Computed(Protocol):
    """Answers reads of kinds that are not stored. `warnings` go with each answer."""

    warnings: Sequence[str]

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """Raises 404."""

    async def list(self, kind: Kind, namespace: str, options: ListOptions) -> list[Object]:
        """Raises 400 for a selector that the kind does not have."""


class Api:
    """Answers requests. `handle` never raises but for a broken connection or cancellation."""

    def __init__(
        self,
        *,
        cache: WatchCache,
        lister: Lister,
        registry: Registry,
        authenticator: Authenticator,
        authorizer: Authorizer,
        streams: Streams,
        paths: Paths,
        reviewer: Reviewer,
        token_requests: TokenRequests,
        computed: Mapping[Kind, Computed],
        clock: Clock,
        auditor: Auditor | None = None,
    ) -> None:
        self._cache = cache
        self._lister = lister
        self._registry = registry
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._streams = streams
        self._paths = paths
        self._reviewer = reviewer
        self._token_requests = token_requests
        self._computed = computed
        self._clock = clock
        self._auditor = auditor
        self._deadlines = Deadlines(REQUEST_SECONDS)
        self._verbs: dict[str, Callable[[Call, Kind], Awaitable[web.StreamResponse]]] = {
            "get": self._get,
            "list": self._list,
            "watch": streams.watch,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        started = self._clock.monotonic()
        url = request.rel_url
        query = parse_query(url.raw_query_string)
        info = parse_request(request.method, url.raw_path, query)
        trail = self._auditor.begin(request, info) if self._auditor is not None else None
        with metrics.in_flight(info):
            response = await self._answer(request, info, query, trail)
        if trail is not None:
            await trail.finish(response)
        elapsed = self._clock.monotonic() - started if isinstance(response, Answer) else None
        metrics.observe(metrics.labels_of(info), response.status, "dryRun" in query, elapsed)
        return response

    async def _answer(
        self, request: web.Request, info: RequestInfo, query: Query, trail: Trail | None
    ) -> web.StreamResponse:
        try:
            asks = await self._authenticator.authenticate(request)
            user = impersonated(request.headers, asks, self._authorizer)
            call = Call(request, info, query, user)
            if trail is not None:
                trail.identified(asks, user)
            await self._authorize_now(call)
            if trail is not None:
                trail.allowed()
            if metrics.is_stream(info):
                if trail is not None:
                    request[WHEN_STARTED] = trail.started
                response = await self._route(call)
            else:
                with Deadline(self._deadlines):
                    response = await self._route(call)
        except ApiError as error:
            return self._failure(request, error)
        except TimeoutError:
            message = "Timeout: request did not complete within the allotted timeout"
            return self._failure(request, ApiError(504, "Timeout", message, retry_after_seconds=1))
        except StoreUnavailable as error:
            log.warning("%s %s: the store is out of reach: %s", request.method, info.path, error)
            if isinstance(error, StoreFull):  # trying again helps nobody: it is told at once, as kube-apiserver does
                return self._failure(request, internal_error(str(error)))
            return self._failure(request, unavailable("the store is out of reach at present"))
        except web.HTTPRequestEntityTooLarge:
            return self._failure(request, _too_large(request._client_max_size))
        except ValueTooLarge as error:
            return self._failure(request, _too_large(error.most))
        except RecursionError:
            return self._failure(request, bad_request("the document is nested too deeply"))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            log.exception("%s %s failed", request.method, info.path)
            if trail is not None:
                trail.panicked()
            return self._failure(request, internal_error(f"{type(error).__name__}: {error}"))
        if isinstance(response, Answer):
            responses.finish(request, response, query)
        return response

    def _failure(self, request: web.Request, error: ApiError) -> Answer:
        try:
            accepted = negotiate(request.headers.get("Accept", ""))
        except ApiError:
            accepted = negotiate("")
        response = responses.failure(error, accepted)
        responses.finish(request, response, parse_query(request.rel_url.raw_query_string))
        return response

    async def _authorize_now(self, call: Call) -> None:
        """Whether they may, by roles and bindings as they are: a refusal counts once the cache has caught up."""
        try:
            self._authorize(call)
        except ApiError:
            if call.user.name == ANONYMOUS.name:
                raise
            await self._cache.catch_up()
            self._authorize(call)

    def _authorize(self, call: Call) -> None:
        info = call.info
        reason = self._authorizer.decide(
            Attributes(
                user=call.user,
                verb=info.verb,
                group=info.group,
                version=info.version,
                resource=info.resource,
                subresource=info.subresource,
                namespace=info.namespace,
                name=info.name,
                path="" if info.is_resource else info.path,
                fields=info.fields,
            )
        )
        if reason is not None:
            if not info.is_resource:
                raise ApiError(403, "Forbidden", f"forbidden: {reason}")
            raise forbidden(info.group, info.resource, info.name, reason)

    async def _route(self, call: Call) -> web.StreamResponse:
        info, kind = call.info, call.info.kind
        if not info.is_resource:
            return await self._paths.answer(call)
        if kind is None:
            if (info.group, info.version, info.resource, info.verb) == ("", "v1", "bindings", "create"):
                return await self._create_binding(call, POD)
            raise unsupported_resource()
        if not kind.namespaced:
            if info.namespace and kind is not NAMESPACE:
                raise unsupported_resource()
            info.namespace = ""
        if info.subresource:
            return await self._subresource(call, kind)
        verb = self._verbs.get(info.verb)
        needs_namespace = info.verb in ("create", "deletecollection") and kind.namespaced and not info.namespace
        needs_name = info.verb in ("update", "patch") and not info.name
        is_refused = needs_namespace or needs_name or call.request.method == "HEAD"
        if verb is None or is_refused or info.verb not in kind.verbs:
            raise method_not_allowed()
        return await verb(call, kind)

    async def _get(self, call: Call, kind: Kind) -> web.StreamResponse:
        accepted = negotiate(call.accept)
        if kind.is_computed:
            found = await self._computed[kind].get(kind, call.info.namespace, call.info.name)
            answer = responses.one(kind, dumps(found), accepted, now=self._clock.time(), include=call.include)
            responses.add_warnings(answer, self._computed[kind].warnings)
            return answer
        versions = call.query.get("resourceVersion")
        version = parse_revision(versions[0]) if versions and versions[0] else None
        entry = await self._cache.get(stored_kind(kind), call.info.namespace, call.info.name, version)
        return responses.one(kind, shown(kind, entry.data), accepted, now=self._clock.time(), include=call.include)

    async def _list(self, call: Call, kind: Kind) -> web.StreamResponse:
        accepted = negotiate(call.accept)
        if kind.is_computed:
            items = await self._computed[kind].list(kind, call.info.namespace, list_options(call.query))
            answer = responses.computed(kind, items, accepted, now=self._clock.time(), include=call.include)
            responses.add_warnings(answer, self._computed[kind].warnings)
            return answer
        options = stored_options(kind, list_options(call.query))
        listing = await self._lister.list(stored_kind(kind), call.info.namespace, options)
        return responses.many(
            kind, shown_listing(kind, listing), accepted, now=self._clock.time(), include=call.include
        )

    async def _body(self, call: Call, kind: str) -> tuple[Object, list[str]]:
        return parse_body(await call.request.read(), call.request.headers.get("Content-Type", ""), kind)

    def _write(self, call: Call, kind: Kind) -> Write:
        info = call.info
        options = write_options(call.query, _OPTIONS_KINDS.get(info.verb, "DeleteOptions"))
        view = kind if kind.stored_as is not None else None
        return Write(
            call.user,
            stored_kind(kind),
            info.namespace,
            info.name,
            info.subresource,
            options,
            view=view,
            manager=options.field_manager or manager_of(call.request.headers.get("User-Agent", "")),
        )

    def _written(self, call: Call, write: Write, wire: bytes, status: int = 200) -> Answer:
        kind = write.view or write.kind
        response = responses.one(
            kind,
            shown(kind, wire),
            negotiate(call.accept),
            now=self._clock.time(),
            include=call.include,
            status=status,
        )
        responses.add_warnings(response, write.warnings)
        return response

    async def _create(self, call: Call, kind: Kind) -> web.StreamResponse:
        negotiate(call.accept)
        write = self._write(call, kind)
        if write.name:
            raise method_not_allowed()
        document, doubled = await self._body(call, kind.kind)
        _check_type(document, kind)
        if kind.is_question:
            document.pop("status", None)  # the answer's place: clients send it with empty fields
            question = self._registry.conform(write, document, doubled)
            answered = await self._reviewer.answer(call.user, kind, call.info.namespace, question)
            return self._written(call, write, dumps(answered), 201)
        return self._written(call, write, await self._registry.create(write, document, doubled), 201)

    async def _update(self, call: Call, kind: Kind) -> web.StreamResponse:
        write = self._write(call, kind)
        document, doubled = await self._body(call, kind.kind)
        _check_type(document, kind)
        try:
            wire = await self._registry.update(write, document, doubled)
        except ApiError as error:
            if error.code != 404 or not kind.creates_on_update or write.subresource:
                raise
            return await self._create_by_update(call, write, document, doubled)
        return self._written(call, write, wire)

    def _authorize_creation(self, call: Call) -> None:
        """Raises 403 `ApiError` when who asks to change an object may not create it."""
        self._authorize(replace(call, info=replace(call.info, verb="create")))

    async def _create_by_update(
        self, call: Call, write: Write, document: Object, doubled: list[str]
    ) -> web.StreamResponse:
        """Create what a PUT of a kind that allows it did not find; who asks must be allowed to create."""
        self._authorize_creation(call)
        metadata = document.get("metadata")
        if isinstance(metadata, dict):
            metadata.pop("resourceVersion", None)  # of the object that was there before
        return self._written(call, write, await self._registry.create(write, document, doubled), 201)

    async def _patch(self, call: Call, kind: Kind) -> web.StreamResponse:
        write = self._write(call, kind)
        body = await call.request.read()
        content_type = call.request.headers.get("Content-Type", "")
        applies = is_apply(content_type)
        check_options(write.options.field_manager, write.options.force, applies=applies)
        if applies:
            wire, is_new = await self._registry.apply(write, *read_apply(body), partial(self._authorize_creation, call))
            return self._written(call, write, wire, 201 if is_new else 200)
        patch = parse_patch(body, content_type, kind.model)
        wire = await self._registry.patch(write, patch, sees_managers=names_managers(body))
        return self._written(call, write, wire)

    async def _delete(self, call: Call, kind: Kind) -> web.StreamResponse:
        options = delete_options(call.query, await self._delete_body(call))
        write = self._write(call, kind)
        wire, _ = await self._registry.delete(write, options)
        return self._written(call, write, wire)

    async def _delete_collection(self, call: Call, kind: Kind) -> web.StreamResponse:
        options = delete_options(call.query, await self._delete_body(call))
        write = self._write(call, kind)
        write.name = ""
        query = stored_options(kind, list_options(call.query))
        listing = await self._lister.list(stored_kind(kind), call.info.namespace, query)
        await self._registry.delete_collection(write, listing.entries, options)
        accepted = negotiate(call.accept)
        return responses.many(
            kind, shown_listing(kind, listing), accepted, now=self._clock.time(), include=call.include
        )

    async def _delete_body(self, call: Call) -> Object:
        if not call.request.body_exists:
            return {}
        body = await call.request.read()
        if not body:
            return {}
        document, _ = parse_body(body, call.request.headers.get("Content-Type", ""), "DeleteOptions")
        if document.get("kind") not in (None, "", "DeleteOptions"):
            raise bad_request(f"the body of a delete is DeleteOptions, not {document['kind']}")
        return document

    async def _subresource(self, call: Call, kind: Kind) -> web.StreamResponse:
        info = call.info
        allowed = [*kind.subresources, *(["status"] if kind.has_status else []), *(["scale"] if kind.scale else [])]
        if info.subresource not in allowed:
            raise unsupported_resource()
        match info.subresource, info.verb:
            case "status" | "ephemeralcontainers" | "resize" | "approval", "get":
                return await self._get(call, kind)
            case "status" | "finalize" | "ephemeralcontainers" | "resize" | "approval", "update" | "patch":
                return await self._verbs[info.verb](call, kind)
            case "scale", "get":
                entry = await self._cache.get(kind, info.namespace, info.name)
                return self._scale(call, scale_of(kind, decode(entry.data)))
            case "scale", "update" | "patch":
                return await self._write_scale(call, kind)
            case "token", "create":
                return await self._create_token(call, kind)
            case "eviction", "create":
                return await self._evict(call, kind)
            case "binding", "create":
                return await self._create_binding(call, kind)
            case ("log", "get") | (("exec" | "attach" | "portforward"), ("get" | "create")):
                return await self._streams.pod_stream(call)
            case "proxy", _:
                return await self._streams.proxy(call, kind)
        raise method_not_allowed()

    async def _write_scale(self, call: Call, kind: Kind) -> web.StreamResponse:
        from pyk.api.apps import Scale

        write = self._write(call, kind)
        if call.info.verb == "update":
            document, doubled = await self._body(call, "Scale")
            scale = await write_scale(self._registry, write, lambda _: document, doubled)
        else:
            body = await call.request.read()
            content_type = call.request.headers.get("Content-Type", "")
            applies = is_apply(content_type)
            check_options(write.options.field_manager, write.options.force, applies=applies)
            if applies:
                document, doubled = read_apply(body)
                may_create = partial(self._authorize_creation, call)
                scale = await apply_scale(self._registry, write, document, doubled, may_create)
            else:
                patch = parse_patch(body, content_type, Scale)
                scale = await write_scale(self._registry, write, patch.apply)
        response = self._scale(call, scale)
        responses.add_warnings(response, write.warnings)
        return response

    def _scale(self, call: Call, scale: Object) -> Answer:
        accepted = negotiate(call.accept)
        return responses.one(SCALE, dumps(scale), accepted, now=self._clock.time(), include=call.include)

    async def _create_token(self, call: Call, kind: Kind) -> web.StreamResponse:
        from pyk.api.authentication import TokenRequest

        document, doubled = await self._body(call, tokenrequests.KIND)
        document.pop("status", None)
        write = self._write(call, kind)
        request, warnings = conform(
            TokenRequest,
            document,
            kind=tokenrequests.KIND,
            api_version=tokenrequests.GROUP_VERSION,
            field_validation=write.options.field_validation,
            doubled=doubled,
        )
        answer = await self._token_requests.answer(call.user, write.namespace, write.name, request)
        response = responses.document(answer, negotiate(call.accept), 201)
        responses.add_warnings(response, warnings)
        return response

    async def _evict(self, call: Call, kind: Kind) -> web.StreamResponse:
        document, doubled = await self._body(call, "Eviction")
        write = self._write(call, kind)
        await Evictor(self._registry, self._cache, self._clock).evict(write, document, doubled)
        response = responses.document(responses.success(code=201), negotiate(call.accept), 201)
        responses.add_warnings(response, write.warnings)
        return response

    async def _create_binding(self, call: Call, kind: Kind) -> web.StreamResponse:
        document, _ = await self._body(call, "Binding")
        write = self._write(call, kind)
        write.subresource = "binding"
        if not write.name:
            metadata = document.get("metadata")
            write.name = str(metadata.get("name") or "") if isinstance(metadata, dict) else ""
        await bind(self._registry, write, document, self._clock)
        return responses.document(responses.success(code=201), negotiate(call.accept), 201)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")


def _check_type(document: Object, kind: Kind) -> None:
    """The body's apiVersion and kind are the URL's, or left out. Raises 400."""
    version = document.get("apiVersion") or kind.api_version
    name = document.get("kind") or kind.kind
    if version != kind.api_version:
        raise bad_request(
            f"the API version in the data ({str(version)[:_MOST_FIELD]}) does not match the expected API version "
            f"({kind.api_version})"
        )
    if name != kind.kind:
        raise bad_request(
            f'{str(name)[:_MOST_FIELD]} in version "{kind.version}" cannot be handled as a {kind.kind}: '
            "the kind in the data does not match the expected kind"
        )
