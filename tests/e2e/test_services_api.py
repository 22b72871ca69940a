"""Services, Endpoints and host ports as the API's users see them, each proven by a request that arrives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.harness import IMAGE, Cluster, wait_for
from tests.patience import patient

SERVER = r"""
import http.server, json, socket, sys, threading

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        self.close_connection = "Transfer-Encoding" in self.headers  # a body that is not read here
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        told = {"pod": socket.gethostname(), "path": self.path, "method": self.command,
                "port": self.server.server_address[1]}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer
    def log_message(self, *words):
        pass

def echo(port):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", port))
    while True:
        server.sendto(socket.gethostname().encode(), server.recvfrom(2048)[1])

for word in sys.argv[1:]:
    kind, port = word.split(":")
    serve = http.server.ThreadingHTTPServer(("0.0.0.0", int(port)), Handler).serve_forever if kind == "tcp" else None
    threading.Thread(target=serve or echo, args=() if serve else (int(port),)).start()
"""
ASK_UDP = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(float(sys.argv[3]))
client.sendto(b"x", (sys.argv[1], int(sys.argv[2])))
print(client.recv(99).decode())
"""


def server_pod(name: str, *serves: str, ports: tuple[dict[str, Any], ...] = (), **spec: Any) -> dict[str, Any]:
    """A pod that says its name at `tcp:PORT` and `udp:PORT`, ready when the first of them answers."""
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["python3", "-c", SERVER, *serves],
        "ports": list(ports),
        "readinessProbe": {
            "tcpSocket": {"port": int(serves[0].partition(":")[2])},
            "periodSeconds": 1,
            "timeoutSeconds": round(patient(1)),
        },
    }
    labels = spec.pop("labels", {"app": name})
    metadata = {"name": name, "labels": labels}
    body = {"terminationGracePeriodSeconds": 0, "containers": [container], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


def asker_pod(name: str, **spec: Any) -> dict[str, Any]:
    body = {"containers": [{"name": "main", "image": IMAGE, "command": ["sleep", "100000"]}], **spec}
    body["terminationGracePeriodSeconds"] = 0
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body}


def _port_documents(ports: tuple[tuple[Any, ...], ...]) -> list[dict[str, Any]]:
    return [
        {"name": name, "port": number, "targetPort": target, "protocol": (*rest, "TCP")[0]}
        for name, number, target, *rest in ports
    ]


class Place:
    """A namespace of a cluster, and what its pods can reach."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace

    def kubectl(self, *words: str, **options: Any) -> str:
        return self.cluster.kubectl("-n", self.namespace, *words, **options).stdout.strip()

    def apply(self, *documents: dict[str, Any]) -> None:
        self.cluster.apply(list(documents), self.namespace)

    def get(self, *words: str) -> Any:
        return self.cluster.get("-n", self.namespace, *words)

    def ready(self, *names: str) -> None:
        for name in names:
            self.cluster.wait_ready(self.namespace, name)

    def service(self, name: str, *ports: tuple[Any, ...], **spec: Any) -> dict[str, Any]:
        """Make or change a Service; ports are (name, port, target, protocol)."""
        metadata, listed = {"name": name}, _port_documents(ports)
        self.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": listed, **spec}})
        found: dict[str, Any] = self.get("service", name)["spec"]
        return found

    def set_ports(self, name: str, *ports: tuple[Any, ...]) -> None:
        """Replace the ports: `kubectl apply` tells them apart by their numbers alone."""
        change = [{"op": "replace", "path": "/spec/ports", "value": _port_documents(ports)}]
        self.kubectl("patch", "service", name, "--type=json", "-p", json.dumps(change))

    def ask(self, url: str, asker: str = "asker", *options: str) -> str:
        """The name of the pod that answers; empty when none does within a second."""
        words = ("exec", asker, "--", "curl", "-s", "-m", f"{patient(1):.0f}", *options, url)
        answer = self.kubectl(*words, check=False)
        return str(json.loads(answer)["pod"]) if answer else ""

    def ask_udp(self, address: str, port: int, asker: str = "asker") -> str:
        return self.kubectl(
            "exec", asker, "--", "python3", "-c", ASK_UDP, address, str(port), str(patient(1)), check=False
        )

    def endpoints(self, service: str) -> set[tuple[str, int, str]]:
        """(address, port, port's name) of an Endpoints object."""
        return {
            (address["ip"], port["port"], port.get("name") or "")
            for subset in self.get("endpoints", service).get("subsets") or ()
            for address in subset.get("addresses") or ()
            for port in subset["ports"]
        }

    def address(self, pod: str) -> str:
        return str(self.get("pod", pod)["status"]["podIP"])


@pytest.fixture
def place(cluster: Cluster, namespace: str) -> Iterator[Place]:
    made = Place(cluster, namespace)
    made.apply(asker_pod("asker"))
    made.ready("asker")
    yield made
    made.kubectl("delete", "pods", "--all", "--wait=false")


def node_address(cluster: Cluster, node: str) -> str:
    addresses = cluster.get("node", node)["status"]["addresses"]
    return next(str(entry["address"]) for entry in addresses if entry["type"] == "InternalIP")


def test_a_service_changes_its_type_and_takes_and_gives_back_what_belongs_to_it(place: Place) -> None:
    place.apply(server_pod("web", "tcp:8080"))
    place.ready("web")
    spec = place.service("front", ("http", 80, 8080), selector={"app": "web"}, type="NodePort")
    port = spec["ports"][0]["nodePort"]
    node = node_address(place.cluster, "node-1")
    wait_for("the node port answers", lambda: place.ask(f"http://{node}:{port}/") == "web")
    place.service("real", ("http", 80, 8080), selector={"app": "web"})
    alias = {"type": "ExternalName", "externalName": f"real.{place.namespace}.svc.cluster.local"}
    place.kubectl("patch", "service", "front", "-p", json.dumps({"spec": alias}))
    spec = place.get("service", "front")["spec"]
    assert "clusterIP" not in spec
    assert "nodePort" not in spec["ports"][0]
    wait_for("the alias leads to the other", lambda: place.ask("http://front/") == "web")
    wait_for("the node port is closed", lambda: place.ask(f"http://{node}:{port}/") == "")
    again = {"name": "http", "port": 80, "nodePort": port}
    taken = {"type": "NodePort", "ports": [again]}
    place.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "next"}, "spec": taken})
    place.kubectl("patch", "service", "front", "-p", json.dumps({"spec": {"type": "ClusterIP", "externalName": None}}))
    assert place.get("service", "front")["spec"]["clusterIP"]
    wait_for("it has an address of its own", lambda: place.ask("http://front/") == "web")


