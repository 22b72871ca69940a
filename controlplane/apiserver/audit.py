"""The audit log's events: who asked for what, when, from where, and what came of it, stage by stage.

`Auditor.begin` gives each request a `Trail`, which the request's handling tells of what becomes known: who it is, that
it is allowed, that a stream has begun, the answer. From the policy's verdict on, the trail writes an event
(audit.k8s.io/v1) at each stage that is not left out. Every request gets an `Audit-ID`, its own or the client's, which
the answer's header names. Source: apiserver `pkg/audit` and `pkg/endpoints/filters/audit.go`.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Callable
from typing import Any

import orjson
import yaml
from aiohttp import web

from controlplane.apiserver.answer import Answer
from controlplane.apiserver.auditpolicy import API_VERSION, Level, Policy, Verdict
from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.decoding import parse_body
from controlplane.apiserver.metrics import is_stream
from controlplane.apiserver.request import RequestInfo
from controlplane.apiserver.reviews import user_document
from pyk.api.objects import Object
from pyk.api.status import ApiError
from pyk.reconcile.clock import Clock, micro_timestamp

HEADER = "Audit-ID"
_WITH_BODY = ("create", "update", "patch", "delete", "deletecollection")
_LONGEST_ID = 64
_SMALL_BYTES = 1024
_DECISION = "authorization.k8s.io/decision"


class Auditor:
    """Logs by a policy; `write` takes one event as a line of JSON without its end."""

    def __init__(self, policy: Policy, write: Callable[[bytes], None], clock: Clock) -> None:
        self.policy = policy
        self.write = write
        self.clock = clock

    def begin(self, request: web.Request, info: RequestInfo) -> Trail:
        """The trail of a request that has just come in."""
        return Trail(self, request, info)


class Trail:
    """What is logged of one request."""

    def __init__(self, auditor: Auditor, request: web.Request, info: RequestInfo) -> None:
        self._auditor = auditor
        self._request = request
        self._info = info
        self._received = auditor.clock.time()
        self._verdict: Verdict | None = None
        self._annotations: dict[str, str] = {}
        given = request.headers.get(HEADER, "")
        self.id = given[:_LONGEST_ID] or str(uuid.UUID(int=auditor.clock.random.getrandbits(128), version=4))
        self._event: dict[str, Any] = {}
        self._has_started = not is_stream(info)
        self._last_stage = "ResponseComplete"

    def identified(self, user: UserInfo, acts_as: UserInfo) -> None:
        """It is known who asks, and as whom: the request counts as the latter's."""
        self._verdict = self._auditor.policy.verdict(user, self._info)
        if self._verdict.level is Level.NONE:
            return
        self._event = self._first_event(user)
        if acts_as is not user:
            self._event["impersonatedUser"] = user_document(acts_as)
        self._emit("RequestReceived")

    def allowed(self) -> None:
        """They may."""
        self._annotations[_DECISION] = "allow"

    def started(self, code: int) -> None:
        """The head of a stream is on its way."""
        self._has_started = True
        self._event["responseStatus"] = {"metadata": {}, "code": code}
        self._emit("ResponseStarted")

    def panicked(self) -> None:
        """It ended in an error of ours, which the answer tells."""
        self._last_stage = "Panic"

    async def finish(self, response: web.StreamResponse) -> None:
        """The answer is known, and is sent next; that of a stream has been."""
        if not response.prepared:  # the head of a stream is gone already
            response.headers[HEADER] = self.id
        if self._verdict is None:  # nobody knows who it was
            nobody = UserInfo("")
            self._verdict = Verdict(Level.METADATA)
            self._event = {**self._first_event(nobody), "user": {}}
        verdict = self._verdict
        if verdict.level is Level.NONE:
            return
        if not self._has_started:  # a stream that was refused has a head all the same
            self.started(response.status)
        is_whole = verdict.level is Level.REQUEST_RESPONSE or response.status >= 400 or _is_small(response)
        document = _document(response) if is_whole else None
        if response.status == 403 and not self._annotations:
            self._annotations[_DECISION] = "forbid"
        self._event["responseStatus"] = _status_of(response.status, document)
        if verdict.level >= Level.REQUEST and self._info.verb in _WITH_BODY and self._info.is_resource:
            await self._add_request_object()
        if verdict.level is Level.REQUEST_RESPONSE and document is not None and self._info.is_resource:
            self._event["responseObject"] = self._shown(document)
        self._emit(self._last_stage)

    def _first_event(self, user: UserInfo) -> dict[str, Any]:
        info, request = self._info, self._request
        level = self._verdict.level if self._verdict is not None else Level.METADATA
        event: dict[str, Any] = {
            "kind": "Event",
            "apiVersion": API_VERSION,
            "level": level.word,
            "auditID": self.id,
            "requestURI": request.rel_url.raw_path_qs,
            "verb": info.verb,
            "user": user_document(user),
            "sourceIPs": [request.remote or ""],
            "userAgent": request.headers.get("User-Agent", "")[:1024],
        }
        if info.is_resource:
            reference = {
                "resource": info.resource,
                "namespace": info.namespace,
                "name": info.name,
                "apiGroup": info.group,
                "apiVersion": info.version,
                "subresource": info.subresource,
            }
            event["objectRef"] = {key: value for key, value in reference.items() if value}
        event["requestReceivedTimestamp"] = micro_timestamp(self._received)
        return event

    async def _add_request_object(self) -> None:
        try:
            body = await self._request.read()
            if body:
                self._event["requestObject"] = self._shown(_sent(body, self._request.headers.get("Content-Type", "")))
        except (ApiError, ValueError, yaml.YAMLError, web.HTTPException, ConnectionError):
            return  # what cannot be read was refused, which the status tells

    def _shown(self, document: Any) -> Any:
        if self._verdict is None or not self._verdict.omit_managed_fields or not isinstance(document, dict):
            return document
        items = document.get("items")
        if isinstance(items, list):
            return {**document, "items": [_without_managers(item) for item in items]}
        return _without_managers(document)

    def _emit(self, stage: str) -> None:
        if self._verdict is None or self._verdict.level is Level.NONE or stage in self._verdict.omit_stages:
            return
        event = {
            **self._event,
            "stage": stage,
            "stageTimestamp": micro_timestamp(self._auditor.clock.time()),
            **({"annotations": self._annotations} if self._annotations else {}),
        }
        self._auditor.write(orjson.dumps(event))


