"""A packet's way in words for people: what the nodes answered, made into lines. Pure.

the answers of `/network/way` of the sender's node and of the receiver's  -->  lines, and whether it arrives
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyk.network.names import BRIDGE, POD_CHAIN, POLICY_CHAIN, SERVICE_CHAIN
from pyk.nftables.evaluate import shown

Document = Mapping[str, Any]

_HASHED = re.compile(r"[a-z]+-[0-9a-f]{8}-(.*)")


@dataclass(frozen=True, slots=True)
class Line:
    """`part` says which part of the way, `says` what happens there; `is_end` that the packet gets no further."""

    part: str
    says: str
    is_end: bool = False


def readable(chain: str) -> str:
    """`default/web/tcp/http/cluster4` of `service-1f2e3d4c-default/web/tcp/http/cluster4`."""
    found = _HASHED.fullmatch(chain)
    return found.group(1) if found else chain


def way_lines(answer: Document) -> list[Line]:
    """What happens to the packet on one node."""
    lines: list[Line] = []
    routed = False
    for stage in answer["stages"]:
        chain = stage["chain"]
        if not routed and chain in ("egress", "ingress", "masquerade"):
            lines += _route_lines(answer)
            routed = True
        if chain.startswith("guard"):
            lines += _guard_lines(stage)
        elif chain.startswith("translate"):
            lines += _translate_lines(stage, answer)
        elif chain in ("egress", "ingress"):
            lines += _policy_lines(stage)
        elif chain == "masquerade":
            lines += _masquerade_lines(stage)
        elif stage["fate"] in ("drop", "reject"):
            lines.append(Line(chain, _ended(stage), True))
    if not routed and (answer["route"] or answer["fate"] == "local"):
        lines += _route_lines(answer)
    return lines


def arrives(lines: Iterable[Line]) -> bool:
    return not any(line.is_end for line in lines)


def _guard_lines(stage: Document) -> list[Line]:
    if stage["fate"] == "continue":
        return []
    return [Line("guard", _ended(stage), True)]


def _translate_lines(stage: Document, answer: Document) -> list[Line]:
    taken = [step["did"] for step in stage["steps"] if f"goto {SERVICE_CHAIN}" in step["did"]]
    to = answer["to"]
    if to is None:
        return []
    name = readable(taken[0].split("goto ", 1)[1]) if taken else "a host port"
    places = [shown(place["address"], place["port"]) for place in answer.get("endpoints") or [to]]
    drawn = f"; one of {answer['choices']}: {', '.join(places)}" if answer["choices"] > 1 else ""
    return [Line("service", f"{name} takes it, to {shown(to['address'], to['port'])}{drawn}")]


def _route_lines(answer: Document) -> list[Line]:
    if answer["fate"] == "local":
        return [Line("route", "an address of the node itself")]
    route = answer["route"]
    if route is None:
        return []
    if "error" in route:
        return [Line("route", f"none: {route['error']}", True)]
    via = f" via {route['gateway']}" if route["gateway"] else ""
    neighbour = answer["neighbour"] or {}
    mac = f", {neighbour['mac']}" if neighbour.get("mac") else ""
    return [Line("route", f"{route['destination']}{via} dev {route['link']}{mac}")]


def _policy_lines(stage: Document) -> list[Line]:
    direction, steps = stage["chain"], stage["steps"]
    if not steps or (stage["fate"] == "continue" and not any(step["did"] == "accept" for step in steps)):
        return []  # the packet does not come from, or go to, a pod of this node
    if stage["fate"] == "reject":
        return [Line(direction, _ended(stage), True)]
    policies = [readable(step["chain"]) for step in steps if step["chain"].startswith(POLICY_CHAIN)]
    if stage["fate"] == "continue":
        last = steps[-1]
        if last["chain"].startswith(POLICY_CHAIN):
            name, _, number = last["comment"].rpartition(" ")
            policy = name.removesuffix(f" {direction}")
            return [Line(direction, f"allowed by NetworkPolicy {policy}, {direction} rule {number}")]
        return [Line(direction, "allowed: no NetworkPolicy isolates the pod")] if not policies else []
    asked = [readable(step["did"].split("jump ", 1)[1]) for step in steps if f"jump {POLICY_CHAIN}" in step["did"]]
    if steps[-1]["chain"].startswith(POD_CHAIN):
        names = ", ".join(sorted(name.rsplit("/", 1)[0] for name in asked))
        return [Line(direction, f"DENIED: no {direction} rule of NetworkPolicy {names} allows it", True)]
    return [Line(direction, f"DENIED: {_ended(stage)}", True)]


def _masquerade_lines(stage: Document) -> list[Line]:
    for step in stage["steps"]:
        if "masquerade" in step["did"]:
            return [Line("source", f"becomes the node's: {step['comment']}")]
    return []


def _ended(stage: Document) -> str:
    """What people read beside the rule that ended it."""
    words = {"drop": "dropped", "reject": "refused"}[stage["fate"]]
    comment = next((step["comment"] for step in reversed(stage["steps"]) if step["comment"]), "")
    return f"{words}: {comment}" if comment else f"{words} by chain {stage['chain']}"


def entering_link(answer: Document, *, tunnel: str, uplink: str) -> str:
    """By which link the packet comes to the other node: through the tunnel when it left through one."""
    return tunnel if answer.get("out") == tunnel else uplink


def leaves(answer: Document) -> bool:
    """Whether the packet leaves the node for another."""
    return answer["fate"] == "sent" and answer.get("out") not in (BRIDGE, "", None)