def test_ports_are_led_by_name_and_protocol_and_follow_every_change(place: Place) -> None:
    one = server_pod("one", "tcp:100", ports=({"name": "foo", "containerPort": 100},), labels={"app": "multi"})
    two_ports = ({"name": "bar", "containerPort": 101},)
    two = server_pod("two", "tcp:101", "udp:100", ports=two_ports, labels={"app": "multi"})
    place.service("multi", ("first", 80, "foo"), ("second", 81, "bar"), selector={"app": "multi"})
    wait_for("an empty Endpoints", lambda: place.get("endpoints", "multi").get("subsets") is None)
    place.apply(one, two)
    place.ready("one", "two")
    expected = {(place.address("one"), 100, "first"), (place.address("two"), 101, "second")}
    wait_for("both pods, each with its port", lambda: place.endpoints("multi") == expected)
    wait_for("they answer", lambda: (place.ask("http://multi:80/"), place.ask("http://multi:81/")) == ("one", "two"))
    slices = place.get("endpointslices", "-l", "kubernetes.io/service-name=multi")["items"]
    assert {tuple(each["ports"][0][field] for field in ("name", "port")) for each in slices} == {
        ("first", 100),
        ("second", 101),
    }
    assert all("endpoints.kubernetes.io/last-change-trigger-time" in each["metadata"]["annotations"] for each in slices)
    place.kubectl("delete", "pod", "one")
    wait_for("one pod is left", lambda: place.endpoints("multi") == {(place.address("two"), 101, "second")})

    address = place.service("both", ("tcp", 90, 101), ("udp", 90, 100, "UDP"), selector={"app": "multi"})["clusterIP"]

    def answers() -> tuple[str, str]:
        return place.ask(f"http://{address}:90/"), place.ask_udp(address, 90)

    wait_for("one number, two protocols", lambda: answers() == ("two", "two"))
    place.set_ports("both", ("udp", 90, 100, "UDP"))
    wait_for("TCP is closed alone", lambda: answers() == ("", "two"))
    place.set_ports("both", ("tcp", 90, 101))
    wait_for("and UDP alone", lambda: answers() == ("two", ""))


