"""What happens when a node's resources run short: logs, local storage, memory and disk, on a cluster of small nodes."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cpus.topology import parse_cpus
from tests.e2e.harness import Cluster, make_cluster, pod_document, wait_for

SMALL = """
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
evictionHard: {memory.available: 240Mi}
evictionPressureTransitionPeriod: 2s
containerLogMaxSize: 2Ki
containerLogMaxFiles: 50
systemReserved: {cpu: 200m, memory: 12Mi}
cpuManagerPolicy: static
"""
FULL = """
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
evictionHard: {nodefs.available: 99.9%}
"""


@pytest.fixture(scope="module")
def small() -> Iterator[Cluster]:
    """Two nodes of 512 MiB: the first has small limits, the second takes its disk for full."""
    folder = Path(tempfile.mkdtemp(prefix="pyk-e2e-"))
    made = make_cluster(folder)
    try:
        made.up("--nodes", "2", "--node-memory", "512Mi")
        for node, text in (("node-1", SMALL), ("node-2", FULL)):
            made.node("stop", node)
            drop_ins = made.data_dir / "nodes" / node / "kubelet.conf.d"
            drop_ins.mkdir()
            (drop_ins / "10-test.conf").write_text(text)
            made.node("start", node)
        made.kubectl("create", "namespace", "t")
        yield made
    finally:
        made.down()
        shutil.rmtree(folder, ignore_errors=True)


def on(node: str, name: str, *command: str, **spec: Any) -> dict[str, Any]:
    """A pod that is bound to a node by hand, as a DaemonSet of old did, past the scheduler and its taints."""
    return pod_document(name, *command, nodeName=node, **spec)


def condition(obj: Any, kind: str) -> Any:
    return next((each for each in obj["status"].get("conditions") or () if each["type"] == kind), {})


def test_reservations_and_thresholds_are_not_allocatable(small: Cluster) -> None:
    def shown() -> Any:
        status = small.get("node", "node-1")["status"]
        return [(status["capacity"][name], status["allocatable"][name]) for name in ("cpu", "memory")]

    wait_for("the new allocatable", lambda: shown() == [("2", "1800m"), ("512Mi", "260Mi")])


def test_a_guaranteed_container_has_processors_of_its_own_and_the_others_share_the_rest(small: Cluster) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor cannot be divided")
    amounts = {"cpu": "1", "memory": "16Mi"}
    small.apply(on("node-1", "shares"), "t")
    small.wait_ready("t", "shares")
    small.apply(on("node-1", "owns", container={"resources": {"requests": amounts, "limits": amounts}}), "t")
    small.wait_ready("t", "owns")

    def allowed(pod: str) -> set[int]:
        shown = small.kubectl("exec", "-n", "t", pod, "--", "grep", "Cpus_allowed_list", "/proc/1/status").stdout
        return set(parse_cpus(shown.split()[1]))

    (own,) = allowed("owns")
    rest = set(os.sched_getaffinity(0)) - {own}
    wait_for("the others share the rest", lambda: allowed("shares") == rest)
    small.kubectl("delete", "pod", "-n", "t", "owns")
    wait_for("the others share all", lambda: allowed("shares") == rest | {own})
    small.kubectl("delete", "pod", "-n", "t", "shares", "--wait=false")


def test_kubectl_logs_reads_through_the_files_of_a_log(small: Cluster) -> None:
    lines = [f"line {number}" for number in range(1, 3001)]
    script = (
        "seq -f 'line %g' 1 2000; while ! [ -e /go ]; do sleep 0.05; done; seq -f 'line %g' 2001 3000; exec sleep 1000"
    )
    small.apply(on("node-1", "talks", script), "t")
    small.wait_ready("t", "talks")

    def logs(*options: str) -> list[str]:
        return small.kubectl("logs", "-n", "t", "talks", *options).stdout.splitlines()

    wait_for("2000 lines", lambda: logs() == lines[:2000])
    assert logs("--tail", "1500") == lines[500:2000]
    assert logs("--since", "1h") == lines[:2000]
    assert small.kubectl("logs", "-n", "t", "talks", "--limit-bytes", "20").stdout == "line 1\nline 2\nline 3"[:20]
    small.kubectl("exec", "-n", "t", "talks", "--", "touch", "/go")
    wait_for("3000 lines", lambda: logs() == lines)
    (files,) = (small.data_dir / "nodes" / "node-1" / "logs" / "pods").glob("t_talks_*/main")
    wait_for("a compressed file", lambda: list(files.glob("0.log.*.gz")))
    small.kubectl("delete", "pod", "-n", "t", "talks", "--wait=false")


def test_pods_that_exceed_their_local_storage_are_evicted_and_say_so(small: Cluster) -> None:
    limits = {"resources": {"limits": {"ephemeral-storage": "1Mi"}}}
    volume = {"container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}}
    volumes = [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]
    fill = "dd if=/dev/zero of={} bs=1M count=3; exec sleep 1000"
    pods = [
        on("node-1", "layer", fill.format("/x"), container=limits),
        on("node-1", "volume", fill.format("/v/x"), volumes=volumes, **volume),
        on(
            "node-1", "within", fill.format("/v/x"), volumes=[{"name": "v", "emptyDir": {"sizeLimit": "9Mi"}}], **volume
        ),
    ]
    small.apply(pods, "t")
    for name, message in (
        ("layer", "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "),
        ("volume", 'Usage of EmptyDir volume "v" exceeds the limit "1Mi". '),
    ):
        pod = small.wait_pod("t", name, lambda pod: pod["status"]["phase"] == "Failed", "is evicted")
        assert (pod["status"]["reason"], pod["status"]["message"]) == ("Evicted", message)
        assert condition(pod, "DisruptionTarget") == {}
    assert small.pod("t", "within")["status"]["phase"] == "Running"
    events = small.get("events", "-n", "t", "--field-selector", "reason=Evicted,involvedObject.name=volume")
    assert [event["type"] for event in events["items"]] == ["Warning"]
    small.kubectl("delete", "pod", "-n", "t", "within", "--wait=false")


def test_a_node_that_is_short_of_memory_ends_the_largest_pod_and_takes_no_best_effort_one(small: Cluster) -> None:
    asks = {"container": {"resources": {"requests": {"memory": "64Mi"}}}}
    small.apply(
        [on("node-1", "modest", **asks), on("node-1", "greedy", "(head -c 230M /dev/zero; exec sleep 1000) | tail")],
        "t",
    )
    greedy = small.wait_pod("t", "greedy", lambda pod: pod["status"]["phase"] == "Failed", "is evicted")
    status = greedy["status"]
    assert status["reason"] == "Evicted"
    assert status["message"].startswith("The node was low on resource: memory. Threshold quantity: 240Mi, available: ")
    assert "Container main was using " in status["message"]
    assert status["message"].endswith(", request is 0, has larger consumption of memory. ")
    told = condition(greedy, "DisruptionTarget")
    assert (told["status"], told["reason"], told["message"]) == ("True", "TerminationByKubelet", status["message"])
    assert small.pod("t", "modest")["status"]["phase"] == "Running"
    wait_for(
        "the pressure is over",
        lambda: condition(small.get("node", "node-1"), "MemoryPressure")["status"] == "False",
    )


def test_a_node_without_room_on_disk_has_the_condition_and_the_taint_and_takes_no_pod(small: Cluster) -> None:
    node = wait_for("the taint", lambda: _tainted(small.get("node", "node-2"), "node.kubernetes.io/disk-pressure"))
    told = condition(node, "DiskPressure")
    assert (told["status"], told["reason"]) == ("True", "KubeletHasDiskPressure")
    small.apply(on("node-2", "refused"), "t")
    pod = small.wait_pod("t", "refused", lambda pod: pod["status"].get("phase") == "Failed", "is refused")
    text = "Pod was rejected: The node had condition: [DiskPressure]. "
    assert (pod["status"]["reason"], pod["status"]["message"]) == ("Evicted", text)


def test_prometheus_reads_a_nodes_metrics_with_a_token_and_others_do_not(small: Cluster) -> None:
    small.kubectl("create", "serviceaccount", "prometheus", "-n", "t")
    small.kubectl("create", "serviceaccount", "stranger", "-n", "t")
    small.kubectl("create", "clusterrole", "metrics", "--verb=get", "--resource=nodes/metrics")
    small.kubectl("create", "clusterrolebinding", "metrics", "--clusterrole=metrics", "--serviceaccount=t:prometheus")
    url = _node_url(small, "node-1")
    context = ssl.create_default_context(cafile=str(small.data_dir / "pki" / "ca.crt"))

    def page(path: str, account: str) -> tuple[int, str]:
        token = small.kubectl("create", "token", account, "-n", "t").stdout.strip() if account else ""
        asked = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {token}"} if token else {})
        try:
            with urllib.request.urlopen(asked, context=context, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def of_modest() -> str:
        text = page("/metrics/cadvisor", "prometheus")[1]
        lines = text.splitlines()
        return next((line for line in lines if 'container="main"' in line and 'pod="modest"' in line), "")

    assert 'namespace="t"' in wait_for("the metrics of a pod", of_modest)
    assert "node_cpu_usage_seconds_total" in page("/metrics/resource", "prometheus")[1]
    assert page("/stats/summary", "prometheus")[0] == 403
    assert page("/metrics/cadvisor", "stranger")[0] == 403
    assert page("/metrics/cadvisor", "") == (401, "Unauthorized")
    summary = json.loads(small.kubectl("get", "--raw", "/api/v1/nodes/node-1/proxy/stats/summary").stdout)
    pods = {pod["podRef"]["name"]: pod for pod in summary["pods"]}
    assert pods["modest"]["containers"][0]["logs"]["capacityBytes"] > 0
    assert pods["modest"]["network"]["name"] == "eth0"
    small.kubectl("top", "node", "node-1")


def _node_url(cluster: Cluster, node: str) -> str:
    addresses = cluster.get("node", node)["status"]["addresses"]
    address = next(each["address"] for each in addresses if each["type"] == "InternalIP")
    return f"https://{address}:10250"


def _tainted(node: Any, key: str) -> Any:
    return node if any(taint["key"] == key for taint in node["spec"].get("taints") or ()) else None
