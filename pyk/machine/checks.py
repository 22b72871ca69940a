"""What options of a control plane or an agent cannot work, said in one line before anything is written or started.

The same checks serve `pyk install`, which would otherwise write a unit that ends again and again, and `pyk server` and
`pyk agent` themselves. Pure: whether files and addresses are there is seen at the start.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pyk.api.names import dns_subdomain, label_value, qualified_name
from pyk.api.quantity import BadQuantity, parse_quantity
from pyk.errors import UserError
from pyk.machine import ranges
from pyk.machine.options import AgentOptions, ServerOptions, servers_of

LEAST_NODE_GRACE = 1.0
LEAST_QUOTA_BYTES = 1 << 20
MOST_PODS = 1020
"""The ports of a node's bridge."""
NETWORK_BACKENDS = ("auto", "host-routes", "vxlan", "wireguard")
RESERVABLE = ("cpu", "memory", "ephemeral-storage", "pid")
_MOST_PORT = 65535
_METRICS_PORTS = 3
_IS_NAME = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\.?\Z", re.IGNORECASE)


def check_server(options: ServerOptions) -> None:
    """Raises `UserError` for the first option that cannot work."""
    ranges.check(
        options.cluster_cidr, options.service_cidr, node_masks(options), options.cluster_dns, options.advertise_address
    )
    for bound in options.bind_address:
        ranges.address("--bind-address", bound)
    for name in options.tls_san:
        if not _is_address(name) and not _IS_NAME.match(name):
            raise UserError(f"--tls-san {name}: that is neither a name nor an address")
    if (problem := dns_subdomain(options.cluster_domain)) is not None:
        raise UserError(f"--cluster-domain {options.cluster_domain}: {problem}")
    _check_ports(
        ("--port", options.port), ("--etcd-port", options.etcd_port), ("--etcd-peer-port", options.etcd_peer_port)
    )
    if not 0 <= options.metrics_port <= _MOST_PORT - _METRICS_PORTS + 1:
        raise UserError(
            f"--metrics-port {options.metrics_port}: between 1 and {_MOST_PORT - _METRICS_PORTS + 1}, for the next two "
            "are used as well, or 0 for none"
        )
    _check_store(options)
    if options.node_monitor_grace_seconds < LEAST_NODE_GRACE:
        raise UserError(f"--node-monitor-grace-seconds {options.node_monitor_grace_seconds}: at least one")
    if options.default_toleration_seconds < 0:
        raise UserError(f"--default-toleration-seconds {options.default_toleration_seconds}: at least 0")


def node_masks(options: ServerOptions) -> dict[int, int]:
    """The prefix length of a node's part of the pods' range, by the range's IP family."""
    return {4: options.node_cidr_mask, 6: options.node_cidr_mask_ipv6}


def check_agent(options: AgentOptions) -> None:
    """Raises `UserError` for the first option that cannot work."""
    if not options.server:
        raise UserError("--server URL: where the control plane is, for instance https://10.0.0.1:6443")
    servers_of("--server", options.server)
    if options.node_ip:
        for address in ranges.addresses("--node-ip", options.node_ip):
            if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
                raise UserError(f"--node-ip {address}: other machines cannot reach a node at this address")
    if options.node_name and (problem := dns_subdomain(options.node_name)) is not None:
        raise UserError(f"--node-name {options.node_name}: {problem}")
    for label in options.node_label:
        key, found, value = label.partition("=")
        if not found:
            raise UserError(f"--node-label {label}: write KEY=VALUE")
        if (problem := qualified_name(key) or label_value(value)) is not None:
            raise UserError(f"--node-label {label}: {problem}")
    _check_ports(("--port", options.port), ("--balancer-port", options.balancer_port))
    if options.network_backend not in NETWORK_BACKENDS:
        raise UserError(f"--network-backend {options.network_backend}: one of {', '.join(NETWORK_BACKENDS)}")
    if options.network_shortcuts not in ("on", "off"):
        raise UserError(f"--network-shortcuts {options.network_shortcuts}: on or off")
    if not options.cgroup_root.startswith("/") or ".." in options.cgroup_root.split("/"):
        raise UserError(f"--cgroup-root {options.cgroup_root}: the path of a control group, like /pyk")
    if not 1 <= options.max_pods <= MOST_PODS:
        raise UserError(f"--max-pods {options.max_pods}: between 1 and {MOST_PODS}, the ports of a node's bridge")
    _check_reservation(options.system_reserved)


def _check_store(options: ServerOptions) -> None:
    if options.store not in ("", "sqlite", "etcd"):
        raise UserError(f"--store {options.store}: sqlite or etcd")
    if options.store == "sqlite" and (options.etcd_servers or options.join):
        raise UserError("--store sqlite is for one control plane alone: leave it out with --etcd-servers and --join")
    tls = (options.etcd_cafile, options.etcd_certfile, options.etcd_keyfile)
    if any(tls) and not (all(tls) and options.etcd_servers):
        raise UserError("--etcd-cafile, --etcd-certfile and --etcd-keyfile go together, and with --etcd-servers")
    if options.etcd_quota_bytes < LEAST_QUOTA_BYTES:
        raise UserError(f"--etcd-quota-bytes {options.etcd_quota_bytes}: at least {LEAST_QUOTA_BYTES}")
    if options.join and not options.token:
        raise UserError("--join needs --token: make one with 'pyk token create --server' on a control plane")
    if options.join:
        servers_of("--join", (options.join,))


def _check_ports(*ports: tuple[str, int]) -> None:
    for flag, port in ports:
        if not 1 <= port <= _MOST_PORT:
            raise UserError(f"{flag} {port}: between 1 and {_MOST_PORT}")
        others: Sequence[str] = [other for other, same in ports if same == port and other != flag]
        if others:
            raise UserError(f"{flag} {port}: {others[0]} has the same")


def _check_reservation(text: str) -> None:
    for part in filter(None, text.split(",")):
        name, found, amount = part.partition("=")
        if not found or name not in RESERVABLE:
            raise UserError(f"--system-reserved {text}: write NAME=QUANTITY, of {', '.join(RESERVABLE)}")
        try:
            is_negative = parse_quantity(amount) < 0
        except BadQuantity:
            raise UserError(f"--system-reserved {text}: {amount!r} is no quantity") from None
        if is_negative:
            raise UserError(f"--system-reserved {text}: {name} cannot be less than nothing")


def _is_address(text: str) -> bool:
    try:
        ranges.address("", text)
    except UserError:
        return False
    return True
