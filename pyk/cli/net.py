"""`pyk net`: the network as the nodes' kernels have it: an overview, one packet's way, and real packets everywhere.

The nodes answer through the API server (`nodes/NAME/proxy/network`), so whoever may use `nodes/proxy` may ask.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyk.api.kinds import NODE, POD, SERVICE, Kind
from pyk.api.objects import Object, condition_of, key_of, name_of
from pyk.api.status import ApiError
from pyk.cli.session import Session, add_connection_options
from pyk.client.blocking import BlockingClient
from pyk.errors import UserError
from pyk.network.names import PROTOCOLS, TUNNEL, family_of
from pyk.network.report import Line, arrives, entering_link, leaves, way_lines
from pyk.nftables.evaluate import shown

Document = Mapping[str, Any]


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("net", help="show the network: all of it, a packet's way, and whether it works")
    add_connection_options(parser)
    parser.set_defaults(run=run_overview)
    commands = parser.add_subparsers(metavar="COMMAND")
    path = commands.add_parser("path", help="a packet's way from a pod to a pod or service, and who denies it")
    path.add_argument("source", metavar="POD", help="[NAMESPACE/]POD that sends")
    path.add_argument("target", metavar="POD|SERVICE[:PORT]", help="[svc/|pod/][NAMESPACE/]NAME[:PORT] or ADDRESS:PORT")
    path.add_argument("--protocol", default="TCP", type=str.upper, choices=tuple(PROTOCOLS), help="default TCP")
    path.add_argument("-6", "--ipv6", action="store_true", help="by the second family of a dual-stack cluster")
    add_connection_options(path)
    path.set_defaults(run=run_path)
    check = commands.add_parser("check", help="send real packets between all nodes; exit status 1 if one is lost")
    add_connection_options(check, namespaced=False)
    check.set_defaults(run=run_check)


def node_path(node: str, rest: str = "") -> str:
    """Where the node answers about its network."""
    return f"{NODE.path(name=node)}/proxy/network{rest}"


def is_ready(node: Object) -> bool:
    ready = condition_of(node, "Ready")
    return ready is not None and ready["status"] == "True"


# Overview


def run_overview(arguments: argparse.Namespace) -> int:
    """What there is on every node; 1 when a node does not answer or lacks a route."""
    client = Session(arguments).client
    nodes = sorted(client.list(NODE)["items"], key=name_of)
    rows, troubles = [], []
    for node in nodes:
        try:
            found = client.json("GET", node_path(name_of(node)))
        except ApiError as error:
            troubles.append(f"{name_of(node)} does not answer: {error.message}")
            continue
        rows.append(overview_row(name_of(node), found))
        troubles += missing(name_of(node), nodes, found)
    widths = [max(len(row[column]) for row in [HEADER, *rows]) for column in range(len(HEADER))]
    for row in [HEADER, *rows]:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for trouble in troubles:
        print(f"! {trouble}")
    return 1 if troubles else 0


HEADER = ["NODE", "PODS", "POD RANGES", "MTU", "PEERS", "SERVICE PORTS", "ENDPOINTS", "POLICY PEERS", "CHAINS", "RULES"]


def overview_row(node: str, found: Document) -> list[str]:
    backends: dict[str, set[str]] = {}
    for peer in found["peers"]:
        backends.setdefault(peer["backend"], set()).add(peer["node"])
    peers = ", ".join(f"{len(names)} by {backend}" for backend, names in sorted(backends.items())) or "none"
    counts = found["rules"]
    numbers = [counts[name] for name in ("services", "endpoints", "peers", "chains", "rules")]
    ranges = ", ".join(found["podCIDRs"]) or "none yet"
    return [node, str(found["pods"]), ranges, str(found["mtu"]), peers, *map(str, numbers)]


def missing(own: str, nodes: list[Object], found: Document) -> list[str]:
    """Routes that should be there and are not, in the kernel or at all."""
    known = {peer["destination"]: peer for peer in found["peers"]}
    troubles = []
    for node in nodes:
        for cidr in (node.get("spec") or {}).get("podCIDRs") or ():
            if name_of(node) == own:
                continue
            peer = known.get(cidr)
            if peer is None:
                troubles.append(f"{own} knows no way to the pods of {name_of(node)} ({cidr})")
            elif not peer["isThere"]:
                troubles.append(f"{own} has no route to the pods of {name_of(node)}: {cidr} is not in its kernel")
    return troubles


# A packet's way


@dataclass(frozen=True, slots=True)
class Target:
    """Where a packet goes: an address and port, and what has it."""

    what: str
    address: str
    port: int


def run_path(arguments: argparse.Namespace) -> int:
    """Show the way; 1 when the packet does not arrive."""
    session = Session(arguments)
    client = session.client
    namespace, name = _split_name(arguments.source.removeprefix("pod/"), session.namespace)
    sender = client.get(POD, name, namespace)
    target = find_target(client, arguments.target, session.namespace, arguments.protocol, second=arguments.ipv6)
    source = address_of(sender, family_of(target.address))
    node = str(sender["spec"].get("nodeName") or "")
    print(f"from  pod {key_of(sender)}  {source} on {node}")
    print(f"to    {target.what}  {shown(target.address, target.port)} {arguments.protocol}")
    query = {"source": source, "destination": target.address, "protocol": arguments.protocol, "port": str(target.port)}
    first = client.json("GET", node_path(node, "/way"), params=query)
    lines = way_lines(first)
    print_lines(node, lines)
    if arrives(lines) and leaves(first):
        reached = first["to"] or {"address": target.address, "port": target.port}
        receiver = _node_of(client, str(reached["address"]))
        if receiver and receiver != node:
            more = {**query, "destination": str(reached["address"]), "port": str(reached["port"])}
            more["in"] = entering_link(first, tunnel=TUNNEL, uplink="uplink")
            beyond = way_lines(client.json("GET", node_path(receiver, "/way"), params=more))
            print_lines(receiver, beyond)
            lines = [*lines, *beyond]
    if arrives(lines):
        print("=> it arrives, as far as the nodes' kernels are concerned")
        return 0
    end = next(line for line in lines if line.is_end)
    print(f"=> it does NOT arrive: {end.part}: {end.says}")
    return 1


def print_lines(node: str, lines: list[Line]) -> None:
    print(node)
    for line in lines:
        print(f"  {'x' if line.is_end else ' '} {line.part:8} {line.says}")


def find_target(client: BlockingClient, text: str, namespace: str, protocol: str, *, second: bool) -> Target:
    """What the words mean: a pod before a service of the same name. Raises `UserError`."""
    head, port = _split_port(text)
    if literal := _literal(head):
        if not port:
            raise UserError(f"{text}: an address needs a port, for instance {shown(literal, 80)}")
        return Target("address", literal, port)
    kind, _, rest = head.partition("/")
    kinds: tuple[Kind, ...] = (POD, SERVICE)
    if kind in ("pod", "svc", "service") and rest:
        kinds, head = ((POD,) if kind == "pod" else (SERVICE,)), rest
    namespace, name = _split_name(head, namespace)
    for wanted in kinds:
        try:
            found = client.get(wanted, name, namespace)
        except ApiError as error:
            if error.code != 404:
                raise
            continue
        return _pod_target(found, port, second) if wanted is POD else _service_target(found, port, protocol, second)
    raise UserError(f"there is no pod and no service {name!r} in namespace {namespace}")


def _pod_target(pod: Object, port: int, second: bool) -> Target:
    ports = [each for container in pod["spec"]["containers"] for each in container.get("ports") or ()]
    addresses = pod_addresses(pod)
    chosen = addresses[-1] if second else addresses[0]
    first = int(ports[0]["containerPort"]) if ports else 80
    return Target(f"pod {key_of(pod)}", chosen, port or first)


def _service_target(service: Object, port: int, protocol: str, second: bool) -> Target:
    spec = service["spec"]
    addresses = [text for text in spec.get("clusterIPs") or () if text != "None"]
    if not addresses:
        raise UserError(f"service {key_of(service)} has no address of its own: name one of its pods")
    ports = [int(each["port"]) for each in spec.get("ports") or () if each.get("protocol", "TCP") == protocol]
    if not port and not ports:
        raise UserError(f"service {key_of(service)} has no {protocol} port")
    return Target(f"service {key_of(service)}", addresses[-1] if second else addresses[0], port or ports[0])


def pod_addresses(pod: Object) -> list[str]:
    """The pod's addresses. Raises `UserError` when it has none."""
    found = [entry["ip"] for entry in (pod.get("status") or {}).get("podIPs") or ()]
    if not found:
        raise UserError(f"pod {key_of(pod)} has no address yet")
    return found


