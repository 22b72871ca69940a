"""Who may ask, health, metrics, discovery, and the server's end."""

from __future__ import annotations

import asyncio

import pytest

CONFIGS = "/api/v1/namespaces/default/configmaps"


async def test_strangers_learn_nothing(server):
    async with server.client(certificate=None) as stranger:
        refused = await stranger("GET", CONFIGS)
        assert (refused.status, refused.body["reason"]) == (403, "Forbidden")
        assert 'User "system:anonymous" cannot list resource "configmaps"' in refused.message
        assert (await stranger("GET", "/healthz")).status == 200
    async with server.client(certificate=None, token="wrong") as impostor:
        assert (await impostor("GET", CONFIGS)).status == 401


async def test_a_token_is_as_good_as_a_certificate(server):
    token = (server.pki_dir / "tokens.csv").read_text().split(",")[0]
    async with server.client(certificate=None, token=token) as someone:
        assert (await someone("GET", CONFIGS)).status == 200


async def test_a_node_writes_its_own_things_only(server, api, new_pod):
    async with server.client("node1") as node:
        assert (await node("POST", "/api/v1/nodes", {"metadata": {"name": "n1"}})).status == 201
        assert (await node("POST", "/api/v1/nodes", {"metadata": {"name": "n2"}})).status == 403
        assert (await node("GET", "/api/v1/namespaces/default/secrets")).status == 403


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/readyz/etcd", "/livez/ping"])
async def test_a_healthy_server_says_ok(api, path):
    answer = await api("GET", path)
    assert (answer.status, answer.raw) == (200, b"ok")


async def test_health_tells_its_checks(api):
    verbose = (await api("GET", "/readyz", verbose="")).raw.decode()
    assert "[+]etcd ok" in verbose
    assert verbose.endswith("readyz check passed\n")
    assert (await api("GET", "/readyz/nothing")).status == 404


async def test_metrics_count_requests(api, new_config):
    await api("POST", CONFIGS, new_config("a"))
    text = (await api("GET", "/metrics")).raw.decode()
    line = next(
        each
        for each in text.splitlines()
        if each.startswith("apiserver_request_total")
        and all(part in each for part in ('verb="CREATE"', 'resource="configmaps"', 'code="201"'))
    )
    assert float(line.split()[-1]) >= 1
    assert "apiserver_request_duration_seconds_bucket" in text
    assert "apiserver_request_sli_duration_seconds_bucket" in text
    assert "kubernetes_build_info{" in text
    assert "_created" not in text


async def test_discovery_and_version_are_served(api):
    assert (await api("GET", "/version")).body["minor"] == "36"
    resources = (await api("GET", "/api/v1")).body["resources"]
    assert {"pods", "pods/binding", "namespaces"} <= {resource["name"] for resource in resources}
    assert (await api("GET", "/apis")).body["kind"] == "APIGroupList"


async def test_watches_end_when_the_server_does(start_server):
    running = start_server()
    server = await running.__aenter__()
    async with server.client() as other, other.watch(CONFIGS) as events:
        stop = asyncio.create_task(running.__aexit__(None, None, None))
        assert await events.is_ended()
        async with asyncio.timeout(10):
            await stop
