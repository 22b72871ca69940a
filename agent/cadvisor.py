"""Prometheus metrics of the node's groups: /metrics/cadvisor and /metrics/resource, under Kubernetes' names. Pure.

A row of /metrics/cadvisor regards the node (`id="/"`), a pod (no `container`) or a container; dashboards and rules rely
on these labels: `container`, `id` (the group below the node's), `image`, `name` (the container's id), `namespace`,
`pod`.
Source: google/cadvisor metrics/prometheus.go and the kubelet's pkg/kubelet/metrics/collectors/resource_metrics.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.eviction.localstorage import Space
from agent.exposition import Families
from agent.measuring import Group, MeasuredPod, Snapshot
from agent.pods.observed import IMAGE
from agent.pods.resources import container_cgroup_resources
from agent.pods.restart import all_containers
from pyk.api.objects import name_of, namespace_of

NS = 1e9
_LABELS = ("container", "id", "image", "name", "namespace", "pod")


@dataclass(frozen=True, slots=True)
class _Row:
    """A group with its labels."""

    labels: Mapping[str, str]
    group: Group
    started_at: float = 0.0
    shares: int = 0
    space: Space | None = None
    pod: MeasuredPod | None = field(default=None)


@dataclass(frozen=True, slots=True)
class _Family:
    name: str
    kind: str
    told: str
    value: Callable[[_Row], float | None]


def _detail(name: str, scale: float = 1) -> Callable[[_Row], float | None]:
    def value(row: _Row) -> float | None:
        found = row.group.details.get(name)
        return None if found is None else found if scale == 1 else found / scale

    return value


def _stalled(resource: str, kind: str) -> Callable[[_Row], float | None]:
    def value(row: _Row) -> float | None:
        found = (row.group.stalls.get(resource) or {}).get(kind)
        return None if found is None else found["total"] / 1e6

    return value


def _quota(row: _Row) -> float | None:
    limit = row.group.limits.cpu_millicores
    return None if limit is None else limit * 100


_FAMILIES = (
    _Family("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.",
            lambda row: row.group.usage.cpu_usage_ns / NS),
    _Family("container_cpu_user_seconds_total", "counter", "Cumulative user cpu time consumed in seconds.",
            _detail("cpu_user_ns", NS)),
    _Family("container_cpu_system_seconds_total", "counter", "Cumulative system cpu time consumed in seconds.",
            _detail("cpu_system_ns", NS)),
    _Family("container_cpu_cfs_periods_total", "counter", "Number of elapsed enforcement period intervals.",
            _detail("cpu_periods")),
    _Family("container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.",
            _detail("cpu_throttled_periods")),
    _Family("container_cpu_cfs_throttled_seconds_total", "counter", "Total time duration the container has been "
            "throttled.", _detail("cpu_throttled_ns", NS)),
    _Family("container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory.",
            lambda row: row.group.usage.memory_bytes),
    _Family("container_memory_working_set_bytes", "gauge", "Current working set in bytes.",
            lambda row: row.group.usage.working_set_bytes),
    _Family("container_memory_rss", "gauge", "Size of RSS in bytes.", _detail("memory_rss")),
    _Family("container_memory_cache", "gauge", "Number of bytes of page cache memory.", _detail("memory_cache")),
    _Family("container_memory_mapped_file", "gauge", "Size of memory mapped files in bytes.", _detail("memory_mapped")),
    _Family("container_memory_swap", "gauge", "Container swap usage in bytes.", _detail("memory_swap")),
    _Family("container_memory_max_usage_bytes", "gauge", "Maximum memory usage recorded in bytes",
            _detail("memory_peak")),
    _Family("container_memory_failcnt", "counter", "Number of memory usage hits limits", _detail("memory_failures")),
    _Family("container_oom_events_total", "counter", "Count of out of memory events observed for the container",
            lambda row: row.group.oom_kills),
    _Family("container_threads", "gauge", "Number of threads running inside the container",
            lambda row: row.group.usage.pids),
    _Family("container_fs_reads_total", "counter", "Cumulative count of reads completed", _detail("io_reads")),
    _Family("container_fs_writes_total", "counter", "Cumulative count of writes completed", _detail("io_writes")),
    _Family("container_fs_reads_bytes_total", "counter", "Cumulative count of bytes read", _detail("io_read_bytes")),
    _Family("container_fs_writes_bytes_total", "counter", "Cumulative count of bytes written",
            _detail("io_write_bytes")),
    _Family("container_pressure_cpu_waiting_seconds_total", "counter", "Total time duration tasks in the container "
            "have waited due to CPU congestion.", _stalled("cpu", "some")),
    _Family("container_pressure_cpu_stalled_seconds_total", "counter", "Total time duration no tasks in the container "
            "could make progress due to CPU congestion.", _stalled("cpu", "full")),
    _Family("container_pressure_memory_waiting_seconds_total", "counter", "Total time duration tasks in the container "
            "have waited due to memory congestion.", _stalled("memory", "some")),
    _Family("container_pressure_memory_stalled_seconds_total", "counter", "Total time duration no tasks in the "
            "container could make progress due to memory congestion.", _stalled("memory", "full")),
    _Family("container_pressure_io_waiting_seconds_total", "counter", "Total time duration tasks in the container have "
            "waited due to IO congestion.", _stalled("io", "some")),
    _Family("container_pressure_io_stalled_seconds_total", "counter", "Total time duration no tasks in the container "
            "could make progress due to IO congestion.", _stalled("io", "full")),
    _Family("container_spec_cpu_period", "gauge", "CPU period of the container.", lambda row: 100_000),
    _Family("container_spec_cpu_quota", "gauge", "CPU quota of the container.", _quota),
    _Family("container_spec_cpu_shares", "gauge", "CPU share of the container.", lambda row: row.shares or None),
    _Family("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.",
            lambda row: row.group.limits.memory_bytes or 0),
    _Family("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.",
            lambda row: row.started_at or None),
)  # fmt: skip

_NETWORK = (
    ("receive_bytes", "Cumulative count of bytes received"),
    ("receive_errors", "Cumulative count of errors encountered while receiving"),
    ("receive_packets", "Cumulative count of packets received"),
    ("receive_packets_dropped", "Cumulative count of packets dropped while receiving"),
    ("transmit_bytes", "Cumulative count of bytes transmitted"),
    ("transmit_errors", "Cumulative count of errors encountered while transmitting"),
    ("transmit_packets", "Cumulative count of packets transmitted"),
    ("transmit_packets_dropped", "Cumulative count of packets dropped while transmitting"),
)


def cadvisor_metrics(snapshot: Snapshot, root: str, cpu_millicores: int, memory_bytes: int) -> bytes:
    """/metrics/cadvisor; `root` is the node's group, the others its capacity."""
    families, at = Families(), int(snapshot.time * 1000)
    families.add("machine_cpu_cores", "gauge", "Number of logical CPU cores.", {}, cpu_millicores / 1000)
    families.add("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.", {}, memory_bytes)
    rows = list(_rows(snapshot, root))
    for family in _FAMILIES:
        for row in rows:
            if (value := family.value(row)) is not None:
                families.add(family.name, family.kind, family.told, row.labels, value, at)
    for row in rows:
        if row.space is not None:
            _add_space(families, snapshot, row, at)
    for row in rows:
        if row.pod is not None:
            _add_network(families, row, row.pod, at)
    for row in rows:
        families.add("container_last_seen", "gauge", "Last time a container was seen by the exporter", row.labels,
                     snapshot.time, at)  # fmt: skip
    return families.text()


