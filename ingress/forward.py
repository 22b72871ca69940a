"""One request: its route, an endpoint, and the bodies in both directions.

Bodies are streamed, and a slow reader slows its writer down. An endpoint that cannot be connected to is replaced by
another, whatever the method: it has seen nothing of the request. One that breaks off before it answers is replaced too
if the method may be repeated (RFC 9110, section 9.2.2) and the body is still there: bodies up to `KEPT_BODY_BYTES` are
kept for that. Requests that may not be repeated always get a connection of their own, because a kept one may just be
closing.

Connections to endpoints are kept for `KEEP_SECONDS` of idleness. Answers of our own: 404 when no rule matches, 503 when
nobody is there to ask, 502 when nobody asked could answer, 504 when the backend was silent for too long.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from prometheus_client import Counter, Histogram
from yarl import URL

from ingress import tunnel
from ingress.endpoints import Balancer, Endpoint, Upstream
from ingress.headers import Asked, Headers, Network, is_trusted, to_backend, to_client
from ingress.routes import Backend, Route
from pyk.reconcile.clock import Clock
from pyk.reconcile.metrics import REGISTRY

log = logging.getLogger(__name__)

KEPT_BODY_BYTES = 64 << 10
CONNECT_SECONDS = 3.0
KEEP_SECONDS = 30.0
MOST_TRIES = 4
MOST_REQUESTS = 10_000
_CLIENT_GONE = 499
"""nginx's code for a client that did not wait; only logs and metrics see it."""
_REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
_SKIPPED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)

REQUESTS = Counter("ingress_requests", "Requests answered", ("ingress", "code"), registry=REGISTRY)
SECONDS = Histogram(
    "ingress_request_duration_seconds", "From a request to the end of its answer", buckets=_BUCKETS, registry=REGISTRY
)
RETRIES = Counter("ingress_retries", "Requests that another endpoint was asked for", registry=REGISTRY)

FindRoute = Callable[[str, str], Route | None]
FindUpstream = Callable[[Backend], Upstream]


