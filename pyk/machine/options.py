"""What a control plane and an agent of a cluster of several machines can be told, on the command line or in a file.

Each option is declared once, as a field with its help; `add_options` makes flags of the fields, `read_file` takes the
same names from `/etc/pyk/server.yaml` and `/etc/pyk/agent.yaml`, and a flag wins over the file. A name that is none, or
a value of another type, is refused with one line that says where; `pyk/machine/checks.py` refuses what cannot work.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pyk.client.balancer import Server, parse_server
from pyk.client.config import ADMIN_KUBECONFIG
from pyk.errors import UserError

CONFIG_DIR = Path("/etc/pyk")
SERVER_CONFIG, AGENT_CONFIG = CONFIG_DIR / "server.yaml", CONFIG_DIR / "agent.yaml"
SERVER_PORT = 6443

T = TypeVar("T", "ServerOptions", "AgentOptions")


def _option(default: Any, help_text: str, metavar: str = "") -> Any:
    return field(default=default, metadata={"help": help_text, "metavar": metavar})


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """A control plane on this machine."""

    data_dir: str = _option("/var/lib/pyk/server", "where the state and the certificates are kept", "DIR")
    kubeconfig: str = _option(str(ADMIN_KUBECONFIG), "the administrator's kubeconfig, to be written", "FILE")
    advertise_address: str = _option(
        "", "where other machines reach this one (default: by its default route)", "ADDRESS"
    )
    bind_address: tuple[str, ...] = _option(
        (), "listen on these addresses only; repeatable (default: on all)", "ADDRESS"
    )
    port: int = _option(SERVER_PORT, "of the API server", "PORT")
    tls_san: tuple[str, ...] = _option((), "a further name or address in the server's certificate; repeatable", "NAME")
    cluster_cidr: str = _option(
        "10.244.0.0/16", "the range of the pods' addresses; one of each IP family for dual stack", "CIDR[,CIDR]"
    )
    service_cidr: str = _option(
        "10.96.0.0/16", "the range of the services' addresses, of the same IP families", "CIDR[,CIDR]"
    )
    cluster_dns: str = _option(
        "", "the name servers' address (default: the tenth of --service-cidr)", "ADDRESS[,ADDRESS]"
    )
    cluster_domain: str = _option("cluster.local", "the domain of the services' names", "DOMAIN")
    node_cidr_mask: int = _option(24, "the prefix length of a node's part of --cluster-cidr", "BITS")
    node_cidr_mask_ipv6: int = _option(64, "the same of IPv6", "BITS")
    store: str = _option("", "sqlite, or etcd: a member of its own on this machine (default sqlite)", "STORE")
    etcd_servers: tuple[str, ...] = _option((), "an etcd that runs already: https://HOST:PORT; repeatable", "URL")
    etcd_cafile: str = _option("", "the authority of that etcd", "FILE")
    etcd_certfile: str = _option("", "the certificate to show to that etcd", "FILE")
    etcd_keyfile: str = _option("", "its key", "FILE")
    etcd_port: int = _option(2379, "of the own etcd member, for clients", "PORT")
    etcd_peer_port: int = _option(2380, "of the own etcd member, for other members", "PORT")
    etcd_quota_bytes: int = _option(2 << 30, "how large the own member's database may become", "BYTES")
    join: str = _option("", "a server of the control plane that this one becomes part of", "URL")
    token: str = _option("", "a token of 'pyk token create --server', to join with", "TOKEN")
    node_monitor_grace_seconds: float = _option(8.0, "silence after which a node is unreachable", "SECONDS")
    default_toleration_seconds: int = _option(300, "how long pods stay bound to a node that is gone", "SECONDS")
    scheduler_config: str = _option("", "a KubeSchedulerConfiguration", "FILE")
    metrics_port: int = _option(
        10257, "of the controllers' metrics, on loopback; the scheduler has the next two; 0 for none", "PORT"
    )


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """A node on this machine."""

    server: tuple[str, ...] = _option((), "a server of the control plane, https://HOST:PORT; repeatable", "URL")
    token: str = _option("", "a token of 'pyk token create', to join with", "TOKEN")
    ca_hash: str = _option("", "sha256:HASH of the cluster's authority, when the token is a bare ID.SECRET", "HASH")
    data_dir: str = _option("/var/lib/pyk/agent", "where pods, images and certificates are kept", "DIR")
    node_name: str = _option("", "the node's name (default: the machine's)", "NAME")
    node_ip: str = _option(
        "",
        "the node's address, one of each IP family for dual stack (default: the one from which it reaches the server, "
        "and that of the other family's default route)",
        "ADDRESS[,ADDRESS]",
    )
    node_label: tuple[str, ...] = _option((), "a label of the node; repeatable", "KEY=VALUE")
    port: int = _option(10250, "of the node API", "PORT")
    balancer_port: int = _option(6444, "on loopback, that leads to an API server that answers", "PORT")
    network_backend: str = _option("auto", "the way to other nodes' pods: auto, host-routes, vxlan, wireguard", "NAME")
    network_shortcuts: str = _option(
        "on", "off: no packet passes by this machine's routing and packet filter", "on|off"
    )
    registries: str = _option("/etc/pyk/registries.yaml", "mirrors and credentials of image registries", "FILE")
    cgroup_root: str = _option("/pyk", "the control group of the node's pods", "PATH")
    max_pods: int = _option(110, "how many pods the node takes", "N")
    kubelet_config_dir: str = _option("/etc/pyk/kubelet.conf.d", "of KubeletConfiguration files, *.conf", "DIR")
    system_reserved: str = _option("", "what pods cannot have: cpu=100m,memory=100Mi", "QUANTITIES")


def add_options(parser: argparse.ArgumentParser, options: type[ServerOptions] | type[AgentOptions]) -> None:
    """A flag for each option; one that is not given is None, so that the file's value counts."""
    for each in dataclasses.fields(options):
        flag = "--" + each.name.replace("_", "-")
        shown = {"metavar": each.metadata["metavar"], "help": each.metadata["help"], "default": None}
        if isinstance(each.default, tuple):
            parser.add_argument(flag, action="append", **shown)
        else:
            parser.add_argument(flag, type=type(each.default), **shown)


