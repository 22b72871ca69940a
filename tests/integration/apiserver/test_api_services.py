"""Services at a real API server: addresses and node ports that no other has, and what follows from changes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from controlplane.apiserver.allocation import PORTS_PREFIX
from controlplane.apiserver.server import ServerOptions, running_server
from controlplane.store.sqlite import SqliteStore
from pyk.api.kinds import ENDPOINT_SLICE, ENDPOINTS, SERVICE
from pyk.reconcile.clock import RealClock
from tests.integration.apiserver.conftest import Api, Server

SERVICES = "/api/v1/namespaces/default/services"
ADDRESSES = "/apis/networking.k8s.io/v1/ipaddresses"
CIDRS = "/apis/networking.k8s.io/v1/servicecidrs"


def service(name: str, ports: tuple[int, ...] = (80,), **spec: Any) -> dict[str, Any]:
    named = [{"name": f"p{port}", "port": port} for port in ports]
    return {"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": named, **spec}}


async def _records(server: Server) -> tuple[set[str], set[int]]:
    """The addresses and node ports that the records say are taken, that of `kubernetes` aside."""
    found = (await server.api("GET", ADDRESSES)).body["items"]
    page = await server.store.list(PORTS_PREFIX)
    return {each["metadata"]["name"] for each in found} - {"10.96.0.1"}, {
        int(each.key[len(PORTS_PREFIX) :]) for each in page.entries
    }


async def test_the_server_keeps_a_service_of_its_own_that_leads_to_it(cluster_pki: Path, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db", clock=RealClock())
    options = ServerOptions(pki_dir=cluster_pki, port=0, advertise_address="192.0.2.7")
    async with running_server(store, options, RealClock()) as port:
        service, endpoints, endpoint_slice = [
            orjson.loads(found.value)
            for kind in (SERVICE, ENDPOINTS, ENDPOINT_SLICE)
            if (found := await store.get(kind.storage_key("default", "kubernetes"))) is not None
        ]
        assert service["spec"]["clusterIP"] == "10.96.0.1"
        assert [(each["port"], each["targetPort"]) for each in service["spec"]["ports"]] == [(443, port)]
        assert endpoints["subsets"][0]["addresses"] == [{"ip": "192.0.2.7"}]
        assert endpoint_slice["endpoints"][0]["addresses"] == ["192.0.2.7"]
        assert endpoint_slice["ports"] == [{"name": "https", "port": port, "protocol": "TCP"}]


async def test_creates_at_once_get_different_addresses_and_node_ports(server: Server, api: Api) -> None:
    made = await asyncio.gather(*(api("POST", SERVICES, service(f"s{n}", type="NodePort")) for n in range(40)))
    assert {answer.status for answer in made} == {201}
    addresses = {answer.body["spec"]["clusterIP"] for answer in made}
    ports = {answer.body["spec"]["ports"][0]["nodePort"] for answer in made}
    assert len(addresses) == len(ports) == 40
    assert await _records(server) == (addresses, ports)
    assert not any(address.startswith("10.96.0.") for address in addresses), "the lower band is for those who ask"
    await api("DELETE", SERVICES)
    assert await _records(server) == (set(), set())


async def test_one_of_many_that_ask_for_the_same_address_and_port_gets_them(server: Server, api: Api) -> None:
    ask = {"type": "NodePort", "clusterIP": "10.96.0.77"}
    bodies = [service(f"s{n}", **ask) for n in range(8)]
    for body in bodies:
        body["spec"]["ports"][0]["nodePort"] = 30100
    answers = await asyncio.gather(*(api("POST", SERVICES, body) for body in bodies))
    assert sorted(answer.status for answer in answers) == [201] + [422] * 7
    assert all("provided IP is already allocated" in each.message for each in answers if each.status == 422)
    assert await _records(server) == ({"10.96.0.77"}, {30100})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"clusterIP": "10.1.2.3"},
            "failed to allocate IP 10.1.2.3: the provided IP (10.1.2.3) is not in the valid range",
        ),
        ({"ipFamilyPolicy": "RequireDualStack"}, "this cluster is not configured for dual-stack services"),
        ({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}, "provided port is not in the valid range."),
        ({"ports": []}, "spec.ports: Required value"),
        ({"type": "ExternalName", "ports": []}, "spec.externalName: Required value"),
    ],
)
async def test_a_refused_service_takes_nothing(server: Server, api: Api, spec: dict[str, Any], message: str) -> None:
    answer = await api("POST", SERVICES, service("bad") | {"spec": {**service("bad")["spec"], **spec}})
    assert answer.status == 422
    assert message in answer.message
    assert await _records(server) == (set(), set())


async def test_a_changed_type_takes_and_gives_back(server: Server, api: Api) -> None:
    path = f"{SERVICES}/web"
    first = (await api("POST", SERVICES, service("web", type="NodePort"))).body["spec"]
    assert first["ipFamilies"] == ["IPv4"]
    assert first["ipFamilyPolicy"] == "SingleStack"
    named = (await api.patch(path, {"spec": {"type": "ExternalName", "externalName": "example.com"}})).body["spec"]
    assert not {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} & set(named)
    assert "nodePort" not in named["ports"][0]
    assert await _records(server) == (set(), set())
    again = (await api.patch(path, {"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}})).body["spec"]
    assert "externalName" not in again
    ports = {again["ports"][0]["nodePort"], again["healthCheckNodePort"]}
    assert await _records(server) == ({again["clusterIP"]}, ports)
    refused = await api.patch(path, {"spec": {"clusterIP": "10.96.0.9"}})
    assert 'spec.clusterIPs[0]: Invalid value: ["10.96.0.9"]: may not change once set' in refused.message
    whole = service("web", type="LoadBalancer", externalTrafficPolicy="Local")
    put = (await api("PUT", path, whole)).body["spec"]
    assert (put["clusterIP"], put["ports"][0]["nodePort"]) == (again["clusterIP"], again["ports"][0]["nodePort"])


async def test_a_headless_service_without_a_selector_may_have_both_families(api: Api) -> None:
    body = {"metadata": {"name": "db"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}
    spec = (await api("POST", SERVICES, body)).body["spec"]
    assert (spec["clusterIPs"], spec["ipFamilyPolicy"], spec["ipFamilies"]) == (
        ["None"],
        "RequireDualStack",
        ["IPv4", "IPv6"],
    )


async def test_affinity_is_given_and_taken_away_by_one_field(api: Api) -> None:
    await api("POST", SERVICES, service("sticky"))
    merge = {"Content-Type": "application/merge-patch+json"}

    async def patched(affinity: str) -> Any:
        answer = await api("PATCH", f"{SERVICES}/sticky", {"spec": {"sessionAffinity": affinity}}, headers=merge)
        assert answer.status == 200, answer.body
        return answer.body["spec"]

    for _ in range(2):
        assert (await patched("ClientIP"))["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
        assert "sessionAffinityConfig" not in await patched("None")


async def test_a_dry_run_takes_nothing(server: Server, api: Api) -> None:
    made = await api("POST", SERVICES, service("dry", type="NodePort"), dryRun="All")
    assert made.body["spec"]["clusterIP"].startswith("10.96.")
    assert await _records(server) == (set(), set())


async def test_a_second_range_is_used_when_its_service_cidr_is_there(server: Server, api: Api) -> None:
    asked = service("far", clusterIP="10.200.0.5")
    assert (await api("POST", SERVICES, asked)).status == 422
    assert (
        await api("POST", CIDRS, {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.200.0.0/24"]}})
    ).status == 201
    assert (await api("POST", SERVICES, asked)).body["spec"]["clusterIP"] == "10.200.0.5"


async def test_services_are_listed_by_address_and_type(api: Api) -> None:
    await api("POST", SERVICES, service("web", ports=(80, 443), type="NodePort"))
    listed = await api("GET", SERVICES, fieldSelector="spec.type=NodePort")
    assert [each["metadata"]["name"] for each in listed.body["items"]] == ["web"]
    listed = await api("GET", SERVICES, fieldSelector="spec.clusterIP=10.96.0.1")
    assert [each["metadata"]["name"] for each in listed.body["items"]] == ["kubernetes"]
    table = await api(
        "GET", f"{SERVICES}/web", headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    )
    assert [each["name"] for each in table.body["columnDefinitions"]][4] == "Port(s)"
    assert "/TCP,443:" in table.body["rows"][0]["cells"][4]


async def test_the_status_of_a_load_balancer_says_what_its_address_is(api: Api) -> None:
    await api("POST", SERVICES, service("lb", type="LoadBalancer", loadBalancerClass="example.com/own"))
    status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"hostname": "lb.example"}]}}
    patched = await api.patch(f"{SERVICES}/lb/status", {"status": status})
    assert patched.body["status"]["loadBalancer"]["ingress"] == [
        {"ip": "203.0.113.1", "ipMode": "VIP"},
        {"hostname": "lb.example"},
    ]
    await api("POST", SERVICES, service("plain"))
    refused = await api.patch(f"{SERVICES}/plain/status", {"status": status})
    assert "may only be used when `spec.type` is LoadBalancer" in refused.message
