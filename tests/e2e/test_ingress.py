"""Ingresses as a user has them: the manifest is applied, and HTTP from outside reaches pods."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Cluster, wait_for

MANIFEST = Path(__file__).parents[2] / "manifests" / "ingress.yaml"
HTTP, HTTPS = 30080, 30443
SERVER = """
import os, socket
from aiohttp import web

async def handle(request):
    if request.headers.get("Upgrade") == "websocket":
        served = web.WebSocketResponse()
        await served.prepare(request)
        async for message in served:
            await served.send_str(message.data.upper())
        return served
    body = await request.read()
    told = {"pod": socket.gethostname(), "path": request.raw_path, "bytes": len(body), "method": request.method}
    return web.json_response(told | {"headers": dict(request.headers)})

app = web.Application(client_max_size=1 << 30)
app.router.add_route("*", "/{rest:.*}", handle)
web.run_app(app, port=8080, print=None)
"""


def backend_documents(name: str, replicas: int, **spec: Any) -> list[dict[str, Any]]:
    """A Deployment of servers that say what they were asked, and their Service with a named port."""
    container = {
        "name": "main",
        "image": "pyk.local/pyk",
        "args": ["-c", SERVER],
        "ports": [{"name": "web", "containerPort": 8080}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }
    labels = {"app": name}
    pod = {"terminationGracePeriodSeconds": 10, "containers": [container]}
    workload = {"metadata": {"labels": labels}, "spec": pod}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": workload, **spec},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]},
        },
    ]


def ingress_document(name: str, rules: list[tuple[str, str, str, str]], **spec: Any) -> dict[str, Any]:
    """Rules are (host, path type, path, service); the service's port goes by its name."""
    metadata = {"name": name, "annotations": spec.pop("annotations", {})}
    found = [
        {
            "host": host,
            "http": {
                "paths": [
                    {
                        "pathType": kind,
                        "path": path,
                        "backend": {"service": {"name": service, "port": {"name": "http"}}},
                    }
                ]
            },
        }
        for host, kind, path, service in rules
    ]
    body = {"rules": found, **spec}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": body}


@pytest.fixture(scope="module")
def proxy(cluster: Cluster) -> Iterator[str]:
    """The proxy of the manifest: the address of a node."""
    cluster.pyk("apply", "-f", str(MANIFEST), "--wait")
    node = cluster.get("nodes")["items"][0]
    yield next(str(each["address"]) for each in node["status"]["addresses"] if each["type"] == "InternalIP")
    cluster.kubectl("delete", "-f", str(MANIFEST), "--wait=false")


def ask(address: str, host: str, path: str = "/", method: str = "GET", **options: Any) -> tuple[int, Any]:
    """Status and body (a document, if it is one) of a request over a connection of its own."""
    connection = http.client.HTTPConnection(address, HTTP, timeout=10)
    try:
        connection.request(method, path, headers={"Host": host}, **options)
        answer = connection.getresponse()
        body = answer.read()
        is_json = answer.headers.get("Content-Type", "").startswith("application/json")
        return answer.status, json.loads(body) if is_json else answer.headers.get("Location") or body.decode()
    finally:
        connection.close()


def make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """A certificate signed by itself, and its key."""
    chain, key = folder / f"{host}.crt", folder / f"{host}.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    subject = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    subprocess.run([*command, *subject, "-keyout", key, "-out", chain], check=True, capture_output=True)
    return chain, key


