"""The unmodified kubectl against the server alone."""

from __future__ import annotations

import asyncio

import orjson
import yaml


async def ok(server, *arguments, stdin=""):
    status, out, err = await server.kubectl(*arguments, stdin=stdin)
    assert status == 0, err
    return out


def manifest(*documents):
    return yaml.safe_dump_all(documents)


async def test_apply_get_patch_scale_delete(server, new_config):
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [
                        {"name": "one", "image": "a:1", "env": [{"name": "A", "value": "1"}]},
                        {"name": "two", "image": "b:1"},
                    ]
                },
            },
        },
    }
    text = manifest(deployment, new_config("settings", {"k": "v"}))
    out = await ok(server, "apply", "-f", "-", stdin=text)
    assert out.splitlines() == ["deployment.apps/web created", "configmap/settings created"]
    assert "unchanged" in await ok(server, "apply", "-f", "-", stdin=text)

    deployment["spec"]["template"]["spec"]["containers"] = [{"name": "two", "image": "b:2"}]
    await ok(server, "apply", "-f", "-", stdin=manifest(deployment))
    found = orjson.loads(await ok(server, "get", "deployment", "web", "-o", "json"))
    containers = found["spec"]["template"]["spec"]["containers"]
    assert [(c["name"], c["image"]) for c in containers] == [("two", "b:2")]

    await ok(server, "scale", "deployment/web", "--replicas=5")
    assert await ok(server, "get", "deployment/web", "-o", "jsonpath={.spec.replicas}") == "5"
    await ok(server, "set", "image", "deployment/web", "two=b:3")
    await ok(server, "patch", "cm", "settings", "--type=json", "-p", '[{"op":"replace","path":"/data/k","value":"w"}]')
    assert await ok(server, "get", "cm/settings", "-o", "jsonpath={.data.k}") == "w"
    await ok(server, "label", "cm/settings", "a=b")
    await ok(server, "annotate", "cm/settings", "c=d")
    assert "settings" in await ok(server, "get", "cm", "-l", "a=b", "-o", "wide")
    assert (await ok(server, "delete", "-f", "-", stdin=text)).count("deleted") == 2


async def test_errors_reach_people(server, new_config):
    status, _, err = await server.kubectl("apply", "-f", "-", stdin=manifest(new_config("Bad_Name")))
    assert (status, 'metadata.name: Invalid value: "Bad_Name"' in err) == (1, True)
    wrong = {**new_config("a"), "daata": {}}
    status, _, err = await server.kubectl("apply", "-f", "-", stdin=manifest(wrong))
    assert (status, "daata" in err) == (1, True)
    status, _, err = await server.kubectl("get", "pod", "nope")
    assert (status, err.strip()) == (1, 'Error from server (NotFound): pods "nope" not found')


async def test_watching_with_kubectl(server, api, new_config):
    process = asyncio.create_task(server.kubectl("get", "cm", "-w", "-o", "name", "--request-timeout=4s"))
    configs = "/api/v1/namespaces/default/configmaps"
    async with asyncio.timeout(10):
        index = 0
        while not process.done():
            await api("POST", configs, new_config(f"c{index}"))
            index += 1
            await asyncio.wait([process], timeout=0.2)
    _, out, _ = await process
    assert "configmap/c1" in out


async def test_waiting_for_deletion(server, api, new_config):
    await api("POST", "/api/v1/namespaces/default/configmaps", new_config("a", finalizers=["example.com/hold"]))
    waiting = asyncio.create_task(server.kubectl("delete", "cm", "a", "--timeout=20s"))
    async with asyncio.timeout(20):
        while True:
            found = (await api("GET", "/api/v1/namespaces/default/configmaps/a")).body
            if found["metadata"].get("deletionTimestamp"):
                break
    await api.patch("/api/v1/namespaces/default/configmaps/a", {"metadata": {"finalizers": None}})
    status, out, err = await waiting
    assert (status, "deleted" in out) == (0, True), err


async def test_dry_runs(server, new_config):
    await ok(server, "apply", "--dry-run=server", "-f", "-", stdin=manifest(new_config("a")))
    assert await ok(server, "get", "cm", "-o", "name") == ""


async def test_commands_that_send_protobuf(server):
    await ok(server, "create", "namespace", "x")
    await ok(server, "create", "configmap", "a", "--from-literal=k=v", "-n", "x")
    await ok(server, "create", "secret", "generic", "s", "--from-literal=k=v", "-n", "x")
    await ok(server, "create", "serviceaccount", "z", "-n", "x")
    await ok(server, "create", "deployment", "web", "--image=i", "--replicas=0", "--port=80", "-n", "x")
    found = orjson.loads(await ok(server, "get", "deployment", "web", "-n", "x", "-o", "json"))["spec"]
    assert found["replicas"] == 0
    assert found["template"]["spec"]["containers"][0]["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert await ok(server, "get", "secret", "s", "-n", "x", "-o", "jsonpath={.data.k}") == "dg=="
    assert "web" in await ok(server, "describe", "deployment", "web", "-n", "x")
    status, _, err = await server.kubectl("create", "configmap", "a", "-n", "x")
    assert (status, 'configmaps "a" already exists' in err) == (1, True)
