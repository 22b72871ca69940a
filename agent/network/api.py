"""What the node API answers about the network, for `pyk net`; behind its check of who asks.

GET    /network                      what there is: pod ranges, ways to the peers, counts of rules
GET    /network/way?source=&...      what the kernel would do with a packet
POST   /network/check                a place on the pod network to send real packets from: its addresses
POST   /network/ask, /network/resolve  one connection, one question to a name server, from there
DELETE /network/check
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from agent.network.bridge import BridgeNetwork
from agent.network.contract import NetworkFailure
from agent.network.inspection import Question, overview, way
from agent.network.station import PORT, Station
from pyk.network.names import PROTOCOLS
from pyk.nftables.evaluate import CannotTell
from pyk.reconcile.clock import Clock


class NetworkAPI:
    """The handlers. Bad questions are 400, what the kernel refuses to tell is 500."""

    def __init__(self, network: BridgeNetwork, station: Station, clock: Clock, *, domain: str) -> None:
        self._network = network
        self._station = station
        self._clock = clock
        self._domain = domain

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/network", self._overview),
            web.get("/network/way", self._way),
            web.post("/network/check", self._open),
            web.delete("/network/check", self._close),
            web.post("/network/ask", self._ask),
            web.post("/network/resolve", self._resolve),
        ]

    async def _overview(self, request: web.Request) -> web.Response:
        network = self._network
        found = await _told(
            asyncio.to_thread(overview, network.ways, map(str, network.pod_cidrs), network.attached, network.pod_mtu)
        )
        return web.json_response(found)

    async def _way(self, request: web.Request) -> web.Response:
        query = request.query
        protocol = query.get("protocol", "TCP")
        if protocol not in PROTOCOLS:
            raise web.HTTPBadRequest(text=f"protocol {protocol!r}: one of {', '.join(PROTOCOLS)}")
        in_link = query.get("in", "")
        question = Question(_address(query, "source"), _address(query, "destination"), protocol, _port(query), in_link)
        return web.json_response(await _told(asyncio.to_thread(way, question)))

    async def _open(self, request: web.Request) -> web.Response:
        addresses = await _told(self._station.open())
        return web.json_response({"addresses": addresses, "port": PORT, "domain": self._domain})

    async def _close(self, request: web.Request) -> web.Response:
        await _told(self._station.close())
        return web.json_response({})

    async def _ask(self, request: web.Request) -> web.Response:
        asked = await _asked(request)
        return await self._timed(self._station.ask(_address(asked, "address"), _port(asked)))

    async def _resolve(self, request: web.Request) -> web.Response:
        asked = await _asked(request)
        kind = asked.get("type", "A")
        if kind not in ("A", "AAAA"):
            raise web.HTTPBadRequest(text=f"type {kind!r}: A or AAAA")
        return await self._timed(self._station.resolve(_address(asked, "server"), str(asked.get("name", "")), kind))

    async def _timed(self, work: Any) -> web.Response:
        started = self._clock.monotonic()
        try:
            answer = await work
        except TimeoutError:
            return web.json_response({"error": "no answer: timed out"})
        except OSError as error:
            return web.json_response({"error": error.strerror or str(error)})
        except NetworkFailure as error:
            raise web.HTTPConflict(text=str(error)) from None
        return web.json_response({"answer": answer, "seconds": self._clock.monotonic() - started})


async def _told(work: Any) -> Any:
    try:
        return await work
    except (OSError, CannotTell, NetworkFailure) as error:
        raise web.HTTPInternalServerError(text=str(error)) from None


async def _asked(request: web.Request) -> Mapping[str, Any]:
    try:
        document = await request.json()
    except ValueError:
        raise web.HTTPBadRequest(text="the body is no JSON document") from None
    if not isinstance(document, dict):
        raise web.HTTPBadRequest(text="the body is no JSON object")
    return document


def _address(given: Mapping[str, Any], name: str) -> str:
    try:
        return str(ipaddress.ip_address(str(given.get(name, ""))))
    except ValueError:
        raise web.HTTPBadRequest(text=f"{name} {given.get(name)!r} is no address") from None


def _port(given: Mapping[str, Any]) -> int:
    text = str(given.get("port", ""))
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise web.HTTPBadRequest(text=f"port {text!r} is no port")
    return int(text)
