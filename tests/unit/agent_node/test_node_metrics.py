"""The pages that Prometheus reads of a node: names, labels and values that dashboards rely on."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from agent.cadvisor import cadvisor_metrics, resource_metrics
from agent.exposition import Families
from agent.interfaces import Interface
from agent.kubeletmetrics import kubelet_metrics
from agent.measuring import Disk, Group, MeasuredContainer, MeasuredPod, Snapshot
from agent.pods.probemetrics import count, exposition, forget, labels_of
from agent.runtime.cgroups import Limits, Usage
from agent.runtime.cgroups.accounting import io_totals, v1_details, v2_details
from tests.unit.agent_node.test_node_stats import POD, active, state

STALL = {"some": {"avg10": 0.0, "avg60": 1.0, "avg300": 0.0, "total": 2_500_000}}
GROUP = Group(
    Usage(3_000_000_000, 4000, 3000, 5),
    at=1.0,
    details={"cpu_user_ns": 2_000_000_000, "memory_rss": 1000, "cpu_throttled_periods": 3},
    stalls={"memory": STALL},
    limits=Limits(cpu_millicores=500, memory_bytes=1 << 20),
    oom_kills=2,
)


def snapshot(folder: Path) -> Snapshot:
    container = MeasuredContainer("main", state(), f"{POD}/c1", GROUP)
    eth0 = Interface("eth0", 10, 1, 0, 0, 20, 2, 0, 4)
    pod = MeasuredPod(active(folder), GROUP, [container], [eth0])
    disk = Disk(100, 50, 50, 10, 5)
    return Snapshot(1700000000.5, GROUP, {}, [pod], disk, disk)


def samples(page: bytes) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def test_cadvisor_rows_are_of_node_pod_and_container(tmp_path: Path) -> None:
    found = samples(cadvisor_metrics(snapshot(tmp_path), "/pyk/n1", 2000, 1 << 30))
    of_container = {
        "container": "main",
        "id": "/kubepods/besteffort/podu1/c1",
        "image": "example.org/web:1",
        "name": "c1",
        "namespace": "default",
        "pod": "web",
    }
    of_pod = {
        **dict.fromkeys(of_container, ""),
        "id": "/kubepods/besteffort/podu1",
        "namespace": "default",
        "pod": "web",
    }
    of_node = {**dict.fromkeys(of_container, ""), "id": "/"}
    assert found["container_cpu_usage_seconds_total"] == [(of_node, 3.0), (of_pod, 3.0), (of_container, 3.0)]
    for name, value in (
        ("container_memory_working_set_bytes", 3000.0),
        ("container_memory_rss", 1000.0),
        ("container_oom_events_total", 2.0),
        ("container_cpu_cfs_throttled_periods_total", 3.0),
        ("container_pressure_memory_waiting_seconds_total", 2.5),
        ("container_spec_memory_limit_bytes", float(1 << 20)),
        ("container_spec_cpu_quota", 50_000.0),
        ("container_start_time_seconds", 2.0),
    ):
        assert (of_container, value) in found[name], name
    assert found["container_network_transmit_packets_dropped_total"] == [({**of_pod, "interface": "eth0"}, 4.0)]
    assert found["machine_cpu_cores"] == [({}, 2.0)]
    assert "container_pressure_io_waiting_seconds_total" not in found  # what the kernel does not tell is not made up


def test_resource_metrics_are_what_the_metrics_server_reads(tmp_path: Path) -> None:
    found = samples(resource_metrics(snapshot(tmp_path)))
    of_pod = {"namespace": "default", "pod": "web"}
    assert found["node_cpu_usage_seconds_total"] == [({}, 3.0)]
    assert found["container_cpu_usage_seconds_total"] == [({"container": "main", **of_pod}, 3.0)]
    assert found["pod_memory_working_set_bytes"] == [(of_pod, 3000.0)]
    assert found["resource_scrape_error"] == [({}, 0.0)]


def test_the_agents_own_page_counts_pods_and_the_disks_of_claims(tmp_path: Path) -> None:
    numbers = dict.fromkeys(
        ("available_bytes", "capacity_bytes", "used_bytes", "inodes", "inodes_free", "inodes_used"), 7
    )
    found = samples(kubelet_metrics("n1", [active(tmp_path)], [("default", "d", numbers)]))
    assert found["kubelet_running_pods"] == [({}, 1.0)]
    assert ({"container_state": "running"}, 1.0) in found["kubelet_running_containers"]
    assert found["kubelet_volume_stats_used_bytes"] == [({"namespace": "default", "persistentvolumeclaim": "d"}, 7.0)]


def test_labels_are_escaped() -> None:
    families = Families()
    families.add("m", "gauge", "told", {"l": 'a"b\\c\nd'}, 1)
    assert samples(families.text()) == {"m": [({"l": 'a"b\\c\nd'}, 1.0)]}


def test_probes_are_counted_until_their_pod_is_gone() -> None:
    pod = {"metadata": {"name": "p", "namespace": "n", "uid": "probed"}, "spec": {"containers": [{"name": "c"}]}}
    whose = labels_of(pod, "c")
    for result in ("successful", "successful", "failed"):
        count("Readiness", result, whose)
    found = samples(exposition())["prober_probe_total"]
    assert ({"probe_type": "Readiness", "result": "successful", **whose}, 2.0) in found
    forget(pod)
    assert b'pod_uid="probed"' not in exposition()


def write(folder: Path, **files: str) -> str:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return str(folder)


def test_details_have_the_same_names_in_both_versions(tmp_path: Path) -> None:
    first = v1_details(
        write(tmp_path / "cpu", cpu__stat="nr_periods 9\nnr_throttled 3\nthrottled_time 5000\n"),
        write(tmp_path / "acct", cpuacct__stat="user 200\nsystem 100\n"),
        write(
            tmp_path / "memory",
            memory__stat="rss 1\ntotal_rss 10\ntotal_cache 20\ntotal_pgfault 30\n",
            memory__failcnt="4\n",
            memory__max_usage_in_bytes="99\n",
        ),
    )
    second = v2_details(
        write(
            tmp_path / "v2",
            cpu__stat="user_usec 2000000\nsystem_usec 1000000\nnr_periods 9\nnr_throttled 3\nthrottled_usec 5\n",
            memory__stat="anon 10\nfile 20\npgfault 30\n",
            memory__events="low 0\nmax 4\noom 1\n",
            memory__peak="99\n",
            io__stat="8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=5 wbytes=0 rios=1 wios=0\n",
        )
    )
    assert first == {
        "cpu_user_ns": 2_000_000_000,
        "cpu_system_ns": 1_000_000_000,
        "cpu_periods": 9,
        "cpu_throttled_periods": 3,
        "cpu_throttled_ns": 5000,
        "memory_rss": 10,
        "memory_cache": 20,
        "page_faults": 30,
        "memory_peak": 99,
        "memory_failures": 4,
    }
    assert second == first | {"io_read_bytes": 15, "io_write_bytes": 20, "io_reads": 2, "io_writes": 2}
    assert io_totals("") == {}
