"""The node API: what the API server asks of this node on behalf of people, and Prometheus by itself. HTTPS.

Every request is authenticated and authorised (agent/access.py): the API server's own certificate may everything, others
what a SubjectAccessReview says. Errors are plain text with the kubelet's status codes. A client that goes away ends its
handler.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import orjson
from aiohttp import web

from agent import portforward, streams
from agent.access import Access, Refused
from agent.logs import LogOptions, read_log
from agent.metricspages import MetricsPages
from agent.podproxy import PodProxy
from agent.runtime.contract import ContainerState, ExecConfig, ExecSession, Phase, Runtime, RuntimeFailure
from agent.stats import Stats
from agent.volumes.local import BadName, LocalVolumes
from pyk.api.objects import Object
from pyk.api.status import ApiError
from pyk.client.client import ClientUnavailable
from pyk.reconcile.clock import Clock, parse_timestamp
from pyk.tls import server_context

log = logging.getLogger(__name__)

_TRUE = ("1", "true")
_TEXT = "text/plain; charset=utf-8"


class Pods(Protocol):
    """What is asked of the pod manager."""

    def find(self, namespace: str, name: str) -> Object | None: ...

    def pods(self) -> list[Object]: ...

    def container(
        self, namespace: str, pod: str, container: str, *, previous: bool = False
    ) -> ContainerState | None: ...


class NodeAPI:
    """Serves the node API at `address`:`port` until cancelled. `memory_capacity` gives the node's, in bytes.
    `more` are what other parts of the agent answer."""

    def __init__(
        self,
        pods: Pods,
        runtime: Runtime,
        stats: Stats,
        *,
        clock: Clock,
        memory_capacity: Callable[[], int],
        not_ready: Callable[[], str],
        local_volumes: LocalVolumes,
        access: Access,
        metrics_pages: MetricsPages,
        configuration: Mapping[str, Any],
        more: Sequence[web.RouteDef] = (),
    ) -> None:
        self._more = more
        self._access = access
        self._metrics_pages = metrics_pages
        self._configuration = configuration
        self._local_volumes = local_volumes
        self._pods = pods
        self._runtime = runtime
        self._stats = stats
        self._clock = clock
        self._memory_capacity = memory_capacity
        self._not_ready = not_ready
        self._pod_proxy_client = PodProxy()

    def application(self) -> web.Application:
        """The routes, behind the check of who asks."""
        application = web.Application(middlewares=[self._check_access])
        application.on_cleanup.append(self._close_proxy)
        application.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/pods", self._list_pods),
                web.get("/configz", self._configz),
                *self._metrics_pages.routes(),
                web.get("/stats/summary", self._summary),
                web.get("/containerLogs/{namespace}/{pod}/{container}", self._logs),
                web.get("/exec/{namespace}/{pod}/{container}", self._exec),
                web.get("/attach/{namespace}/{pod}/{container}", self._attach),
                web.get("/portForward/{namespace}/{pod}", self._port_forward),
                web.put("/localVolumes/{volume}", self._make_volume),
                web.delete("/localVolumes/{volume}", self._remove_volume),
                *self._more,
                web.route("*", "/podProxy/{namespace}/{pod}/{scheme}/{port}/{path:.*}", self._pod_proxy),
            ]
        )
        return application

    async def serve(self, addresses: Sequence[str], port: int, pki_dir: Path, certificate: Path, key: Path) -> None:
        """Listen until cancelled, showing the certificate. Raises OSError when an address is taken."""
        runner = web.AppRunner(self.application(), handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            for address in addresses:
                await web.TCPSite(runner, address, port, ssl_context=node_context(pki_dir, certificate, key)).start()
                log.info("node API on %s port %d", address, port)
            await asyncio.get_running_loop().create_future()
        finally:
            await runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        reason = self._not_ready()
        return web.Response(text=reason or "ok", status=503 if reason else 200)

    async def _make_volume(self, request: web.Request) -> web.Response:
        """A directory for a local persistent volume: where it is."""
        try:
            path = await self._local_volumes.create(request.match_info["volume"])
        except BadName as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        except OSError as error:
            raise web.HTTPInsufficientStorage(text=f"{error.filename}: {error.strerror}") from None
        return web.json_response({"path": str(path)})

    async def _remove_volume(self, request: web.Request) -> web.Response:
        try:
            await self._local_volumes.remove(request.match_info["volume"])
        except BadName as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        except OSError as error:
            raise web.HTTPInternalServerError(text=f"{error.filename}: {error.strerror}") from None
        return web.json_response({})

    async def _list_pods(self, request: web.Request) -> web.Response:
        listed = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self._pods.pods()}
        return web.Response(body=orjson.dumps(listed), content_type="application/json")

    async def _configz(self, request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps({"kubeletconfig": self._configuration}), content_type="application/json")

    async def _summary(self, request: web.Request) -> web.Response:
        in_detail = request.query.get("only_cpu_and_memory", "") not in _TRUE
        document = await self._stats.summary(memory_capacity=self._memory_capacity(), in_detail=in_detail)
        return web.Response(body=orjson.dumps(document), content_type="application/json")

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        options = log_options(request.query, self._clock.time())
        namespace, pod, container = self._names(request)
        previous = request.query.get("previous", "") in _TRUE
        state = self._state(namespace, pod, container, previous=previous)

        async def has_ended() -> bool:
            present = await self._runtime.container(state.id)
            return present is None or present.phase is Phase.EXITED

        response = web.StreamResponse(headers={"Content-Type": _TEXT})
        await response.prepare(request)
        pieces = read_log(state.log_path, options, has_ended=has_ended)
        try:
            async for piece in pieces:
                await response.write(piece)
        except RuntimeFailure as error:
            log.warning("the log of %s/%s/%s ends early: %s", namespace, pod, container, error)
        finally:
            await pieces.aclose()
        await response.write_eof()
        return response

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        namespace, pod, container = self._names(request)
        query = request.query
        terminal = query.get("tty", "") in _TRUE
        config = ExecConfig(
            command=query.getall("command", []),
            terminal=terminal,
            stdin=query.get("input", "") in _TRUE,
            stdout=query.get("output", "") in _TRUE,
            stderr=query.get("error", "") in _TRUE and not terminal,
            environment={"TERM": "xterm"} if terminal else {},
        )
        if not config.command:
            raise web.HTTPBadRequest(text="you must specify at least one command for the container")
        if not (config.stdin or config.stdout or config.stderr):
            raise web.HTTPBadRequest(text="you must specify at least 1 of stdin, stdout, stderr")
        state = self._running(namespace, pod, container)
        return await self._stream(request, lambda: self._runtime.exec(state.id, config))

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        namespace, pod, container = self._names(request)
        state = self._running(namespace, pod, container)
        return await self._stream(request, lambda: self._runtime.attach(state.id), tells_exit=False)

    async def _stream(
        self, request: web.Request, begin: Callable[[], Awaitable[ExecSession]], *, tells_exit: bool = True
    ) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise web.HTTPBadRequest(text="streams are served over WebSockets only")
        socket = await streams.accept(request)
        try:
            session = await begin()
        except RuntimeFailure as failure:
            await streams.fail(socket, failure)
            return socket
        await streams.serve(socket, session, clock=self._clock, tells_exit=tells_exit)
        return socket

    async def _close_proxy(self, application: web.Application) -> None:
        await self._pod_proxy_client.close()

    async def _pod_proxy(self, request: web.Request) -> web.StreamResponse:
        namespace, name = request.match_info["namespace"], request.match_info["pod"]
        pod = self._pods.find(namespace, name)
        if pod is None:
            raise web.HTTPNotFound(text=f'pod "{name}" not found on this node')
        return await self._pod_proxy_client.relay(request, pod)

    async def _port_forward(self, request: web.Request) -> web.StreamResponse:
        """Connect first: a client is told why there is no connection by the answer to its upgrade."""
        namespace, name = request.match_info["namespace"], request.match_info["pod"]
        text = request.query.get("port", "")
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
            raise web.HTTPBadRequest(text=f'invalid port "{text}"')
        pod = self._pods.find(namespace, name)
        if pod is None:
            raise web.HTTPNotFound(text=f'pod "{name}" not found on this node')
        uid = pod["metadata"]["uid"]
        subject = f"error forwarding port {text} to pod {name}, uid {uid}"
        sandbox = next((each for each in await self._runtime.list_sandboxes() if each.id == uid and each.alive), None)
        if sandbox is None:
            raise web.HTTPInternalServerError(text=f"{subject}: the pod has no running sandbox")
        try:
            reader, writer = await portforward.connect(sandbox.network_namespace, int(text))
        except OSError as error:
            reason = os.strerror(error.errno).lower() if error.errno else "i/o timeout"
            raise web.HTTPInternalServerError(text=f"{subject}: dial tcp 127.0.0.1:{text}: {reason}") from None
        socket = web.WebSocketResponse(max_msg_size=streams.LONGEST_FRAME_BYTES, compress=False)
        try:
            await socket.prepare(request)
        except BaseException:
            writer.close()
            raise
        await portforward.serve(socket, reader, writer)
        return socket

    @web.middleware
    async def _check_access(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        connection = request.transport.get_extra_info("ssl_object") if request.transport is not None else None
        certificate = connection.getpeercert() if connection is not None else None
        try:
            await self._access.check(
                request.method, request.path, certificate, request.headers.get("Authorization", "")
            )
        except Refused as refused:
            return web.Response(status=refused.status, text=str(refused))
        except (ApiError, ClientUnavailable) as error:
            log.warning("whether %s may be answered cannot be asked: %s", request.path, error)
            return web.Response(status=500, text="Internal Server Error")
        return await handler(request)

    def _names(self, request: web.Request) -> tuple[str, str, str]:
        """Namespace, pod and container of the path; 404 when this node has no such pod or container."""
        namespace, name, container = (request.match_info[part] for part in ("namespace", "pod", "container"))
        pod = self._pods.find(namespace, name)
        if pod is None:
            raise web.HTTPNotFound(text=f'pod "{name}" not found on this node')
        spec = pod["spec"]
        lists = ("containers", "initContainers", "ephemeralContainers")
        if not any(each["name"] == container for part in lists for each in spec.get(part) or ()):
            raise web.HTTPNotFound(text=f'container "{container}" not found in pod "{name}"')
        return namespace, name, container

    def _state(self, namespace: str, pod: str, container: str, *, previous: bool = False) -> ContainerState:
        state = self._pods.container(namespace, pod, container, previous=previous)
        if state is None and previous:
            raise web.HTTPBadRequest(text=f'previous terminated container "{container}" in pod "{pod}" not found')
        if state is None:
            text = f'container "{container}" in pod "{pod}" is waiting to start: ContainerCreating'
            raise web.HTTPBadRequest(text=text)
        return state

    def _running(self, namespace: str, pod: str, container: str) -> ContainerState:
        state = self._pods.container(namespace, pod, container)
        if state is None or state.phase is not Phase.RUNNING:
            raise web.HTTPBadRequest(text=f'container "{container}" in pod "{pod}" is not running')
        return state


def log_options(query: Mapping[str, str], now: float) -> LogOptions:
    """The options of a log request's query; `now` is in seconds since the epoch. Raises 400 for bad numbers."""
    try:
        since = parse_timestamp(query["sinceTime"]) if query.get("sinceTime") else None
        if query.get("sinceSeconds"):
            since = now - int(query["sinceSeconds"])
        return LogOptions(
            follow=query.get("follow", "") in _TRUE,
            timestamps=query.get("timestamps", "") in _TRUE,
            tail_lines=int(query["tailLines"]) if query.get("tailLines") else None,
            limit_bytes=int(query["limitBytes"]) if query.get("limitBytes") else None,
            since=since,
            stream=query["stream"].lower() if query.get("stream") in ("Stdout", "Stderr") else "",
        )
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from None


def node_context(pki_dir: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS with our server certificate; a client's certificate, where it shows one, is of the cluster's authority."""
    context = server_context(certificate, key, pki_dir / "ca.crt")
    context.verify_mode = ssl.CERT_OPTIONAL  # who shows none may have a token
    return context