class Failed(Exception):
    """The backend did not answer; `code` is what the client is told."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Answer(web.StreamResponse):
    """An answer whose headers are the backend's alone: aiohttp's own additions to them are taken back."""

    async def _prepare_headers(self) -> None:
        has_type, has_server = hdrs.CONTENT_TYPE in self.headers, hdrs.SERVER in self.headers
        await super()._prepare_headers()
        if not has_type:
            self.headers.popall(hdrs.CONTENT_TYPE, None)
        if not has_server:
            self.headers.popall(hdrs.SERVER, None)


class Body:
    """A request's body, which can be sent again as long as nothing of it was taken from the client's stream."""

    def __init__(self, request: web.BaseRequest, kept: bytes | None) -> None:
        self._request = request
        self._kept = kept
        self.is_touched = False

    @property
    def data(self) -> Any:
        """What aiohttp sends."""
        if not self._request.body_exists:
            return None
        return self._stream() if self._kept is None else self._kept

    async def _stream(self) -> AsyncIterator[bytes]:
        self.is_touched = True
        tunnel.invite_body(self._request)
        async for chunk in self._request.content.iter_any():
            yield chunk


class Forwarder:
    """Handles requests. `route` and `upstream` look into the tables of the moment."""

    def __init__(
        self,
        route: FindRoute,
        upstream: FindUpstream,
        clock: Clock,
        *,
        trusted: Sequence[Network] = (),
        tls_port: int = 443,
        logs_access: bool = False,
    ) -> None:
        self._route = route
        self._upstream = upstream
        self._clock = clock
        self._trusted = trusted
        self._tls_port = tls_port
        self._logs_access = logs_access
        self._balancer = Balancer(clock.monotonic, clock.random)
        self._kept = self._session(force_close=False)
        self._fresh = self._session(force_close=True)
        self._under_way = 0
        self.is_draining = False
        """Whether clients are told that their connections end with the answer."""

    @staticmethod
    def _session(*, force_close: bool) -> aiohttp.ClientSession:
        keeping: dict[str, Any] = {"force_close": True} if force_close else {"keepalive_timeout": KEEP_SECONDS}
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=_unverified(), **keeping),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_SKIPPED,
            max_field_size=32 << 10,
            max_line_size=32 << 10,
        )

    async def close(self) -> None:
        """Close idle connections to endpoints."""
        await self._kept.close()
        await self._fresh.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        began = self._clock.monotonic()
        route: Route | None = None
        self._under_way += 1
        try:
            if self._under_way > MOST_REQUESTS:
                raise Failed(503, "too many requests are under way")
            route = self._route(request.headers.get("Host", ""), _path_of(request))
            response = await self._answer(request, route)
        except Failed as failure:
            log.debug("%s %s: %s", request.method, request.path, failure)
            response = _plain(failure.code, str(failure))
        finally:
            self._under_way -= 1
        if self.is_draining:
            response.force_close()
        seconds = self._clock.monotonic() - began
        REQUESTS.labels(route.ingress if route is not None else "", str(response.status)).inc()
        SECONDS.observe(seconds)
        if self._logs_access:
            log.info(
                '%s "%s %s" %s %d %.1f ms',
                *(request.remote, request.method, request.raw_path, request.headers.get("Host", "-")),
                *(response.status, seconds * 1000),
            )
        return response

    async def _answer(self, request: web.BaseRequest, route: Route | None) -> web.StreamResponse:
        if route is None:
            raise Failed(404, "no rule of an Ingress matches this host and path")
        if route.redirects_to_tls and not self._came_by_tls(request):
            return self._redirect(request)
        if route.backend is None:
            raise Failed(503, f"the backend of ingress {route.ingress} is a resource, which is not served here")
        upstream = self._upstream(route.backend)
        if not upstream.endpoints:
            raise Failed(503, upstream.problem)
        headers = to_backend(request.headers, self._asked(request), trusts_peer=self._trusts(request))
        if tunnel.is_upgrade(request):
            return await self._tunnel(request, upstream, headers)
        kept = None
        if request.body_exists and (request.content_length or KEPT_BODY_BYTES + 1) <= KEPT_BODY_BYTES:
            tunnel.invite_body(request)
            kept = await request.read()
        return await self._pass_on(request, upstream, headers, Body(request, kept), route)

    async def _pass_on(
        self, request: web.BaseRequest, upstream: Upstream, headers: Headers, body: Body, route: Route
    ) -> web.StreamResponse:
        """Ask one endpoint after the other until one answers."""
        may_repeat = request.method in _REPEATABLE
        scheme = "https" if upstream.uses_tls else "http"
        tried: list[Endpoint] = []
        failure: Exception | None = None
        for endpoint in self._candidates(upstream, request, tried):
            self._balancer.begin(endpoint)
            session = self._kept if may_repeat and len(tried) == 1 else self._fresh
            try:
                async with session.request(
                    request.method,
                    URL(f"{scheme}://{endpoint.authority}{_target_of(request)}", encoded=True),
                    headers=headers,
                    data=body.data,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(
                        total=None, sock_connect=CONNECT_SECONDS, sock_read=route.read_seconds
                    ),
                ) as answer:
                    return await self._pass_back(request, answer)
            except _CANNOT_CONNECT as error:
                self._balancer.avoid(endpoint)
                failure = error
            except TimeoutError:
                raise Failed(504, "the backend did not answer in time") from None
            except (aiohttp.ClientError, OSError) as error:
                if _is_client_gone(request):
                    raise Failed(_CLIENT_GONE, "the client went away") from error
                failure = error
                if not may_repeat or body.is_touched:
                    break
            finally:
                self._balancer.end(endpoint)
            if body.is_touched:
                break
        raise Failed(502, "the backend cannot be reached") from failure

    def _candidates(self, upstream: Upstream, request: web.BaseRequest, tried: list[Endpoint]) -> Any:
        """Endpoints to ask, none twice, but the last one when it is the only one: a kept connection may have ended."""
        for number in range(MOST_TRIES):
            endpoint = self._balancer.choose(upstream, request.remote or "", tried)
            if endpoint is None:
                if number > 1 or not tried:
                    return
                endpoint = tried[-1]
            if number:
                RETRIES.inc()
            tried.append(endpoint)
            yield endpoint

    async def _pass_back(self, request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        """The backend's answer to the client. When it breaks off in the middle, so does ours."""
        response = Answer(status=answer.status, reason=answer.reason, headers=to_client(answer.headers))
        if self.is_draining:
            response.force_close()
        # From here on nothing can be asked again: the client may have read the beginning.
        try:
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.debug("the answer to %s %s broke off: %s", request.method, request.path, error)
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _tunnel(self, request: web.BaseRequest, upstream: Upstream, headers: Headers) -> web.StreamResponse:
        tried: list[Endpoint] = []
        context = _unverified() if upstream.uses_tls else None
        for endpoint in self._candidates(upstream, request, tried):
            self._balancer.begin(endpoint)
            try:
                opened = await tunnel.connect(endpoint.address, endpoint.port, context, CONNECT_SECONDS)
                return await tunnel.run(request, opened, _target_of(request), headers)
            except tunnel.Unreachable:
                self._balancer.avoid(endpoint)
            except tunnel.Broken as error:
                raise Failed(502, str(error)) from error
            finally:
                self._balancer.end(endpoint)
        raise Failed(502, "the backend cannot be reached")

    def _asked(self, request: web.BaseRequest) -> Asked:
        transport = request.transport
        port = transport.get_extra_info("sockname")[1] if transport is not None else 0
        return Asked(
            request.remote or "",
            request.scheme,
            request.headers.get("Host", ""),
            _shown_port(request.headers.get("Host", ""), request.scheme, port),
            f"{self._clock.random.getrandbits(128):032x}",
        )

    def _trusts(self, request: web.BaseRequest) -> bool:
        return is_trusted(request.remote or "", self._trusted)

    def _came_by_tls(self, request: web.BaseRequest) -> bool:
        told = request.headers.get("X-Forwarded-Proto", "") if self._trusts(request) else ""
        return (told or request.scheme) == "https"

    def _redirect(self, request: web.BaseRequest) -> web.StreamResponse:
        host = request.headers.get("Host", "")
        name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
        port = "" if self._tls_port == 443 else f":{self._tls_port}"
        return web.Response(status=308, headers={"Location": f"https://{name}{port}{_target_of(request)}"})


_CANNOT_CONNECT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


def _unverified() -> ssl.SSLContext:
    """TLS to a backend: pods have certificates that nobody has signed for their addresses."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _target_of(request: web.BaseRequest) -> str:
    """Path and query as the client sent them. Raises `Failed` for what is neither a path nor a URL."""
    target = request.raw_path
    if not target.startswith("/"):
        target = URL(target, encoded=True).raw_path_qs if "://" in target else ""
    if not target:
        raise Failed(400, "the target of the request is no path")
    return target


def _path_of(request: web.BaseRequest) -> str:
    return _target_of(request).partition("?")[0]


def _shown_port(host: str, scheme: str, port: int) -> int:
    """The port that the client connected to: the one in its Host header, or the scheme's."""
    text = host.rpartition(":")[2] if ":" in host and not host.endswith("]") else ""
    if text.isdigit():
        return int(text)
    return {"http": 80, "https": 443}.get(scheme, port)


def _is_client_gone(request: web.BaseRequest) -> bool:
    return request.transport is None or request.transport.is_closing()


def _plain(code: int, text: str) -> web.Response:
    return web.Response(status=code, text=f"{code}: {text}\n", headers={"Server": "pyk-ingress"})