def address_of(pod: Object, family: int) -> str:
    """The pod's address of the family. Raises `UserError`."""
    for address in pod_addresses(pod):
        if family_of(address) == family:
            return address
    raise UserError(f"pod {key_of(pod)} has no IPv{family} address")


def _node_of(client: BlockingClient, address: str) -> str:
    """The node on which the pod with this address is; empty when no pod has it."""
    for pod in client.list(POD)["items"]:
        status = pod.get("status") or {}
        if status.get("phase") in ("Succeeded", "Failed") or pod["spec"].get("hostNetwork"):
            continue
        if address in [entry["ip"] for entry in status.get("podIPs") or ()]:
            return str(pod["spec"]["nodeName"])
    return ""


def _split_name(text: str, namespace: str) -> tuple[str, str]:
    own, slash, name = text.rpartition("/")
    if not name or "/" in own:
        raise UserError(f"{text!r} is not [NAMESPACE/]NAME")
    return (own if slash else namespace), name


def _split_port(text: str) -> tuple[str, int]:
    """`web:80` is web and 80; an IPv6 address with a port has brackets."""
    head, colon, tail = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):
        return text, 0
    if not colon or (":" in head and not head.startswith("[")):
        return text, 0
    if not tail.isdigit() or not 0 < int(tail) < 65536:
        raise UserError(f"{text}: {tail!r} is no port")
    return head, int(tail)


def _literal(text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        return ""


def run_check(arguments: argparse.Namespace) -> int:
    from pyk.cli import netcheck

    return netcheck.run(Session(arguments).client)
