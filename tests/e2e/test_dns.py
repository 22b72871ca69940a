"""The cluster's names as pods see them, on every node, and the variables that tell pods of services."""

from __future__ import annotations

import time
from typing import Any

from tests.e2e.harness import Cluster, pod_document, wait_for
from tests.patience import patient


def service(name: str, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    whole = {"selector": {"app": name}, "ports": ports, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": whole}


def _lookup(cluster: Cluster, namespace: str, pod: str, name: str) -> str:
    """What the C library of a pod finds for a name or an address: `ADDRESS NAME...`, or nothing."""
    database = "hosts" if name[0].isdigit() else "ahostsv4"
    found = cluster.kubectl("exec", "-n", namespace, pod, "--", "getent", database, name, check=False)
    return found.stdout


def test_pods_on_every_node_find_services_and_each_other_by_name(cluster: Cluster, namespace: str) -> None:
    askers = []
    for number, node in enumerate(each["metadata"]["name"] for each in cluster.get("nodes")["items"]):
        askers.append(pod_document(f"asker-{number}", nodeName=node))
    named = pod_document("db", hostname="zero", subdomain="db")
    cluster.apply([service("web"), service("db", clusterIP="None"), named, *askers], namespace)
    address = cluster.get("service", "web", "-n", namespace)["spec"]["clusterIP"]
    pod = cluster.wait_ready(namespace, "db")
    for each in askers:
        name = each["metadata"]["name"]
        cluster.wait_ready(namespace, name)
        for asked in ("web", f"web.{namespace}", f"web.{namespace}.svc.cluster.local", f"WEB.{namespace}.svc"):
            found = wait_for(asked, lambda asker=name, text=asked: _lookup(cluster, namespace, asker, text))
            assert found.split()[0] == address
        for asked in ("db", f"zero.db.{namespace}.svc.cluster.local"):
            found = wait_for(asked, lambda asker=name, text=asked: _lookup(cluster, namespace, asker, text))
            assert found.split()[0] == pod["status"]["podIP"]
        assert f"web.{namespace}.svc.cluster.local" in _lookup(cluster, namespace, name, address)
        assert _lookup(cluster, namespace, name, f"nothing.{namespace}.svc.cluster.local") == ""
        kubernetes = cluster.get("service", "kubernetes", "-n", "default")["spec"]["clusterIP"]
        assert _lookup(cluster, namespace, name, "kubernetes.default").split()[0] == kubernetes


def test_an_answer_follows_a_change_at_once(cluster: Cluster, namespace: str) -> None:
    cluster.apply([service("web"), service("api", clusterIP="None"), pod_document("asker")], namespace)
    cluster.apply(service("out", type="ExternalName", externalName=f"web.{namespace}.svc.cluster.local"), namespace)
    cluster.wait_ready(namespace, "asker")
    address = cluster.get("service", "web", "-n", namespace)["spec"]["clusterIP"]
    found = wait_for("the alias leads on", lambda: _lookup(cluster, namespace, "asker", "out"))
    assert found.split()[0] == address
    change = '{"spec": {"type": "ClusterIP", "externalName": null}}'
    cluster.kubectl("patch", "service", "out", "-n", namespace, "--type=merge", "-p", change)
    own = cluster.get("service", "out", "-n", namespace)["spec"]["clusterIP"]
    wait_for("the former alias has its own", lambda: own in _lookup(cluster, namespace, "asker", "out"), seconds=1)
    cluster.apply(pod_document("api"), namespace)
    cluster.wait_ready(namespace, "api")
    begun = time.monotonic()
    wait_for("a ready endpoint is in DNS", lambda: _lookup(cluster, namespace, "asker", "api"), seconds=1)
    assert time.monotonic() - begun < patient(1.5), "one look takes most of it"
    cluster.kubectl("delete", "pod", "api", "-n", namespace, "--wait=false")
    wait_for("an endpoint that ends is not", lambda: not _lookup(cluster, namespace, "asker", "api"), seconds=1)
    cluster.apply(pod_document("api-2") | {"metadata": {"name": "api-2", "labels": {"app": "api"}}}, namespace)
    wait_for("another takes its place", lambda: _lookup(cluster, namespace, "asker", "api"))
    cluster.kubectl("delete", "service", "api", "-n", namespace)
    wait_for("it is gone", lambda: not _lookup(cluster, namespace, "asker", "api"), seconds=2)


def test_containers_are_told_of_services_by_variables(cluster: Cluster, namespace: str) -> None:
    cluster.apply(service("my-web"), namespace)
    address = cluster.get("service", "my-web", "-n", namespace)["spec"]["clusterIP"]

    def variables(name: str, **spec: Any) -> dict[str, str]:
        cluster.apply(pod_document(name, "env; exec sleep 1000", **spec), namespace)
        cluster.wait_ready(namespace, name)
        lines = cluster.kubectl("logs", "-n", namespace, name).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    linked = variables("linked")
    assert linked["MY_WEB_SERVICE_HOST"] == address
    assert linked["MY_WEB_SERVICE_PORT_HTTP"] == "80"
    assert linked["MY_WEB_PORT"] == f"tcp://{address}:80"
    alone = variables("alone", enableServiceLinks=False)
    assert not any(name.startswith("MY_WEB") for name in alone)
    assert alone["KUBERNETES_SERVICE_PORT"] == "443"
