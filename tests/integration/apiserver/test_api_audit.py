"""The audit log of a running server: who did what, and what came of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from controlplane.apiserver.auditpolicy import policy_of
from controlplane.apiserver.listing import Lister
from tests.integration.apiserver.conftest import started

MAPS = "/api/v1/namespaces/default/configmaps"
SECRETS = "/api/v1/namespaces/default/secrets"


def policy(*rules: dict[str, Any]) -> Any:
    return policy_of({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": list(rules)})


async def logged(path: Path, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        while True:
            lines = path.read_bytes().splitlines()
            if len(lines) >= count:
                return [orjson.loads(line) for line in lines]
            await asyncio.sleep(0.01)


async def test_each_level_tells_what_it_should(cluster_pki: Path, tmp_path: Path, new_config: Any) -> None:
    rules = policy(
        {"level": "Metadata", "resources": [{"resources": ["secrets"]}], "omitStages": ["RequestReceived"]},
        {
            "level": "RequestResponse",
            "verbs": ["create"],
            "resources": [{"resources": ["configmaps"]}],
            "omitManagedFields": True,
        },
        {"level": "Request", "verbs": ["patch"], "omitStages": ["RequestReceived"]},
    )
    path = tmp_path / "audit.log"
    async with started(cluster_pki, tmp_path, audit_policy=rules, audit_log=path) as server:
        created = await server.api("POST", MAPS, new_config("a", {"k": "v"}), headers={"Audit-ID": "mine"})
        assert created.headers["Audit-ID"] == "mine"
        await server.api("GET", f"{MAPS}/a")
        await server.api.patch(f"{MAPS}/a", {"data": {"k": "w"}})
        secret = {"metadata": {"name": "s"}, "stringData": {"password": "hidden"}}
        as_bob = {"Impersonate-User": "bob", "Impersonate-Group": "people"}
        refused = await server.api("POST", SECRETS, secret, headers=as_bob)
        assert refused.status == 403
        assert refused.headers["Audit-ID"]
        received, made, patched, denied = await logged(path, 4)
    assert (received["stage"], made["stage"]) == ("RequestReceived", "ResponseComplete")
    assert received["auditID"] == made["auditID"] == "mine"
    assert (made["kind"], made["apiVersion"], made["level"]) == ("Event", "audit.k8s.io/v1", "RequestResponse")
    assert (made["verb"], made["requestURI"], made["user"]["username"]) == ("create", MAPS, "kubernetes-admin")
    assert made["objectRef"] == {"resource": "configmaps", "namespace": "default", "apiVersion": "v1"}
    assert made["responseStatus"] == {"metadata": {}, "code": 201}
    assert made["requestObject"]["data"] == made["responseObject"]["data"] == {"k": "v"}
    assert "managedFields" not in made["responseObject"]["metadata"]
    assert made["annotations"]["authorization.k8s.io/decision"] == "allow"
    assert made["sourceIPs"] == ["127.0.0.1"]
    assert (patched["requestObject"], patched["objectRef"]["name"]) == ({"data": {"k": "w"}}, "a")
    assert "responseObject" not in patched
    assert denied["impersonatedUser"]["username"] == "bob"
    assert denied["annotations"] == {"authorization.k8s.io/decision": "forbid"}
    assert (denied["responseStatus"]["code"], denied["responseStatus"]["reason"]) == (403, "Forbidden")
    assert "hidden" not in path.read_text()


async def test_a_watch_is_told_of_when_it_begins_and_a_stranger_when_turned_away(
    cluster_pki: Path, tmp_path: Path
) -> None:
    path = tmp_path / "audit.log"
    rules = policy({"level": "Metadata", "verbs": ["watch"]})
    async with started(cluster_pki, tmp_path, audit_policy=rules, audit_log=path) as server:
        async with server.api.watch(MAPS, timeoutSeconds=1):
            received, begun = await logged(path, 2)
        async with server.client(None, token="wrong") as stranger:
            assert (await stranger("GET", MAPS)).status == 401
        events = await logged(path, 4)
    assert (received["stage"], begun["stage"]) == ("RequestReceived", "ResponseStarted")
    assert begun["responseStatus"]["code"] == 200
    (turned_away,) = [event for event in events if not event["user"]]
    assert (turned_away["level"], turned_away["responseStatus"]["code"]) == ("Metadata", 401)


async def test_a_refused_stream_and_an_error_of_ours_have_their_stages(
    cluster_pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("broken")

    path = tmp_path / "audit.log"
    rules = policy({"level": "Metadata", "resources": [{"resources": ["pods/log", "secrets"]}]})
    async with started(cluster_pki, tmp_path, audit_policy=rules, audit_log=path) as server:
        assert (await server.api("GET", "/api/v1/namespaces/default/pods/none/log")).status == 404
        log = await logged(path, 3)
        monkeypatch.setattr(Lister, "list", fails)
        assert (await server.api("GET", SECRETS)).status == 500
        listed = (await logged(path, 5))[3:]
    assert [event["stage"] for event in log] == ["RequestReceived", "ResponseStarted", "ResponseComplete"]
    assert [event["responseStatus"]["code"] for event in log[1:]] == [404, 404]
    assert [event["stage"] for event in listed] == ["RequestReceived", "Panic"]
    assert listed[1]["responseStatus"]["code"] == 500


async def test_without_a_policy_nothing_is_written(cluster_pki: Path, tmp_path: Path) -> None:
    async with started(cluster_pki, tmp_path) as server:
        answer = await server.api("GET", MAPS)
    assert "Audit-ID" not in answer.headers
    assert not (tmp_path / "audit.log").exists()
