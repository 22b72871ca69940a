"""What the cluster's names lead to."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.reversename
import pytest

from agent.dns.answering import Answering
from agent.dns.forward import Forwarder
from agent.dns.names import ClusterNames, service_addresses, slice_addresses, slice_service
from pyk.api.objects import Object, key_of
from pyk.reconcile.clock import VirtualClock


class Cache:
    """An informer's reading side over a list of objects."""

    def __init__(self, objects: Iterable[Object], **indexes: Any) -> None:
        self.objects = {key_of(obj): obj for obj in objects}
        self._indexes = indexes

    def get(self, key: str) -> Object | None:
        return self.objects.get(key)

    def by_index(self, index: str, value: str) -> list[Object]:
        return [obj for obj in self.objects.values() if value in self._indexes[index](obj)]


def service(name: str, **spec: Any) -> Object:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": {"type": "ClusterIP", "ports": ports, **spec}}


def endpoint(address: str, *, ready: bool = True, **more: Any) -> dict[str, Any]:
    return {"addresses": [address], "conditions": {"ready": ready}, **more}


def slice_of(name: str, endpoints: list[dict[str, Any]], family: str = "IPv4") -> Object:
    metadata = {"name": f"{name}-{family}", "namespace": "shop", "labels": {"kubernetes.io/service-name": name}}
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    return {"metadata": metadata, "addressType": family, "endpoints": endpoints, "ports": ports}


class Node:
    """A node's name server without sockets."""

    def __init__(self, tmp_path: Path) -> None:
        services = [
            service("web", clusterIP="10.96.0.50", clusterIPs=["10.96.0.50", "fd00::50"]),
            service("db", clusterIP="None", clusterIPs=["None"]),
            service("out", type="ExternalName", externalName="web.shop.svc.cluster.local"),
            service("loop", type="ExternalName", externalName="loop.shop.svc.cluster.local"),
        ]
        ready = [endpoint("10.1.0.1", hostname="db-0"), endpoint("10.1.0.2"), endpoint("10.1.0.3", ready=False)]
        slices = [slice_of("db", ready), slice_of("db", [endpoint("fd00::7")], "IPv6")]
        self.services = Cache(services, address=service_addresses)
        self.slices = Cache(slices, address=slice_addresses, dns=slice_service)
        namespaces = Cache([{"metadata": {"name": "shop"}}])
        self.is_ready = True
        self.changes = 0
        clock = VirtualClock()
        self.answering = Answering(
            ClusterNames(self.services, self.slices, namespaces, "cluster.local"),
            Forwarder(tmp_path / "resolv.conf", [], clock),
            [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("10.96.0.0/16")],
            lambda: self.is_ready,
            clock,
            lambda: self.changes,
        )

    async def ask(self, name: str, kind: str = "A", **options: Any) -> dns.message.Message:
        query = dns.message.make_query(name, kind, **options)
        wire = await self.answering.answer(query.to_wire(), is_datagram=True)
        assert wire is not None
        response = dns.message.from_wire(wire)
        assert query.is_response(response)
        return response

    async def texts(self, name: str, kind: str = "A") -> list[str]:
        return texts((await self.ask(name, kind)).answer)


