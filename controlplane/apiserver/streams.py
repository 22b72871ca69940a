"""Requests whose answers last: watches, and what a pod or a node answers itself (logs, exec, port-forward, proxy)."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace

from aiohttp import web

from controlplane.apiserver import metrics
from controlplane.apiserver.call import Call
from controlplane.apiserver.connections import Connections, send_head
from controlplane.apiserver.encoding import decode
from controlplane.apiserver.negotiation import negotiate
from controlplane.apiserver.nodeproxy import NodeProxy
from controlplane.apiserver.podproxy import target_of
from controlplane.apiserver.request import list_options
from controlplane.apiserver.serviceproxy import SERVICE_LABEL, pod_behind, service_target_of
from controlplane.apiserver.streaming import WatchStream, open_watch
from controlplane.apiserver.views import shown_lines, stored_kind, stored_options
from controlplane.apiserver.watchcache import WatchCache, parsed
from controlplane.apiserver.watchforms import render_for
from pyk.api.kinds import ENDPOINT_SLICE, NODE, POD, SERVICE, Kind
from pyk.api.selectors import FieldRequirement
from pyk.api.status import method_not_allowed
from pyk.reconcile.clock import Clock

_SHORTEST_WATCH_SECONDS = 1800.0

log = logging.getLogger(__name__)


class Streams:
    """Answers as long as the client wants, or the server's end allows."""

    def __init__(self, cache: WatchCache, proxy: NodeProxy, connections: Connections, clock: Clock) -> None:
        self._cache = cache
        self._proxy = proxy
        self._connections = connections
        self._clock = clock
        self._watching: Counter[str] = Counter()

    def has_watch_of(self, user: str) -> bool:
        """Whether the user watches anything here at present."""
        return user in self._watching

    async def watch(self, call: Call, kind: Kind) -> web.StreamResponse:
        """Send the events of a kind until the client, the time-out or the server ends it. Raises 400, 406 and 504."""
        accepted = negotiate(call.accept, is_stream=True)
        options = list_options(call.query, watch=True)
        if call.info.name and not options.fields:  # the old path of a watch of one object
            options = replace(options, fields=(FieldRequirement("metadata.name", True, call.info.name),))
        options = stored_options(kind, options)
        render = shown_lines(kind, render_for(accepted, kind, call.include, self._clock))
        stream = await open_watch(self._cache, stored_kind(kind), call.info.namespace, options, render)
        seconds = options.timeout_seconds or _SHORTEST_WATCH_SECONDS * (1 + self._clock.random.random())
        return await self._send_watch(call, kind, stream, seconds)

    async def _send_watch(self, call: Call, kind: Kind, stream: WatchStream, seconds: float) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
        )
        response.enable_chunked_encoding()
        labels = (kind.group, kind.version, kind.kind)
        running = metrics.LONG_RUNNING.labels(*metrics.labels_of(call.info), "apiserver")
        metrics.WATCHERS.labels(*labels).inc()
        running.inc()
        self._watching[call.user.name] += 1
        sent, events = metrics.WATCH_BYTES.labels(*labels), metrics.WATCH_EVENTS.labels(*labels)

        def cut_off() -> None:
            metrics.OVERRUN.labels(kind.plural).inc()
            if call.request.transport is not None:
                call.request.transport.abort()

        stream.on_overrun = cut_off
        try:
            async with self._connections.ends_with(call.request, stream, seconds):
                await send_head(response, call.request)
                async for chunk in stream.chunks():
                    sent.inc(len(chunk))
                    events.inc(chunk.count(b"\n"))
                    await response.write(chunk)
                await response.write_eof()
        except ConnectionError:
            log.debug("a watcher of %s went away", kind.plural)
        finally:
            self._cache.of(kind).unwatch(stream)
            metrics.WATCHERS.labels(*labels).dec()
            running.dec()
            self._watching[call.user.name] -= 1
            if not self._watching[call.user.name]:
                del self._watching[call.user.name]
        return response

    async def pod_stream(self, call: Call) -> web.StreamResponse:
        """log, exec, attach or portforward of a pod, by its node."""
        entry = await self._cache.get(POD, call.info.namespace, call.info.name)
        pod = decode(entry.data)
        if call.info.subresource == "log":
            return await self._proxy.pod_log(call.request, pod)
        if call.info.subresource == "portforward":
            return await self._proxy.port_forward(call.request, pod)
        return await self._proxy.pod_exec(call.request, pod, attach=call.info.subresource == "attach")

    async def proxy(self, call: Call, kind: Kind) -> web.StreamResponse:
        """Pass the request on to a pod, one behind a service, or a node. Raises 405 for other kinds."""
        info = call.info
        if kind is POD:
            target = target_of(info.name)
            entry = await self._cache.get(kind, info.namespace, target.name)
            return await self._proxy.pod_proxy(call.request, decode(entry.data), target)
        if kind is SERVICE:
            asked = service_target_of(info.name)
            service = await self._cache.get(kind, info.namespace, asked.name)
            slices = (
                parsed(entry)
                for entry in self._cache.of(ENDPOINT_SLICE).entries(info.namespace)
                if entry.labels.get(SERVICE_LABEL) == asked.name
            )
            name, target = pod_behind(decode(service.data), slices, asked, self._clock.random)
            entry = await self._cache.get(POD, info.namespace, name)
            return await self._proxy.pod_proxy(call.request, decode(entry.data), target)
        if kind is NODE:
            entry = await self._cache.get(kind, "", info.name)
            return await self._proxy.node_proxy(call.request, decode(entry.data), info.rest)
        raise method_not_allowed()