def ask_by_tls(address: str, host: str, trusted: Path) -> int:
    """The status of a request whose certificate is checked for the host."""
    context = ssl.create_default_context(cafile=str(trusted))
    with (
        socket.create_connection((address, HTTPS), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        secured.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return int(secured.recv(4096).split()[1])


def websocket_echo(address: str, host: str, text: str) -> str:
    """What comes back of a short text through a WebSocket (RFC 6455)."""
    with socket.create_connection((address, HTTP), timeout=10) as client, client.makefile("rwb") as file:
        lines = [f"GET /ws HTTP/1.1\r\nHost: {host}", "Connection: Upgrade", "Upgrade: websocket"]
        lines += [f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}", "Sec-WebSocket-Version: 13", "\r\n"]
        file.write("\r\n".join(lines).encode())
        file.flush()
        assert b"101" in file.readline()
        while file.readline() != b"\r\n":
            pass
        file.write(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text.encode())  # a mask of zeros
        file.flush()
        _, length = file.read(2)
        return str(file.read(length).decode())


def test_requests_reach_pods_by_host_path_and_certificate(
    cluster: Cluster, namespace: str, proxy: str, tmp_path: Path
) -> None:
    host = f"{namespace}.example"
    cluster.apply([*backend_documents("web", 2), *backend_documents("api", 1)], namespace)
    chain, key = make_certificate(tmp_path, f"secure.{host}")
    cluster.kubectl("create", "secret", "tls", "own", "-n", namespace, f"--cert={chain}", f"--key={key}")
    cluster.apply(
        [
            ingress_document(
                "one",
                [(host, "Prefix", "/", "web"), (host, "Prefix", "/api", "api"), (f"*.{host}", "Exact", "/x", "api")],
            ),
            ingress_document(
                "two",
                [(f"secure.{host}", "Prefix", "/", "web")],
                tls=[{"hosts": [f"secure.{host}"], "secretName": "own"}],
                annotations={"ingress.pyk.io/ssl-redirect": "true"},
            ),
            ingress_document("broken", [(f"broken.{host}", "Prefix", "/", "nothing")], tls=[{"secretName": "none"}]),
        ],
        namespace,
    )
    for name in ("web", "api"):
        cluster.kubectl("rollout", "status", f"deployment/{name}", "-n", namespace, "--timeout=60s")
    names = {pod["metadata"]["name"] for pod in cluster.get("pods", "-n", namespace, "-l", "app=web")["items"]}
    wait_for("the rules are in", lambda: ask(proxy, host)[0] == 200)

    seen = [ask(proxy, host, "/some%20where?a=b")[1] for _ in range(16)]
    assert {each["pod"] for each in seen} == names
    assert seen[0]["path"] == "/some%20where?a=b"
    gateway = seen[0]["headers"]["X-Forwarded-For"]
    assert gateway not in {pod["status"].get("podIP") for pod in cluster.get("pods", "-A")["items"]}
    assert seen[0]["headers"]["Host"] == host
    assert ask(proxy, host, "/api/v1")[1]["pod"].startswith("api-")
    assert ask(proxy, host, "/apiary")[1]["pod"].startswith("web-")
    assert ask(proxy, f"any.{host}", "/x")[1]["pod"].startswith("api-")
    assert ask(proxy, f"any.{host}", "/y")[0] == 404
    assert ask(proxy, "unknown.example")[0] == 404
    assert ask(proxy, host, method="POST", body=b"x" * (5 << 20))[1]["bytes"] == 5 << 20
    assert websocket_echo(proxy, host, "hello") == "HELLO"

    assert ask(proxy, f"secure.{host}", "/a?b") == (308, f"https://secure.{host}/a?b")
    assert ask_by_tls(proxy, f"secure.{host}", chain) == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        ask_by_tls(proxy, host, chain)

    def told() -> bool:
        events = cluster.get("events", "-n", namespace, "--field-selector", "involvedObject.name=broken")["items"]
        return {"BackendNotFound", "BadCertificate"} <= {event["reason"] for event in events}

    wait_for("people are told what is missing", told)
    assert ask(proxy, f"broken.{host}")[0] == 503
    nodes = {each["address"] for node in cluster.get("nodes")["items"] for each in node["status"]["addresses"]}
    shown = cluster.get("ingress", "one", "-n", namespace)["status"]["loadBalancer"]["ingress"]
    assert {each["ip"] for each in shown} <= nodes
    assert len(shown) == len(cluster.get("nodes")["items"])


def test_updates_of_the_backend_and_of_the_proxy_lose_no_request(cluster: Cluster, namespace: str, proxy: str) -> None:
    host = f"{namespace}.example"
    documents = backend_documents("web", 2)
    # A server that closes as it is told to end may close on a POST that was just sent, which nobody may repeat.
    [container] = documents[0]["spec"]["template"]["spec"]["containers"]
    container["lifecycle"] = {"preStop": {"sleep": {"seconds": 2}}}
    cluster.apply([*documents, ingress_document("web", [(host, "Prefix", "/", "web")])], namespace)
    cluster.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s")
    wait_for("the rule is in", lambda: ask(proxy, host)[0] == 200)
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    done = threading.Event()

    def load(method: str) -> None:
        while not done.is_set():
            try:
                status, told = ask(proxy, host, method=method, body=b"x")
                outcomes[told["pod"] if status == 200 else failures.append(f"{status} {told}") or ""] += 1
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))

    before = {pod["metadata"]["name"] for pod in cluster.get("pods", "-n", namespace)["items"]}
    loaders = [threading.Thread(target=load, args=(method,)) for method in ("GET", "POST")]
    for loader in loaders:
        loader.start()
    try:
        cluster.kubectl("rollout", "restart", "deployment/web", "-n", namespace)
        cluster.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s")
        wait_for("requests go to both new pods", lambda: len(outcomes.keys() - before - {""}) == 2, seconds=20)
        cluster.kubectl("rollout", "restart", "daemonset/ingress", "-n", "ingress")
        cluster.kubectl("rollout", "status", "daemonset/ingress", "-n", "ingress", "--timeout=90s")
    finally:
        done.set()
        for loader in loaders:
            loader.join()
    assert failures == []