def texts(sections: Any) -> list[str]:
    return sorted(str(each) for rrset in sections for each in rrset)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    (tmp_path / "resolv.conf").write_text("")
    return Node(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("web.shop.svc.cluster.local", "A", ["10.96.0.50"]),
        ("WEB.Shop.SVC.cluster.LOCAL", "A", ["10.96.0.50"]),
        ("web.shop.svc.cluster.local", "AAAA", ["fd00::50"]),
        ("db.shop.svc.cluster.local", "A", ["10.1.0.1", "10.1.0.2"]),
        ("db.shop.svc.cluster.local", "AAAA", ["fd00::7"]),
        ("db-0.db.shop.svc.cluster.local", "A", ["10.1.0.1"]),
        ("10-1-0-2.db.shop.svc.cluster.local", "A", ["10.1.0.2"]),
        ("_http._tcp.web.shop.svc.cluster.local", "SRV", ["0 100 80 web.shop.svc.cluster.local."]),
        (
            "_http._tcp.db.shop.svc.cluster.local",
            "SRV",
            [
                "0 33 8080 10-1-0-2.db.shop.svc.cluster.local.",
                "0 33 8080 db-0.db.shop.svc.cluster.local.",
                "0 33 8080 fd00--7.db.shop.svc.cluster.local.",
            ],
        ),
        ("out.shop.svc.cluster.local", "CNAME", ["web.shop.svc.cluster.local."]),
        ("out.shop.svc.cluster.local", "A", ["10.96.0.50", "web.shop.svc.cluster.local."]),
        ("10-9-8-7.shop.pod.cluster.local", "A", ["10.9.8.7"]),
        ("fd00--9.shop.pod.cluster.local", "AAAA", ["fd00::9"]),
        ("dns-version.cluster.local", "TXT", ['"1.1.0"']),
        ("50.0.96.10.in-addr.arpa", "PTR", ["web.shop.svc.cluster.local."]),
        ("1.0.1.10.in-addr.arpa", "PTR", ["db-0.db.shop.svc.cluster.local."]),
        (str(dns.reversename.from_address("fd00::7")), "PTR", ["fd00--7.db.shop.svc.cluster.local."]),
    ],
)
async def test_a_name_has_its_records(node: Node, name: str, kind: str, expected: list[str]) -> None:
    response = await node.ask(name, kind)
    assert texts(response.answer) == expected
    assert response.rcode() == dns.rcode.NOERROR
    assert response.flags & dns.flags.AA
    assert all(rrset.ttl == 5 for rrset in response.answer)


@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        ("none.shop.svc.cluster.local", "A", dns.rcode.NXDOMAIN),
        ("db-9.db.shop.svc.cluster.local", "A", dns.rcode.NXDOMAIN),
        ("10-1-0-3.db.shop.svc.cluster.local", "A", dns.rcode.NXDOMAIN),
        ("_http._udp.web.shop.svc.cluster.local", "SRV", dns.rcode.NXDOMAIN),
        ("1-2-3-4.nowhere.pod.cluster.local", "A", dns.rcode.NXDOMAIN),
        ("web.shop.cluster.local", "A", dns.rcode.NXDOMAIN),
        ("99.0.96.10.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN),
        ("db-0.db.shop.svc.cluster.local", "MX", dns.rcode.NOERROR),
        ("web.shop.svc.cluster.local", "TXT", dns.rcode.NOERROR),
        ("shop.svc.cluster.local", "A", dns.rcode.NOERROR),
        ("svc.cluster.local", "A", dns.rcode.NOERROR),
        ("_tcp.web.shop.svc.cluster.local", "A", dns.rcode.NOERROR),
        ("_http._tcp.web.shop.svc.cluster.local", "A", dns.rcode.NOERROR),
    ],
)
async def test_a_name_without_records_says_how_long_that_holds(
    node: Node, name: str, kind: str, rcode: dns.rcode.Rcode
) -> None:
    response = await node.ask(name, kind)
    assert (response.rcode(), response.answer) == (rcode, [])
    (soa,) = response.authority
    assert soa.rdtype == dns.rdatatype.SOA
    assert soa[0].minimum == 5


async def test_an_answer_is_as_the_caches_are_now(node: Node) -> None:
    assert await node.texts("web.shop.svc.cluster.local") == ["10.96.0.50"]
    del node.services.objects["shop/web"]
    assert (await node.ask("web.shop.svc.cluster.local")).rcode() == dns.rcode.NXDOMAIN
    node.slices.objects["shop/db-IPv4"]["endpoints"][2]["conditions"]["ready"] = True
    assert "10.1.0.3" in await node.texts("db.shop.svc.cluster.local")


