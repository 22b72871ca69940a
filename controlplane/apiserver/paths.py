"""Paths that are no resource: discovery, OpenAPI, health, metrics, and what verifies service account tokens."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import orjson

from controlplane.apiserver import discovery, metrics, responses
from controlplane.apiserver.answer import Answer
from controlplane.apiserver.call import Call
from controlplane.apiserver.health import Health
from controlplane.apiserver.tokens import IssuerDocuments
from controlplane.apiserver.watchcache import WatchCache
from pyk.api.kinds import TABLE
from pyk.api.status import method_not_allowed
from pyk.reconcile.metrics import exposition


class Paths:
    """Answers reads of everything outside of /api/VERSION and /apis/GROUP/VERSION."""

    def __init__(self, cache: WatchCache, health: Health, issuer_documents: IssuerDocuments) -> None:
        self._cache = cache
        self._health = health
        self._issuer_documents = issuer_documents

    async def answer(self, call: Call) -> Answer:
        """What is at the path. Raises 405 for anything but reads."""
        path = call.info.path
        if call.request.method not in ("GET", "HEAD"):
            raise method_not_allowed()
        if path == "/metrics":
            for cache in self._cache.kinds.values():
                metrics.OBJECTS.labels(cache.kind.group, cache.kind.plural).set(len(cache))
            return Answer(exposition(), media="text/plain; charset=utf-8")
        if self._health.serves(path):
            return await self._health.answer(path, call.query)
        if path.startswith("/openapi/"):
            return _known_by_hash(call, _openapi(path, call.accept))
        port = call.request.get_extra_info("sockname", ("", 0))[1]
        if (issued := self._issuer_documents.at(path, port)) is not None:
            return Answer(issued[0], media=issued[1])
        if path == "/":
            return Answer(_root())
        found = discovery.discovery_response(path.rstrip("/"), call.accept)
        if found is None:
            return responses.page_not_found()
        body, content_type = found
        answer = Answer(body, media=content_type)
        return _known_by_hash(call, answer) if content_type != discovery.JSON else answer


def _root() -> bytes:
    """What there is, as a list of paths."""
    groups = {kind.group for kind in TABLE if kind.group}
    versions = {f"{kind.group}/{kind.version}" for kind in TABLE if kind.group}
    paths = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/apis/", "/metrics"]
    paths += [f"/apis/{each}" for each in groups | versions]
    paths += ["/healthz", "/livez", "/readyz", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/version"]
    return orjson.dumps({"paths": sorted(paths)}, option=orjson.OPT_INDENT_2)


def _known_by_hash(call: Call, answer: Answer) -> Answer:
    """A document that clients keep: 304 without a body for one who has it, by its ETag. Each form has its own."""
    if answer.status != 200:
        return answer
    tag = _tag(answer.whole())
    if tag in [each.strip() for each in call.request.headers.get("If-None-Match", "").split(",")]:
        answer = Answer(b"", 304, answer.media)
    answer.headers["ETag"] = tag
    answer.headers["Vary"] = "Accept"
    return answer


@lru_cache(maxsize=64)
def _tag(document: bytes) -> str:
    return f'"{hashlib.sha512(document).hexdigest().upper()}"'


def _openapi(path: str, accept: str) -> Answer:
    # Builds the models' schemas, so not before someone asks.
    from controlplane.apiserver import openapi, openapi_proto

    body: bytes | None = None
    if path == "/openapi/v2":
        if "+protobuf" in accept:
            body = openapi.openapi_v2_protobuf()
            return Answer(body, media=openapi_proto.MEDIA_TYPE)
        body = openapi.openapi_v2()
    elif path.rstrip("/") == "/openapi/v3":
        body = openapi.openapi_v3_index()
    elif path.startswith("/openapi/v3/"):
        body = openapi.openapi_v3(path.removeprefix("/openapi/v3/"))
    if body is None:
        return responses.page_not_found()
    return Answer(body)