def given(options: type[T], arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given, by the names of the fields."""
    names = [each.name for each in dataclasses.fields(options)]
    found = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return {name: tuple(_split(value)) if isinstance(value, list) else value for name, value in found.items()}


def read_file(options: type[T], file: Path) -> dict[str, Any]:
    """The options that a file gives, by the names of the fields; none when there is no file. Raises `UserError`."""
    import yaml

    try:
        document = yaml.safe_load(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise UserError(f"{file}: write 'option: value' lines")
    known = {each.name.replace("_", "-"): each for each in dataclasses.fields(options)}
    found: dict[str, Any] = {}
    for key, value in document.items():
        if key not in known:
            raise UserError(f"{file}: there is no option {str(key)!r}; there are {', '.join(known)}")
        found[known[key].name] = _typed(file, str(key), value, known[key].default)
    return found


def to_file(values: Mapping[str, Any]) -> str:
    """The text of a file with these options."""
    import yaml

    document = {
        name.replace("_", "-"): list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }
    return str(yaml.safe_dump(document, sort_keys=False)) if document else ""


def _typed(file: Path, key: str, value: Any, default: Any) -> Any:
    if isinstance(default, tuple):
        items = value if isinstance(value, list) else [value]
        if all(isinstance(item, str) for item in items):
            return tuple(_split(items))
    elif isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) is type(default):
        return value
    wanted = "a text or a list of texts" if isinstance(default, tuple) else f"a {_NAMES[type(default)]}"
    raise UserError(f"{file}: {key} has to be {wanted}, not {value!r}")


_NAMES = {str: "text", int: "whole number", float: "number"}


def _split(items: list[str]) -> list[str]:
    return [part.strip() for item in items for part in item.split(",") if part.strip()]


def servers_of(flag: str, urls: tuple[str, ...]) -> list[Server]:
    """Hosts and ports of the URLs. Raises `UserError`."""
    try:
        return [parse_server(url, SERVER_PORT) for url in urls]
    except ValueError as error:
        raise UserError(f"{flag}: {error}") from None
