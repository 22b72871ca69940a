"""Everything about a local cluster that follows from its options: names, addresses, folders. Pure.

All names on the machine begin with the cluster's prefix (`pyk`, or `pyk-NAME`), so that what a cluster left behind is
found by name when its records are gone. Two clusters of different names share nothing.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pyk.api.quantity import BadQuantity, millicores, whole
from pyk.errors import UserError
from pyk.lab import addresses
from pyk.lab.addresses import FAMILIES, MOST_SEGMENTS, NODES_OF_SEGMENT, Network
from pyk.machine.checks import MOST_PODS

DEFAULT_NAME = "pyk"
REGISTRIES_FILE = "registries.yaml"
"""In the cluster's folder: mirrors, certificates and credentials of image registries, if the user puts it there."""
MOST_NODES = 200
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose. `node_cpus` and `node_memory` are quantities; `subnet` is K, None until it is chosen.

    `ip_family` is a word of `FAMILIES`; the nodes are spread over `segments`, with a router between them.
    `scheduler_config` is the path of a KubeSchedulerConfiguration, empty for the scheduler's defaults.
    """

    name: str = DEFAULT_NAME
    data_dir: str = ""
    nodes: int = 3
    node_cpus: str = "2"
    node_memory: str = "2Gi"
    max_pods: int = 110
    store: str = "sqlite"
    etcd_endpoints: tuple[str, ...] = ()
    port: int = 6443
    ip_family: str = "ipv4"
    segments: int = 1
    network_backend: str = "auto"
    kubeconfig: str = ""
    subnet: int | None = None
    scheduler_config: str = ""

    def to_document(self) -> dict[str, Any]:
        return {**asdict(self), "etcd_endpoints": list(self.etcd_endpoints)}

    @staticmethod
    def from_document(document: dict[str, Any]) -> Options:
        return Options(**{**document, "etcd_endpoints": tuple(document["etcd_endpoints"])})


@dataclass(frozen=True)
class Layout:
    """The names and addresses of one cluster."""

    options: Options

    @cached_property
    def prefix(self) -> str:
        return prefix_of(self.options.name)

    @cached_property
    def data_dir(self) -> Path:
        return Path(self.options.data_dir)

    @property
    def pki_dir(self) -> Path:
        return self.data_dir / "pki"

    @property
    def node_cidr_mask(self) -> int:
        """The prefix length of a node's pod range: it has twice as many addresses as the node may have pods."""
        return 32 - max(8, (2 * self.options.max_pods + 2).bit_length())

    @property
    def log_dir(self) -> Path:
        return self.data_dir / "logs"

    def node_names(self) -> list[str]:
        return [f"node-{number}" for number in range(1, self.options.nodes + 1)]

    def node_dir(self, node: str) -> Path:
        return self.data_dir / "nodes" / node

    # Control groups, as paths below every hierarchy's root

    @property
    def cgroup(self) -> str:
        return f"/{self.prefix}"

    @property
    def control_plane_cgroup(self) -> str:
        return f"{self.cgroup}/control-plane"

    def node_cgroup(self, node: str) -> str:
        return f"{self.cgroup}/{node}"

    # Network

    @property
    def link_base(self) -> str:
        """The beginning of link names, which the kernel keeps to 15 characters."""
        if len(self.prefix) <= 9:
            return self.prefix
        return "pyk" + hashlib.sha256(self.prefix.encode()).hexdigest()[:6]

    @property
    def bridge(self) -> str:
        """The bridge of the first segment, in which the machine itself has an address."""
        return self.bridge_of(0)

    def bridge_of(self, segment: int) -> str:
        return f"{self.link_base}-br{segment}"

    def router_link(self, segment: int) -> str:
        """The machine's end of the router's leg on a segment."""
        return f"{self.link_base}-r{segment}"

    @property
    def router_namespace(self) -> str:
        """The file that holds the network namespace of the router between the segments."""
        return f"/run/netns/{self.prefix}-router"

    def node_link(self, node: str) -> str:
        """The machine's end of the node's veth pair."""
        return f"{self.link_base}-n{number_of(node)}"

    def is_link(self, name: str) -> bool:
        """Whether a link of the machine is one of this cluster's, whatever number of nodes it had."""
        return re.fullmatch(re.escape(self.link_base) + r"-(n|r|br)\d+", name) is not None

    def namespace(self, node: str) -> str:
        """The file that holds the node's network namespace."""
        return f"/run/netns/{self.prefix}-{node}"

    def is_namespace(self, file_name: str) -> bool:
        """Whether a name in /run/netns is one of this cluster's."""
        return re.fullmatch(re.escape(self.prefix) + r"-(node-\d+|router)", file_name) is not None

    @property
    def families(self) -> tuple[int, ...]:
        """The IP families of the cluster, the primary one first."""
        return FAMILIES[self.options.ip_family]

    @property
    def node_subnet(self) -> Network:
        return addresses.node_subnet(self._subnet, self.families[0])

    @property
    def cluster_cidrs(self) -> list[Network]:
        """The ranges of the pods, one of each family."""
        return [addresses.cluster_cidr(self._subnet, family) for family in self.families]

    @property
    def cluster_cidr(self) -> Network:
        return self.cluster_cidrs[0]

    @property
    def service_cidrs(self) -> list[Network]:
        """The ranges of the services' addresses, which mean something in the cluster only; one of each family."""
        return [addresses.service_cidr(self._subnet, family) for family in self.families]

    @property
    def service_cidr(self) -> Network:
        return self.service_cidrs[0]

    @property
    def cluster_dns(self) -> list[str]:
        """The addresses of the cluster's name server: by custom the tenth of the services' ranges."""
        return [str(network[10]) for network in self.service_cidrs]

    def ranges(self) -> list[Network]:
        """All networks of the cluster, as far as it has the family."""
        return addresses.ranges(self._subnet, self.families)

    def segment_networks(self, segment: int) -> list[Network]:
        """The networks of a segment, one of each family."""
        count = self.options.segments
        return [addresses.segment(self._subnet, family, segment, count) for family in self.families]

    def segment_of(self, node: str) -> int:
        """The nodes are dealt to the segments in turn."""
        return (number_of(node) - 1) % self.options.segments

    @property
    def bridge_addresses(self) -> list[str]:
        """The machine's own addresses on the first segment."""
        return [str(network[1]) for network in self.segment_networks(0)]

    @property
    def bridge_address(self) -> str:
        return self.bridge_addresses[0]

    def router_addresses(self, segment: int) -> list[str]:
        """The router's addresses on a segment."""
        return [str(network[2]) for network in self.segment_networks(segment)]

    def node_addresses(self, node: str) -> list[str]:
        """The node's addresses on its segment, the primary one first."""
        place = 10 + (number_of(node) - 1) // self.options.segments + 1
        return [str(network[place]) for network in self.segment_networks(self.segment_of(node))]

    def node_address(self, node: str) -> str:
        return self.node_addresses(node)[0]

    @property
    def server(self) -> str:
        """The API server as people on this machine reach it."""
        return f"https://127.0.0.1:{self.options.port}"

    @property
    def node_server(self) -> str:
        """The API server as nodes reach it."""
        address = self.bridge_address
        return f"https://{f'[{address}]' if ':' in address else address}:{self.options.port}"

    @property
    def _subnet(self) -> int:
        if self.options.subnet is None:
            raise ValueError("the cluster's subnet has not been chosen")
        return self.options.subnet

    def with_subnet(self, subnet: int) -> Layout:
        return Layout(replace(self.options, subnet=subnet))


