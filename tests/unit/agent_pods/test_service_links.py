"""The variables that tell containers of services."""

from __future__ import annotations

from typing import Any

from agent.pods.servicelinks import service_variables
from pyk.api.objects import Object


def service(name: str, namespace: str = "shop", address: str = "10.96.0.7", **spec: Any) -> Object:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "the-dns", "port": 53, "protocol": "UDP"}]
    whole = {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports, **spec}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": whole}


def pod(**spec: Any) -> Object:
    return {"metadata": {"name": "p", "namespace": "shop"}, "spec": spec}


MASTER = service("kubernetes", "default", "10.96.0.1", ports=[{"name": "https", "port": 443, "protocol": "TCP"}])


def test_a_service_is_told_of_in_both_ways() -> None:
    assert service_variables(pod(), [service("my-web")]) == {
        "MY_WEB_SERVICE_HOST": "10.96.0.7",
        "MY_WEB_SERVICE_PORT": "80",
        "MY_WEB_SERVICE_PORT_HTTP": "80",
        "MY_WEB_SERVICE_PORT_THE_DNS": "53",
        "MY_WEB_PORT": "tcp://10.96.0.7:80",
        "MY_WEB_PORT_80_TCP": "tcp://10.96.0.7:80",
        "MY_WEB_PORT_80_TCP_PROTO": "tcp",
        "MY_WEB_PORT_80_TCP_PORT": "80",
        "MY_WEB_PORT_80_TCP_ADDR": "10.96.0.7",
        "MY_WEB_PORT_53_UDP": "udp://10.96.0.7:53",
        "MY_WEB_PORT_53_UDP_PROTO": "udp",
        "MY_WEB_PORT_53_UDP_PORT": "53",
        "MY_WEB_PORT_53_UDP_ADDR": "10.96.0.7",
    }


def test_headless_services_and_other_namespaces_are_left_out_but_for_the_api() -> None:
    services = [service("db", clusterIP="None", clusterIPs=["None"]), service("other", "elsewhere"), MASTER]
    assert service_variables(pod(), services)["KUBERNETES_SERVICE_PORT_HTTPS"] == "443"
    assert {name.split("_")[0] for name in service_variables(pod(), services)} == {"KUBERNETES"}


def test_without_links_only_the_api_is_told_of() -> None:
    found = service_variables(pod(enableServiceLinks=False), [service("web"), MASTER])
    assert {name.split("_")[0] for name in found} == {"KUBERNETES"}
