"""`pyk net check`: real packets from every node to every other, through a service, and to the name servers.

Each node attaches a namespace of its own to the pod network, as it would a pod, and connects from there; a Service made
for the check leads to all of them. One line a check, in order; what failed is asked after in the kernels.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pyk.api.kinds import ENDPOINT_SLICE, NODE, SERVICE
from pyk.api.objects import Object, name_of
from pyk.api.services import cluster_ips_of
from pyk.api.status import ApiError
from pyk.cli.net import is_ready, node_path
from pyk.client.blocking import BlockingClient
from pyk.network.names import family_of
from pyk.network.report import way_lines
from pyk.nftables.evaluate import shown
from pyk.reconcile.clock import RealClock

NAMESPACE = "kube-system"
_DNS_SERVICE = "kube-dns"
_PATIENCE_SECONDS = 5.0
"""For rules and names to follow the Service that was just made."""


@dataclass(slots=True)
class Outcome:
    """The lines that were told, and how many of them tell of a failure."""

    told: int = 0
    failed: int = 0
    places: dict[str, dict[str, Any]] = field(default_factory=dict)

    def tell(self, is_good: bool, what: str, says: str) -> None:
        self.told += 1
        self.failed += not is_good
        print(f"{'ok  ' if is_good else 'FAIL'}  {what:42} {says}", flush=True)


def run(client: BlockingClient) -> int:
    """Check everything: 0 when all packets came through."""
    outcome = Outcome()
    for node in sorted(client.list(NODE)["items"], key=name_of):
        _open(client, node, outcome)
    name = f"net-check-{secrets.token_hex(3)}"
    try:
        _pods(client, outcome)
        service = _make_service(client, name, outcome)
        if service is not None:
            _service(client, service, outcome)
        _names(client, service, outcome)
    finally:
        with suppress(ApiError):
            client.json("DELETE", SERVICE.path(NAMESPACE, name))
        for number in range(len(cluster_families(outcome))):
            with suppress(ApiError):
                client.json("DELETE", ENDPOINT_SLICE.path(NAMESPACE, f"{name}-{number}"))
        for place in outcome.places:
            with suppress(ApiError):
                client.json("DELETE", node_path(place, "/check"))
    print(f"{outcome.told} checks, {outcome.failed} failed" if outcome.failed else f"{outcome.told} checks, all well")
    return 1 if outcome.failed else 0


def _open(client: BlockingClient, node: Object, outcome: Outcome) -> None:
    name = name_of(node)
    if not is_ready(node):
        outcome.tell(False, name, "the node is not ready")
        return
    try:
        outcome.places[name] = client.json("POST", node_path(name, "/check"))
    except ApiError as error:
        outcome.tell(False, name, f"no place on its pod network: {error.message}")


def cluster_families(outcome: Outcome) -> list[int]:
    """The families of the places, the primary one first."""
    found = [family_of(address) for place in outcome.places.values() for address in place["addresses"]]
    return list(dict.fromkeys(found))


def _pods(client: BlockingClient, outcome: Outcome) -> None:
    for sender in outcome.places:
        for receiver, place in outcome.places.items():
            for address in place["addresses"]:
                what = f"{sender} -> {receiver}  pod to pod IPv{family_of(address)}"
                answer = _ask(client, sender, address, place["port"])
                if answer.get("answer") == receiver:
                    outcome.tell(True, what, f"{shown(address, place['port'])}  {_time(answer)}")
                else:
                    why = answer.get("error") or f"{answer.get('answer')!r} answered"
                    cause = _cause(client, sender, outcome, address)
                    outcome.tell(False, what, f"{shown(address, place['port'])}  {why}; {cause}")


def _cause(client: BlockingClient, sender: str, outcome: Outcome, address: str) -> str:
    """What the sender's kernel says of the way, if it is there that it ends."""
    own = next((each for each in outcome.places[sender]["addresses"] if family_of(each) == family_of(address)), "")
    query = {"source": own, "destination": address, "port": str(outcome.places[sender]["port"])}
    with suppress(ApiError):
        for line in way_lines(client.json("GET", node_path(sender, "/way"), params=query)):
            if line.is_end:
                return f"on {sender}: {line.part}: {line.says}"
    return f"{sender} sends it, so look at the other node"


