"""Paths that are no resource: discovery, OpenAPI, health, metrics, and what verifies service account tokens."""

from __future__ import annotations

from aiohttp import web

from controlplane.apiserver import discovery, metrics, responses
from controlplane.apiserver.call import Call
from controlplane.apiserver.health import Health
from controlplane.apiserver.tokens import IssuerDocuments
from controlplane.apiserver.watchcache import WatchCache
from pyk.api.status import ApiError
from pyk.reconcile.metrics import exposition


class Paths:
    """Answers reads of everything outside of /api/VERSION and /apis/GROUP/VERSION."""

    def __init__(self, cache: WatchCache, health: Health, issuer_documents: IssuerDocuments) -> None:
        self._cache = cache
        self._health = health
        self._issuer_documents = issuer_documents

    async def answer(self, call: Call) -> web.Response:
        """What is at the path. Raises 405 for anything but reads."""
        path = call.info.path
        if call.request.method not in ("GET", "HEAD"):
            raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        if path == "/metrics":
            for cache in self._cache.kinds.values():
                metrics.OBJECTS.labels(cache.kind.group, cache.kind.plural).set(len(cache))
            return web.Response(body=exposition(), content_type="text/plain", charset="utf-8")
        if self._health.serves(path):
            return await self._health.answer(path, call.query)
        if path.startswith("/openapi/"):
            return _openapi(path, call.accept)
        port = call.request.get_extra_info("sockname", ("", 0))[1]
        if (issued := self._issuer_documents.at(path, port)) is not None:
            return responses.plain(issued[0], content_type=issued[1])
        found = discovery.discovery_response(path.rstrip("/"), call.accept)
        if found is None:
            return web.Response(text="404 page not found\n", status=404)
        body, content_type = found
        return web.Response(body=body, headers={"Content-Type": content_type})


def _openapi(path: str, accept: str) -> web.Response:
    # Builds the models' schemas, so not before someone asks.
    from controlplane.apiserver import openapi, openapi_proto

    body: bytes | None = None
    if path == "/openapi/v2":
        if "+protobuf" in accept:
            body = openapi.openapi_v2_protobuf()
            return web.Response(body=body, headers={"Content-Type": openapi_proto.MEDIA_TYPE})
        body = openapi.openapi_v2()
    elif path.rstrip("/") == "/openapi/v3":
        body = openapi.openapi_v3_index()
    elif path.startswith("/openapi/v3/"):
        body = openapi.openapi_v3(path.removeprefix("/openapi/v3/"))
    if body is None:
        return web.Response(text="404 page not found\n", status=404)
    return responses.plain(body)