def test_endpoints_made_by_hand_are_mirrored_and_led_to(place: Place) -> None:
    place.apply(server_pod("one", "tcp:8080"), server_pod("two", "tcp:8081"))
    place.ready("one", "two")
    place.service("own", ("", 80, 80))

    def point_at(pod: str, port: int) -> None:
        subset = {"addresses": [{"ip": place.address(pod)}], "ports": [{"port": port}]}
        place.apply({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "own"}, "subsets": [subset]})

    def mirrored() -> list[Any]:
        manager = "endpointslice.kubernetes.io/managed-by=endpointslicemirroring-controller.k8s.io"
        found: list[Any] = place.get("endpointslices", "-l", manager)["items"]
        return [address for each in found for endpoint in each["endpoints"] for address in endpoint["addresses"]]

    for pod, port in (("one", 8080), ("two", 8081)):
        point_at(pod, port)
        wait_for(f"mirrored to {pod}", lambda pod=pod: mirrored() == [place.address(pod)])
        wait_for(f"led to {pod}", lambda pod=pod: place.ask("http://own/") == pod)
    place.kubectl("delete", "endpoints", "own")
    wait_for("the mirror goes too", lambda: mirrored() == [])


def test_a_host_port_is_shared_by_addresses_and_protocols(place: Place) -> None:
    node = node_address(place.cluster, "node-1")
    number, where = 54323, {"kubernetes.io/hostname": "node-1"}

    def published(protocol: str, address: str) -> tuple[dict[str, Any], ...]:
        return ({"containerPort": 8080, "hostPort": number, "hostIP": address, "protocol": protocol},)

    place.apply(
        server_pod("inside", "tcp:8080", ports=published("TCP", "127.0.0.1"), nodeSelector=where),
        server_pod("outside", "tcp:8080", ports=published("TCP", node), nodeSelector=where),
        server_pod("datagrams", "tcp:8081", "udp:8080", ports=published("UDP", node), nodeSelector=where),
        server_pod("late", "tcp:8080", ports=published("TCP", "0.0.0.0"), nodeSelector=where),
        asker_pod("host", hostNetwork=True, nodeSelector=where),
    )
    place.ready("inside", "outside", "datagrams", "host")
    wait_for("loopback", lambda: place.ask(f"http://127.0.0.1:{number}/", "host") == "inside")
    loopback = (f"http://127.0.0.1:{number}/", "host", "--interface", node)
    wait_for("loopback, from the node's address", lambda: place.ask(*loopback) == "inside")
    wait_for("the node's address", lambda: place.ask(f"http://{node}:{number}/", "host") == "outside")
    wait_for("UDP", lambda: place.ask_udp(node, number, "host") == "datagrams")
    (scheduled,) = (each for each in place.get("pod", "late")["status"]["conditions"] if each["type"] == "PodScheduled")
    assert "didn't have free ports for the requested pod ports" in scheduled["message"]


def test_the_api_server_passes_every_method_on_to_pods_and_services(place: Place) -> None:
    ports = ({"containerPort": 80}, {"name": "other", "containerPort": 160})
    place.apply(server_pod("web", "tcp:80", "tcp:160", ports=ports))
    place.service("front", ("plain", 80, 80), ("named", 81, "other"), selector={"app": "web"})
    place.ready("web")
    wait_for("its endpoints", lambda: len(place.endpoints("front")) == 2)
    base = f"/api/v1/namespaces/{place.namespace}"
    paths = {"pods/web": 80, "services/front:plain": 80, "services/front:81": 160, "services/http:front:named": 160}
    for path, port in paths.items():
        told = json.loads(place.kubectl("get", "--raw", f"{base}/{path}/proxy/some/path?x=y"))
        assert (told["port"], told["path"], told["method"]) == (port, "/some/path?x=y", "GET")
    for words, method in (
        (("create", "--raw"), "POST"),
        (("replace", "--raw"), "PUT"),
        (("delete", "--raw"), "DELETE"),
    ):
        file = () if method == "DELETE" else ("-f", "-")
        told = json.loads(place.kubectl(*words, f"{base}/pods/web:160/proxy/x", *file, stdin="{}"))
        assert (told["method"], told["port"]) == (method, 160)


def test_the_status_of_a_service_has_a_life_of_its_own(place: Place) -> None:
    place.service("lb", ("http", 80, 80), type="LoadBalancer", loadBalancerClass="example.com/none")

    def patch(document: dict[str, Any], *words: str) -> None:
        place.kubectl("patch", "service", "lb", "--type=merge", *words, "-p", json.dumps(document))

    patch({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}}, "--subresource=status")
    found = place.get("service", "lb")
    assert found["status"]["loadBalancer"]["ingress"] == [{"ip": "203.0.113.1", "ipMode": "VIP"}]
    patch({"metadata": {"labels": {"a": "b"}}, "status": {"loadBalancer": {"ingress": []}}})
    found = place.get("service", "lb")
    assert found["metadata"]["labels"] == {"a": "b"}
    assert found["status"]["loadBalancer"]["ingress"], "a write of the object leaves the status alone"
    place.kubectl("delete", "services", "-l", "a=b")
    assert "NotFound" in place.cluster.kubectl("get", "service", "lb", "-n", place.namespace, check=False).stderr
