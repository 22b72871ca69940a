"""Flows of UDP whose service has changed: conntrack would send their packets on to endpoints that are gone.

TCP notices by itself (its endpoint resets); UDP has no connections, so the kernel's memory of a flow is all there is.
After a change of a service with UDP ports, flows to its addresses whose endpoint serves no more are forgotten, and
those that were noted before it had an endpoint. The next packet then meets the rules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from agent.network.services import ServicePort
from pyk.conntrack import Flow, delete_flows, udp_flows

Front = tuple[str, int]


def fronts(ports: Iterable[ServicePort]) -> tuple[dict[Front, set[Front]], dict[int, set[Front]]]:
    """Address and port -> the endpoints that may answer for it; node port -> the same."""
    by_address: dict[Front, set[Front]] = {}
    by_node_port: dict[int, set[Front]] = {}
    for port in ports:
        if port.protocol != "UDP":
            continue
        places = {endpoint.place for endpoint in (*port.chosen.cluster, *port.chosen.local)}
        for address in (port.cluster_address, *port.external_addresses, *port.balancer_addresses):
            by_address[address, port.port] = places
        if port.node_port:
            by_node_port[port.node_port] = places
    return by_address, by_node_port


def stale_flows(flows: Iterable[Flow], before: Iterable[ServicePort], now: Iterable[ServicePort]) -> list[Flow]:
    """The flows to fronts of these services whose answers do not come from an endpoint of now."""
    old_addresses, old_node_ports = fronts(before)
    addresses, node_ports = fronts(now)
    found = []
    for flow in flows:
        front = (flow.destination, flow.destination_port)
        allowed = addresses.get(front)
        if allowed is None and front in old_addresses:
            allowed = set()
        if allowed is None:
            allowed = node_ports.get(flow.destination_port)
            if allowed is None and flow.destination_port in old_node_ports:
                allowed = set()
            if not flow.is_translated:
                continue  # a flow to another server's port of the same number
        if allowed is not None and (flow.answering, flow.answering_port) not in allowed:
            found.append(flow)
    return found


class Flows:
    """The shell around that decision."""

    async def sync(
        self, before: Mapping[str, list[ServicePort]], now: Mapping[str, list[ServicePort]], *, all_: bool
    ) -> None:
        """Forget the flows that the services' change made stale; `all_` when it is not known what was before."""
        old = [port for ports in before.values() for port in ports]
        new = [port for ports in now.values() for port in ports]
        if not any(port.protocol == "UDP" for port in (*old, *new)):
            return
        if not all_ and fronts(old) == fronts(new):
            return

        def forget() -> None:
            delete_flows(stale_flows(udp_flows(), old, new))

        await asyncio.to_thread(forget)