async def test_before_the_caches_are_filled_no_name_is_said_not_to_exist(node: Node) -> None:
    node.is_ready = False
    assert (await node.ask("none.shop.svc.cluster.local")).rcode() == dns.rcode.SERVFAIL
    assert (await node.ask("50.0.96.10.in-addr.arpa", "PTR")).rcode() == dns.rcode.SERVFAIL


async def test_aliases_that_go_in_a_circle_end(node: Node) -> None:
    assert (await node.ask("loop.shop.svc.cluster.local")).answer


async def test_a_long_answer_is_cut_for_a_datagram_and_whole_over_tcp(node: Node) -> None:
    endpoints = [endpoint(f"10.1.1.{number}") for number in range(200)]
    node.slices.objects["shop/db-IPv4"]["endpoints"] = endpoints
    cut = await node.ask("db.shop.svc.cluster.local")
    assert cut.flags & dns.flags.TC
    assert len(cut.to_wire()) <= 512
    larger = await node.ask("db.shop.svc.cluster.local", use_edns=0, payload=4096)
    assert larger.flags & dns.flags.TC
    assert len(larger.to_wire()) <= 1232
    query = dns.message.make_query("db.shop.svc.cluster.local", "A")
    wire = await node.answering.answer(query.to_wire(), is_datagram=False)
    assert wire is not None
    assert len(texts(dns.message.from_wire(wire).answer)) == 200


async def test_what_is_no_good_question_is_told_so_or_gets_nothing(node: Node) -> None:
    good = dns.message.make_query("web.shop.svc.cluster.local", "A")
    answer = await node.answering.answer(good.to_wire()[:20], is_datagram=True)
    assert answer is not None
    assert answer[3] & 0xF == dns.rcode.FORMERR
    assert await node.answering.answer(b"short", is_datagram=True) is None
    reply = dns.message.make_response(good)
    assert await node.answering.answer(reply.to_wire(), is_datagram=True) is None
    update = dns.message.make_query("cluster.local", "SOA")
    update.set_opcode(dns.opcode.NOTIFY)
    wire = await node.answering.answer(update.to_wire(), is_datagram=True)
    assert wire is not None
    assert dns.message.from_wire(wire).rcode() == dns.rcode.NOTIMP


async def test_without_an_upstream_other_names_fail_and_are_not_denied(node: Node) -> None:
    assert (await node.ask("example.com")).rcode() == dns.rcode.SERVFAIL


async def test_an_answer_goes_out_again_until_something_changes(node: Node) -> None:
    def question(name: str, number: int, kind: str = "A") -> bytes:
        query = dns.message.make_query(name, kind, id=number)
        return query.to_wire()

    async def answered(name: str, kind: str = "A") -> bytes:
        wire = await node.answering.answer(question(name, 1, kind), is_datagram=True)
        assert wire is not None
        return wire

    name = "web.shop.svc.cluster.local"
    assert node.answering.known(question(name, 1)) is None
    wire = await answered(name)
    assert node.answering.known(question(name, 7)) == (7).to_bytes(2, "big") + wire[2:]
    assert node.answering.known(question(name.upper(), 7)) is None, "a client may check how its question was spelt"
    await answered("db.shop.svc.cluster.local")
    assert node.answering.known(question("db.shop.svc.cluster.local", 1)) is None, "the order is drawn each time"
    missing = "example.com.shop.svc.cluster.local"
    await answered(missing)
    assert node.answering.known(question(missing, 2)) is not None
    del node.services.objects["shop/web"]
    node.changes += 1
    assert node.answering.known(question(name, 3)) is None
    assert dns.message.from_wire(await answered(name)).rcode() == dns.rcode.NXDOMAIN
    assert node.answering.known(question(missing, 2)) is None
    node.is_ready = False
    node.changes += 1
    await answered(name)
    assert node.answering.known(question(name, 4)) is None, "a failure is not kept"
