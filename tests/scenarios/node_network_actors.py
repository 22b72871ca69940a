"""The commands of scenario files about the network of one node, `n1`: ways to other nodes, and its packet filter."""

from __future__ import annotations

import ipaddress
import itertools
from collections import Counter
from typing import Any

from agent.network.endpoints import Place
from agent.network.policies import pod_fragment, policy_fragment
from agent.network.routes import AUTO, VXLAN, peer_routes, route_changes, unreachable_peers
from agent.network.ruleset import Fragment, Ruleset
from agent.network.segment import Answer, is_here
from agent.network.services import Surroundings, service_fragment, service_ports
from pyk.api.objects import Object, key_of, name_of
from pyk.netlink import ROUTE_PROTOCOL, Route
from pyk.network.policy import Policy, parse, pod_facts
from pyk.nftables import Message
from tests.scenarios.world import World

Settings = dict[str, str]
NAMESPACE = "default"
NODE, SEGMENT, PODS = "n1", ipaddress.ip_network("192.0.2.0/24"), "10.1.0.0/16"
TUNNEL = 9


class NodeNetwork:
    """What the node's kernel has, and what its neighbours have answered."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.answers: dict[str, Answer] = {}
        self.table = Ruleset()
        self.services: dict[str, Object] = {}
        self.endpoints: dict[str, list[Object]] = {}
        self.policies: dict[str, Policy] = {}
        self.pods: dict[str, Object] = {}


class NodeNetworkActors:
    """What `Actors` can do with them."""

    world: World
    node_network: NodeNetwork

    # Ways to the pods of other nodes

    def do_peer(self, name: str, settings: Settings) -> list[str]:
        """Another node: `range=CIDR at=ADDRESS`, or `gone`."""
        if "gone" in settings:
            self.world.remove("Node", name)
            return []
        addresses = [{"type": "InternalIP", "address": settings["at"]}]
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name},
            "spec": {"podCIDRs": [settings["range"]]},
            "status": {"addresses": addresses},
        }
        if (known := self.world.get("Node", name)) is None:
            self.world.add(node)
        else:
            self.world.replace({**node, "metadata": known["metadata"]})
        return []

    def do_echo(self, name: str, settings: Settings) -> list[str]:
        """An address was asked whether it is near: `itself` answered, or a `router`."""
        self.node_network.answers[name] = Answer.HERE if "itself" in settings else Answer.BEHIND_ROUTER
        return []

    def do_lose_route(self, name: str, settings: Settings) -> list[str]:
        """Somebody deletes a route of the node."""
        del self.node_network.routes[name]
        return []

    def do_sync_ways(self, name: str, settings: Settings) -> list[str]:
        """The pod network's loop takes one step; addresses of 192.0.2.0/24 are on a link of the node. `backend=`."""
        here, nodes = self.node_network, self.world.all("Node")

        def is_near(address: str) -> bool:
            return ipaddress.ip_address(address) in SEGMENT and is_here(here.answers.get(address))

        ways = peer_routes(NODE, nodes, backend=settings.get("backend", AUTO), is_on_link=is_near)
        links = {VXLAN: TUNNEL}
        changes = route_changes(ways, here.routes.values(), links=links, ranges=[PODS])
        here.routes = {
            str(way.destination): Route(way.destination, way.gateway, links.get(way.backend, 2), ROUTE_PROTOCOL, False)
            for way in ways
        }
        told = {f"add route to {way.destination}": f"{way.backend}, by {way.gateway}" for way in ways}
        lines = [f"{change.what}: {told[change.what]}" if change.what in told else change.what for change in changes]
        return [*lines, *(f"{node}: out of reach" for node in unreachable_peers(NODE, nodes, ways))]

    # The packet filter

    def do_address(self, name: str, settings: Settings) -> list[str]:
        """A Service with an address: `at= port=`, `node_port=`, `external=Local`, `internal=Local`, or `gone`."""
        if "gone" in settings:
            del self.node_network.services[name]
            return []
        port: dict[str, Any] = {"name": "http", "port": int(settings["port"]), "protocol": "TCP"}
        if "node_port" in settings:
            port["nodePort"] = int(settings["node_port"])
        spec = {
            "type": "NodePort" if "node_port" in settings else "ClusterIP",
            "clusterIP": settings["at"],
            "ports": [port],
            "externalTrafficPolicy": settings.get("external", "Cluster"),
            "internalTrafficPolicy": settings.get("internal", "Cluster"),
        }
        self.node_network.services[name] = {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}
        return []

    def do_behind(self, name: str, settings: Settings) -> list[str]:
        """The endpoints of a Service, `ADDRESS@NODE,...`: `ready=`, `ending=` (they serve on), `unready=`."""
        conditions = {
            "ready": {"ready": True, "serving": True},
            "ending": {"ready": False, "serving": True, "terminating": True},
            "unready": {"ready": False, "serving": False},
        }
        self.node_network.endpoints[name] = [
            {"addresses": [text.partition("@")[0]], "nodeName": text.partition("@")[2], "conditions": conditions[kind]}
            for kind, texts in settings.items()
            for text in texts.split(",")
        ]
        return []

    def do_sync_services(self, name: str, settings: Settings) -> list[str]:
        """The service loop takes one step: the transaction for all that changed."""
        here, place, changes = self.node_network, Place(NODE), dict[str, Fragment | None]()
        for owner in here.table.owners("service/"):
            changes[owner] = None
        for name_, service in here.services.items():
            ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
            behind = here.endpoints.get(name_, [])
            slices = [{"addressType": "IPv4", "ports": ports, "endpoints": behind}]
            found = service_fragment(service_ports(service, slices, place), Surroundings(place, (PODS,)))
            changes[f"service/{name_}"] = found
        return _told(here.table.update(changes))

    def do_reached_pod(self, name: str, settings: Settings) -> list[str]:
        """A pod of the cluster: `at=ADDRESS app=NAME`, `here` when it is this node's, or `gone`."""
        if "gone" in settings:
            del self.node_network.pods[name]
            return []
        metadata: Object = {"name": name, "namespace": NAMESPACE, "uid": name, "labels": {"app": settings["app"]}}
        status = {"podIP": settings["at"], "podIPs": [{"ip": settings["at"]}]}
        spec = {"containers": [], "nodeName": NODE if "here" in settings else "n2"}
        self.node_network.pods[name] = {"metadata": metadata, "spec": spec, "status": status}
        return []

    def do_policy(self, name: str, settings: Settings) -> list[str]:
        """A NetworkPolicy for the pods `for=APP`: who may send to them, `from=APP`, `block=CIDR`, `port=`, nobody with
        none of these; or `gone`."""
        if "gone" in settings:
            del self.node_network.policies[name]
            return []
        peers: list[Object] = []
        if "from" in settings:
            peers.append({"podSelector": {"matchLabels": {"app": settings["from"]}}})
        if "block" in settings:
            peers.append({"ipBlock": {"cidr": settings["block"]}})
        rule: Object = {"from": peers} if peers else {}
        if "port" in settings:
            rule["ports"] = [{"protocol": "TCP", "port": int(settings["port"])}]
        spec = {"podSelector": {"matchLabels": {"app": settings["for"]}}, "ingress": [rule] if rule else []}
        self.node_network.policies[name] = parse({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})
        return []

    def do_sync_policies(self, name: str, settings: Settings) -> list[str]:
        """The policies' loop takes one step; `policies=unknown` before it has heard of them."""
        here = self.node_network
        labels = {NAMESPACE: {"kubernetes.io/metadata.name": NAMESPACE}}
        everyone = [pod_facts(pod) for pod in here.pods.values()]
        known = None if settings.get("policies") == "unknown" else here.policies.values()
        changes: dict[str, Fragment | None] = dict.fromkeys([*here.table.owners("policy/"), *here.table.owners("pod/")])
        for policy in known or ():
            changes[f"policy/{policy.key}"] = policy_fragment(policy, everyone, labels)
        for pod in here.pods.values():
            if pod["spec"]["nodeName"] == NODE:
                uid = name_of(pod)
                changes[f"pod/{key_of(pod)}"] = pod_fragment(uid, pod_facts(pod), [], known, is_new=True)
        return _told(here.table.update(changes))


def _told(messages: list[Message]) -> list[str]:
    """The messages of a transaction in its order, alike ones in one line with their number; sets of elements come in
    any order, so they are sorted."""
    lines: list[str] = []
    for _, alike in itertools.groupby(messages, key=lambda message: message.what.split()[:2]):
        counts = Counter(message.what for message in alike)
        lines += [what if count == 1 else f"{what} ({count})" for what, count in sorted(counts.items())]
    return lines
