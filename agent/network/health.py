"""Health checks of services that keep to the node: `healthCheckNodePort` tells load balancers whether it has endpoints.

Each such service has a small HTTP server on its port of every address of the node: 200 while an endpoint of it runs
here, 503 otherwise, with kube-proxy's words.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from aiohttp import web

from agent.network.services import ServicePort
from pyk.api.objects import Object, key_of

log = logging.getLogger(__name__)


def wanted_checks(
    services: Iterable[Object], ports: Mapping[str, list[ServicePort]]
) -> dict[int, tuple[str, str, int]]:
    """Port -> namespace, name and the number of endpoints here."""
    found = {}
    for service in services:
        spec = service["spec"]
        number = spec.get("healthCheckNodePort")
        if not number or spec.get("type") != "LoadBalancer" or spec.get("externalTrafficPolicy") != "Local":
            continue
        here = {endpoint.address for port in ports.get(key_of(service), ()) for endpoint in port.chosen.local}
        found[int(number)] = (service["metadata"]["namespace"], service["metadata"]["name"], len(here))
    return found


class HealthChecks:
    """The servers."""

    def __init__(self) -> None:
        self._checks: dict[int, tuple[str, str, int]] = {}
        self._servers: dict[int, web.AppRunner] = {}

    async def sync(self, services: Iterable[Object], ports: Mapping[str, list[ServicePort]]) -> None:
        """Serve these services' checks and no others'. A port that is taken is told, and tried again next time."""
        self._checks = wanted_checks(services, ports)
        for number in self._servers.keys() - self._checks.keys():
            await self._servers.pop(number).cleanup()
        for number in self._checks.keys() - self._servers.keys():
            try:
                self._servers[number] = await self._serve(number)
            except OSError as error:
                log.warning("health checks on port %d: %s", number, error)

    async def close(self) -> None:
        while self._servers:
            await self._servers.popitem()[1].cleanup()

    async def _serve(self, number: int) -> web.AppRunner:
        async def answer(_: web.Request) -> web.Response:
            namespace, name, count = self._checks.get(number, ("", "", 0))
            body = {
                "service": {"namespace": namespace, "name": name},
                "localEndpoints": count,
                "serviceProxyHealthy": True,
            }
            return web.json_response(body, status=200 if count else 503)

        application = web.Application()
        application.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, None, number).start()
        except OSError:
            await runner.cleanup()
            raise
        return runner
