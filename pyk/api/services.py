"""What a Service needs of the cluster, by its type: pure questions that rules, allocators and loops share."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]

CLUSTER_IP, NODE_PORT, LOAD_BALANCER, EXTERNAL_NAME = "ClusterIP", "NodePort", "LoadBalancer", "ExternalName"
HEADLESS = "None"
SINGLE_STACK, PREFER_DUAL_STACK, REQUIRE_DUAL_STACK = "SingleStack", "PreferDualStack", "RequireDualStack"
IPV4, IPV6 = "IPv4", "IPv6"
LOCAL = "Local"


def type_of(spec: Spec) -> str:
    return spec.get("type") or CLUSTER_IP


def is_headless(spec: Spec) -> bool:
    """Whether it has no address of its own: its name leads to its endpoints' addresses."""
    return spec.get("clusterIP") == HEADLESS


def needs_cluster_ip(spec: Spec) -> bool:
    """Whether it has a cluster IP, or says with `None` that it has none."""
    return type_of(spec) in (CLUSTER_IP, NODE_PORT, LOAD_BALANCER)


def cluster_ips_of(spec: Spec) -> list[str]:
    """Its addresses in the cluster; none of a headless one."""
    if not needs_cluster_ip(spec):
        return []
    return [address for address in spec.get("clusterIPs") or () if address and address != HEADLESS]


def takes_node_ports(spec: Spec) -> bool:
    """Whether its ports get node ports by themselves."""
    kind = type_of(spec)
    return kind == NODE_PORT or (kind == LOAD_BALANCER and spec.get("allocateLoadBalancerNodePorts") is not False)


def may_have_node_ports(spec: Spec) -> bool:
    return type_of(spec) in (NODE_PORT, LOAD_BALANCER)


def needs_health_check_port(spec: Spec) -> bool:
    """Whether load balancers ask each node at a port of its own whether it has endpoints."""
    return type_of(spec) == LOAD_BALANCER and spec.get("externalTrafficPolicy") == LOCAL


def is_externally_accessible(spec: Spec) -> bool:
    return may_have_node_ports(spec) or (type_of(spec) == CLUSTER_IP and bool(spec.get("externalIPs")))


def node_ports_of(spec: Spec) -> list[int]:
    """The node ports that it has, one of a health check included, each once."""
    ports = [port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")]
    if spec.get("healthCheckNodePort"):
        ports.append(spec["healthCheckNodePort"])
    return list(dict.fromkeys(ports))


def family_of(address: str) -> str:
    return IPV6 if ":" in address else IPV4