def _make_service(client: BlockingClient, name: str, outcome: Outcome) -> Object | None:
    """A Service whose endpoints are all the places; None where it may not be made, which is told."""
    families = cluster_families(outcome)
    if not families:
        return None
    port = next(iter(outcome.places.values()))["port"]
    try:
        service: Object = client.json("POST", SERVICE.path(NAMESPACE), body=service_document(name, port))
        for number, family in enumerate(families):
            document = slice_document(f"{name}-{number}", name, family, outcome.places, port)
            client.json("POST", ENDPOINT_SLICE.path(NAMESPACE), body=document)
    except ApiError as error:
        outcome.tell(False, "service for the check", f"cannot be made: {error.message}")
        return None
    return service


def service_document(name: str, port: int) -> Object:
    spec = {"ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80, "targetPort": port, "protocol": "TCP"}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def slice_document(name: str, service: str, family: int, places: dict[str, dict[str, Any]], port: int) -> Object:
    endpoints = [
        {"addresses": [address], "conditions": {"ready": True}, "nodeName": node}
        for node, place in places.items()
        for address in place["addresses"]
        if family_of(address) == family
    ]
    labels = {"kubernetes.io/service-name": service}
    return {
        "apiVersion": ENDPOINT_SLICE.api_version,
        "kind": ENDPOINT_SLICE.kind,
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "addressType": f"IPv{family}",
        "endpoints": endpoints,
        "ports": [{"name": "", "port": port, "protocol": "TCP"}],
    }


def _service(client: BlockingClient, service: Object, outcome: Outcome) -> None:
    for sender in outcome.places:
        for address in cluster_ips_of(service["spec"]):
            what = f"{sender} -> service  IPv{family_of(address)}"
            said, last = _everybody(client, sender, address, set(outcome.places))
            lacking = sorted(outcome.places.keys() - said)
            if not lacking:
                outcome.tell(True, what, f"{shown(address, 80)}  answered by {', '.join(sorted(said))}  {_time(last)}")
            else:
                why = f"; last: {last['error']}" if "error" in last else ""
                outcome.tell(False, what, f"{shown(address, 80)}  not answered by {', '.join(lacking)}{why}")


def _names(client: BlockingClient, service: Object | None, outcome: Outcome) -> None:
    try:
        servers = cluster_ips_of(client.get(SERVICE, _DNS_SERVICE, NAMESPACE)["spec"])
    except ApiError as error:
        outcome.tell(False, "name servers", f"service {NAMESPACE}/{_DNS_SERVICE}: {error.message}")
        return
    for sender, place in outcome.places.items():
        for server in servers:
            if service is None:
                continue
            name = f"{name_of(service)}.{NAMESPACE}.svc.{place['domain']}."
            for address in cluster_ips_of(service["spec"]):
                kind = "AAAA" if family_of(address) == 6 else "A"
                answer = _resolved(client, sender, {"server": server, "name": name, "type": kind}, address)
                what, is_good = f"{sender} -> DNS {server}  {kind}", answer.get("answer") == [address]
                wrong = answer.get("error") or f"answered {answer.get('answer')}, not {address}"
                outcome.tell(is_good, what, f"{address}  {_time(answer)}" if is_good else wrong)


def _everybody(client: BlockingClient, sender: str, address: str, wanted: set[str]) -> tuple[set[str], dict[str, Any]]:
    """Who answers at a service's address until all have or patience ends, and the last answer."""
    said: set[str] = set()
    last: dict[str, Any] = {}
    for _ in _attempts():
        last = _ask(client, sender, address, 80)
        said |= {str(last["answer"])} if "answer" in last else set()
        if said >= wanted:
            break
    return said, last


def _resolved(client: BlockingClient, sender: str, question: dict[str, str], wanted: str) -> dict[str, Any]:
    """The answer of a name server, as soon as it is the one wanted; the last one when it never is."""
    answer: dict[str, Any] = {}
    for _ in _attempts():
        answer = client.json("POST", node_path(sender, "/resolve"), body=question)
        if answer.get("answer") == [wanted]:
            break
    return answer


def _attempts() -> Iterator[None]:
    """Turns until patience ends."""
    clock = RealClock()
    deadline = clock.monotonic() + _PATIENCE_SECONDS
    while clock.monotonic() < deadline:
        yield


def _ask(client: BlockingClient, sender: str, address: str, port: int) -> dict[str, Any]:
    answer: dict[str, Any] = client.json("POST", node_path(sender, "/ask"), body={"address": address, "port": port})
    return answer


def _time(answer: dict[str, Any]) -> str:
    return f"{answer['seconds'] * 1000:.1f} ms"