def _rows(snapshot: Snapshot, root: str) -> Iterator[_Row]:
    nothing = dict.fromkeys(_LABELS, "")
    if snapshot.node is not None:
        yield _Row(nothing | {"id": "/"}, snapshot.node)
    for pod in snapshot.pods:
        document = pod.active.pod
        of_pod = nothing | {"namespace": namespace_of(document), "pod": name_of(document)}
        identifier = pod.active.cgroup.removeprefix(root)
        yield _Row(of_pod | {"id": identifier}, pod.group, pod=pod)
        specs = {container["name"]: container for container in all_containers(document)}
        for container in pod.containers:
            labels = of_pod | {
                "container": container.name,
                "id": container.path.removeprefix(root),
                "image": container.state.labels.get(IMAGE, ""),
                "name": container.state.id,
            }
            shares = container_cgroup_resources(specs.get(container.name, {}))["cpu"]["shares"]
            space = None if pod.space is None else pod.space.container(container.name)
            yield _Row(labels, container.group, container.state.started_at, shares, space)


def _add_space(families: Families, snapshot: Snapshot, row: _Row, at: int) -> None:
    assert row.space is not None
    disk = snapshot.node_disk
    labels = {"device": "rootfs", **row.labels}
    for name, told, value in (
        ("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.",
         row.space.bytes),
        ("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.",
         disk.capacity),
        ("container_fs_inodes_free", "Number of available Inodes", disk.inodes_free),
        ("container_fs_inodes_total", "Number of Inodes", disk.inodes),
    ):  # fmt: skip
        families.add(name, "gauge", told, labels, value, at)


def _add_network(families: Families, row: _Row, pod: MeasuredPod, at: int) -> None:
    for counter, told in _NETWORK:
        name = f"container_network_{counter}_total"
        attribute = counter.replace("packets_dropped", "dropped")
        for interface in pod.interfaces:
            labels = {**row.labels, "interface": interface.name}
            families.add(name, "counter", f"{told}.", labels, getattr(interface, attribute), at)


def resource_metrics(snapshot: Snapshot) -> bytes:
    """/metrics/resource: processor and memory, for the metrics server and for autoscalers."""
    families, at = Families(), int(snapshot.time * 1000)

    def add(kind: str, labels: Mapping[str, str], group: Group) -> None:
        cpu = group.usage.cpu_usage_ns / NS
        families.add(f"{kind}_cpu_usage_seconds_total", "counter",
                     f"Cumulative cpu time consumed by the {kind} in core-seconds", labels, cpu, at)  # fmt: skip
        working_set = group.usage.working_set_bytes
        families.add(f"{kind}_memory_working_set_bytes", "gauge",
                     f"Current working set of the {kind} in bytes", labels, working_set, at)  # fmt: skip
        if (swap := group.details.get("memory_swap")) is not None:
            families.add(f"{kind}_swap_usage_bytes", "gauge", f"Current amount of the {kind} swap usage in bytes",
                         labels, swap, at)  # fmt: skip

    if snapshot.node is not None:
        add("node", {}, snapshot.node)
    for pod in snapshot.pods:
        labels = {"namespace": namespace_of(pod.active.pod), "pod": name_of(pod.active.pod)}
        for container in pod.containers:
            of_container = {"container": container.name, **labels}
            add("container", of_container, container.group)
            families.add("container_start_time_seconds", "gauge",
                         "Start time of the container since unix epoch in seconds", of_container,
                         container.state.started_at)  # fmt: skip
        add("pod", labels, pod.group)
    families.add("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 "
                 "otherwise", {}, 0)  # fmt: skip
    return families.text()
