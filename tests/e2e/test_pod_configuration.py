"""What a pod is told and how it is called: environment, host names, name servers and the node's namespaces."""

from __future__ import annotations

from typing import Any

from tests.e2e.harness import Cluster, pod_document

SHOW = (
    "hostname; echo --; cat /etc/hosts; echo --; cat /etc/resolv.conf; echo --; env; "
    "echo --; tr '\\0' ' ' </proc/1/cmdline"
)


def output_of(cluster: Cluster, namespace: str, document: Any) -> list[str]:
    """What a pod that runs once prints, cut at the lines `--`."""
    name = document["metadata"]["name"]
    document["spec"]["restartPolicy"] = "Never"
    cluster.apply(document, namespace)
    cluster.wait_pod(namespace, name, lambda pod: pod["status"]["phase"] == "Succeeded", "has succeeded")
    return cluster.kubectl("logs", name, "-n", namespace, "-c", "main").stdout.split("--\n")


def test_names_name_servers_and_environment_are_as_the_pod_asks(cluster: Cluster, namespace: str) -> None:
    environment = [
        {"name": "A", "value": "one"},
        {"name": "B", "value": "$(A)-$(NONE)-$$(A)"},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
    ]
    document = pod_document(
        "named",
        SHOW,
        hostname="busy",
        subdomain="sub",
        setHostnameAsFQDN=True,
        shareProcessNamespace=True,
        hostAliases=[{"ip": "192.0.2.9", "hostnames": ["foo.local", "bar.local"]}],
        dnsPolicy="None",
        dnsConfig={
            "nameservers": ["192.0.2.1"],
            "searches": ["my.dns.search.suffix"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        },
        container={"env": environment, "resources": {"requests": {"cpu": "150m"}}},
    )
    name, hosts, resolver, variables, first = output_of(cluster, namespace, document)
    full = f"busy.sub.{namespace}.svc.cluster.local"
    pod = cluster.pod(namespace, "named")
    address = pod["status"]["podIP"]
    assert name == f"{full}\n"
    assert hosts.startswith("# Kubernetes-managed hosts file.\n")
    assert f"\n{address}\t{full}\tbusy\n" in hosts
    assert hosts.endswith("\n# Entries added by HostAliases.\n192.0.2.9\tfoo.local\tbar.local\n")
    assert resolver == "nameserver 192.0.2.1\nsearch my.dns.search.suffix\noptions ndots:2 edns0\n"
    found = dict(line.split("=", 1) for line in variables.splitlines())
    allocatable = cluster.get("node", pod["spec"]["nodeName"])["status"]["allocatable"]["cpu"]
    assert {key: found[key] for key in ("A", "B", "LABEL", "CPU", "LIMIT", "IPS")} == {
        "A": "one",
        "B": "one-$(NONE)-$(A)",
        "LABEL": "named",
        "CPU": "150",
        "LIMIT": allocatable,
        "IPS": address,
    }
    assert first.strip() == "pause"


def test_a_pod_of_the_host_sees_the_node(cluster: Cluster, namespace: str) -> None:
    document = pod_document("hosted", SHOW, hostNetwork=True, hostPID=True, hostIPC=True)
    name, hosts, _, _, first = output_of(cluster, namespace, document)
    assert name.strip() == cluster.pod(namespace, "hosted")["spec"]["nodeName"]
    assert hosts.startswith("# Kubernetes-managed hosts file (host network).\n")
    assert not first.startswith("sh ")


def test_variables_come_from_a_file_that_an_init_container_wrote(cluster: Cluster, namespace: str) -> None:
    def variable(name: str, **more: Any) -> dict[str, Any]:
        reference = {"volumeName": "d", "path": "app.env", "key": name, **more}
        return {"name": name, "valueFrom": {"fileKeyRef": reference}}

    mount = {"volumeMounts": [{"name": "d", "mountPath": "/d"}]}
    container = {"env": [variable("COLOUR"), variable("NOTHING", optional=True)]}
    document = pod_document("filed", "echo $COLOUR ${NOTHING-unset}", container=container)
    writer = {
        **pod_document("x", "echo \"COLOUR='dark # blue'\" >/d/app.env")["spec"]["containers"][0],
        "name": "write",
    }
    document["spec"] |= {"volumes": [{"name": "d", "emptyDir": {}}], "initContainers": [{**writer, **mount}]}
    assert output_of(cluster, namespace, document) == ["dark # blue unset\n"]
