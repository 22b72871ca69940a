"""Ports of pods that are reached through the API server and the pod's node: kubectl and the Python client."""

from __future__ import annotations

import hashlib
import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

import pytest
from kubernetes import client, config
from kubernetes.stream import portforward

from tests.e2e.harness import KUBECTL, Cluster, pod_document, wait_for
from tests.patience import patient

SERVER = """
exec python3 -c '
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(b"x" * 3000000 if self.path == "/big" else b"hello from the pod")
    def do_POST(self):
        if self.headers["Content-Length"]:
            return self.answer(self.rfile.read(int(self.headers["Content-Length"])))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.answer(body)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
'
"""


@pytest.fixture
def web(cluster: Cluster, namespace: str) -> str:
    """A pod that answers HTTP on port 8080."""
    probe = {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1, "timeoutSeconds": round(patient(1))}
    cluster.apply(pod_document("web", SERVER, container={"readinessProbe": probe}), namespace)
    cluster.wait_ready(namespace, "web")
    return "web"


@contextmanager
def forwarded(cluster: Cluster, namespace: str, pod: str, *ports: str) -> Iterator[tuple[list[int], list[str]]]:
    """The local ports of a running `kubectl port-forward`, and what it complains about."""
    process = subprocess.Popen(
        [str(KUBECTL), "port-forward", f"pod/{pod}", "-n", namespace, *ports],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    complaints: list[str] = []
    reader = threading.Thread(target=lambda: complaints.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        local = []
        while len(local) < len(ports):
            line = process.stdout.readline()
            assert line, complaints
            if found := re.search(r"127\.0\.0\.1:(\d+) ->", line):
                local.append(int(found[1]))
        yield local, complaints
    finally:
        process.terminate()
        process.wait(10)
        reader.join(10)
        process.stdout.close()
        process.stderr.close()


def test_kubectl_forwards_a_port(cluster: Cluster, namespace: str, web: str) -> None:
    with forwarded(cluster, namespace, web, ":8080") as ((port,), complaints):
        for _ in range(5):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
                assert answer.read() == b"hello from the pod"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/big", timeout=20) as answer:
            assert len(answer.read()) == 3_000_000
        sent = hashlib.sha256(b"seed").digest() * 50_000
        request = urllib.request.Request(f"http://127.0.0.1:{port}/", data=sent, method="POST")
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.read() == sent
        assert complaints == []


def test_kubectl_is_told_that_nothing_listens(cluster: Cluster, namespace: str, web: str) -> None:
    with forwarded(cluster, namespace, web, ":8080", ":81") as ((_, closed), complaints):
        with pytest.raises((OSError, HTTPException)):
            urllib.request.urlopen(f"http://127.0.0.1:{closed}/", timeout=20)
        wait_for("the reason", lambda: any("connection refused" in line for line in complaints))


def test_the_python_client_forwards_ports(cluster: Cluster, namespace: str, web: str) -> None:
    loaded = client.Configuration()
    config.load_kube_config(str(cluster.kubeconfig), client_configuration=loaded)
    core = client.CoreV1Api(client.ApiClient(loaded))
    forwarding = portforward(core.connect_get_namespaced_pod_portforward, web, namespace, ports="8080,81")
    connection = forwarding.socket(8080)
    connection.setblocking(True)
    connection.settimeout(20)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
    answer = b""
    while data := connection.recv(1024):
        answer += data
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"hello from the pod")
    assert "connection refused" in wait_for("the error", lambda: forwarding.error(81))
    forwarding.close()


def test_a_pod_without_the_port_numbers_is_refused(cluster: Cluster, namespace: str, web: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods/{web}/portforward"
    refused = cluster.kubectl("get", "--raw", path, check=False)
    assert "unable to upgrade" in refused.stderr


def test_kubectl_attaches(cluster: Cluster, namespace: str) -> None:
    command = "while read line; do echo got $line; done"
    cluster.apply(pod_document("reader", command, container={"stdin": True}), namespace)
    cluster.wait_ready(namespace, "reader")
    process = subprocess.Popen(
        [str(KUBECTL), "attach", "-i", "reader", "-n", namespace],
        env=cluster.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("one\ntwo\n")
        process.stdin.flush()
        assert [process.stdout.readline() for _ in range(2)] == ["got one\n", "got two\n"]
    finally:
        process.kill()
        process.communicate(timeout=10)


def test_requests_reach_a_pod_through_the_api(cluster: Cluster, namespace: str, web: str) -> None:
    base = f"/api/v1/namespaces/{namespace}/pods"
    assert cluster.kubectl("get", "--raw", f"{base}/{web}:8080/proxy/").stdout == "hello from the pod"
    assert cluster.kubectl("get", "--raw", f"{base}/http:{web}:8080/proxy/some/path?x=y").stdout == "hello from the pod"
    assert len(cluster.kubectl("get", "--raw", f"{base}/{web}:8080/proxy/big").stdout) == 3_000_000
    posted = cluster.kubectl("create", "--raw", f"{base}/{web}:8080/proxy/", "-f", "-", stdin="the body")
    assert posted.stdout == "the body"
    nothing = cluster.kubectl("get", "--raw", f"{base}/{web}:81/proxy/", check=False)
    assert "error trying to reach service" in nothing.stderr
    for name, words in (("nobody:1", "not found"), (f"{web}:x", "invalid pod request")):
        refused = cluster.kubectl("get", "--raw", f"{base}/{name}/proxy/", check=False)
        assert words in refused.stderr.lower()


def test_a_request_to_a_service_s_proxy_reaches_a_ready_pod(cluster: Cluster, namespace: str, web: str) -> None:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "none", "port": 81, "targetPort": 81}]
    spec = {"selector": {"app": web}, "ports": ports}
    metadata = {"name": "front"}
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}, namespace)
    base = f"/api/v1/namespaces/{namespace}/services"

    def answer(name: str) -> str:
        return cluster.kubectl("get", "--raw", f"{base}/{name}/proxy/", check=False).stdout

    wait_for("the service answers", lambda: answer("front:http") == "hello from the pod")
    assert answer("http:front:80") == "hello from the pod"
    posted = cluster.kubectl("create", "--raw", f"{base}/front:80/proxy/", "-f", "-", stdin="the body")
    assert posted.stdout == "the body"
    for name, complaint in (
        ("front", 'no endpoints available for service "front"'),  # its ports have names, and none was said
        ("front:82", 'no service port 82 found for service "front"'),
        ("ftp:front:80", 'invalid service request "ftp:front:80"'),
        ("nobody", 'services "nobody" not found'),
    ):
        refused = cluster.kubectl("get", "--raw", f"{base}/{name}/proxy/", check=False)
        assert complaint in refused.stderr


def test_the_old_word_proxy_of_the_python_client(cluster: Cluster, namespace: str, web: str) -> None:
    loaded = client.Configuration()
    config.load_kube_config(str(cluster.kubeconfig), client_configuration=loaded)
    core = client.CoreV1Api(client.ApiClient(loaded))
    assert core.connect_get_namespaced_pod_proxy_with_path(f"{web}:8080", namespace, "a/b") == "hello from the pod"