def _sent(body: bytes, content_type: str) -> Any:
    """The document or patch in a request's body. Raises `ApiError`, ValueError and YAMLError for what is none."""
    if "-patch+" not in content_type:
        return parse_body(body, content_type, "")[0]
    return yaml.safe_load(body) if "yaml" in content_type else orjson.loads(body)


def _is_small(response: web.StreamResponse) -> bool:
    """Whether the answer may be a `Status` of success: nothing else is read for its status."""
    return isinstance(response, Answer) and response.length <= _SMALL_BYTES


def _document(response: web.StreamResponse) -> Object | None:
    """The object in an answer; None when there is none."""
    if not isinstance(response, Answer) or not response.media.startswith("application/json"):
        return None
    body = response.whole()
    try:
        whole = zlib.decompress(body, 31) if response.headers.get("Content-Encoding") == "gzip" else body
        document = orjson.loads(whole)
    except (ValueError, zlib.error):
        return None
    return document if isinstance(document, dict) else None


def _status_of(code: int, document: Object | None) -> dict[str, Any]:
    if document is None or document.get("kind") != "Status":
        return {"metadata": {}, "code": code}
    return {**{key: document[key] for key in document if key not in ("kind", "apiVersion")}, "code": code}


def _without_managers(document: Any) -> Any:
    if not isinstance(document, dict) or "managedFields" not in (document.get("metadata") or {}):
        return document
    metadata = {key: value for key, value in document["metadata"].items() if key != "managedFields"}
    return {**document, "metadata": metadata}
