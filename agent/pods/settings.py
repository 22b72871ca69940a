"""What the pod loop must know of its node: names, addresses, places and the constants of its back-offs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PodSettings:
    """Times are in seconds. The defaults of the back-offs are the kubelet's.

    `cgroup_root` is a path below every cgroup hierarchy (`/pyk/n1`); the QoS tree is made below its `kubepods`.
    `node_addresses` are the node's IP addresses, the primary one first. `pod_pids_limit` bounds the processes and
    threads of one pod; None leaves them to the node's own limit. `pods_limits` is the OCI `linux.resources` of the
    group that all pods are in. A container's log is set aside when it is larger than `container_log_max_bytes`; with
    the present one at most `container_log_max_files` are kept. `allowed_unsafe_sysctls` are names, or beginnings that
    end in `*`. `default_apparmor` is the profile of containers that ask for none; empty where the kernel has no
    AppArmor.
    """

    node_name: str
    node_addresses: Sequence[str]
    state_dir: Path
    cgroup_root: str
    cluster_dns: Sequence[str] = ()
    cluster_domain: str = "cluster.local"
    resolv_conf: Path = Path("/etc/resolv.conf")
    pod_pids_limit: int | None = 4096
    pods_limits: Mapping[str, object] = field(default_factory=dict)
    container_log_max_bytes: int = 10 << 20
    container_log_max_files: int = 5
    allowed_unsafe_sysctls: Sequence[str] = ()
    default_apparmor: str = ""
    restart_backoff_base: float = 10.0
    restart_backoff_max: float = 300.0
    image_backoff_base: float = 10.0
    image_backoff_max: float = 300.0
    failure_backoff_base: float = 1.0
    failure_backoff_max: float = 60.0

    @property
    def static_pod_dir(self) -> Path:
        """The folder of manifests whose pods this node runs without being told by the API."""
        return self.state_dir / "manifests"

    @property
    def log_root(self) -> Path:
        """Container logs, in the layout of Kubernetes: `<ns>_<pod>_<uid>/<container>/<attempt>.log`."""
        return self.state_dir / "logs" / "pods"