def prefix_of(name: str) -> str:
    """What all names of the cluster on the machine begin with."""
    return name if name.startswith("pyk") else f"pyk-{name}"


def number_of(node: str) -> int:
    """3 of `node-3`."""
    return int(node.rpartition("-")[2])


def check_options(options: Options) -> None:
    """Raises `UserError` for the first option that cannot work."""
    if not _NAME.match(options.name):
        raise UserError(f"--name {options.name!r}: use up to 32 lower-case letters, digits and '-'")
    if not 1 <= options.nodes <= MOST_NODES:
        raise UserError(f"--nodes {options.nodes}: between 1 and {MOST_NODES}")
    if options.ip_family not in FAMILIES:
        raise UserError(f"--ip-family {options.ip_family}: {', '.join(FAMILIES)}")
    if not 1 <= options.segments <= MOST_SEGMENTS:
        raise UserError(f"--segments {options.segments}: between 1 and {MOST_SEGMENTS}")
    if options.segments > 1 and options.nodes > options.segments * NODES_OF_SEGMENT:
        raise UserError(f"--nodes {options.nodes}: at most {NODES_OF_SEGMENT} for each of several segments")
    if not 1 <= options.max_pods <= MOST_PODS:
        raise UserError(f"--max-pods {options.max_pods}: between 1 and {MOST_PODS}, the ports of a node's bridge")
    if options.nodes > 2 ** (Layout(options).node_cidr_mask - 16):
        raise UserError(
            f"--nodes {options.nodes} with --max-pods {options.max_pods}: the pods' addresses do not suffice"
        )
    if not 1 <= options.port <= 65535:
        raise UserError(f"--port {options.port}: between 1 and 65535")
    if options.store not in ("sqlite", "etcd"):
        raise UserError(f"--store {options.store}: sqlite or etcd")
    if options.etcd_endpoints and options.store != "etcd":
        raise UserError("--etcd-endpoints needs --store etcd")
    try:
        if millicores(options.node_cpus) < 100:
            raise UserError(f"--node-cpus {options.node_cpus}: at least 100m (a tenth of a core)")
        if whole(options.node_memory) < 256 << 20:
            raise UserError(f"--node-memory {options.node_memory}: at least 256Mi")
    except BadQuantity as error:
        raise UserError(f"--node-cpus and --node-memory are quantities such as 1500m and 2Gi: {error}") from None
