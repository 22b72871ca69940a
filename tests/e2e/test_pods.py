"""What a pod may ask for, on real containers: results, limits, volumes, environment, security, addresses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import IMAGE, Cluster, container_status, is_ready, pod_document, wait_for
from tests.patience import patient


def output_of(cluster: Cluster, namespace: str, name: str, command: str, **spec: Any) -> str:
    """What a pod that runs once prints."""
    cluster.apply(pod_document(name, command, restartPolicy="Never", **spec), namespace)
    cluster.wait_pod(namespace, name, lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"), "has ended")
    return cluster.kubectl("logs", name, "-n", namespace).stdout


def terminated(pod: Any, index: int = 0) -> Any:
    return (container_status(pod, index).get("state") or {}).get("terminated")


@pytest.mark.parametrize(
    ("command", "code", "reason", "phase"),
    [
        ("exit 0", 0, "Completed", "Succeeded"),
        ("exit 3", 3, "Error", "Failed"),
        ("kill -TERM $$$$; sleep 5", 143, "Error", "Failed"),
    ],
)
def test_exit_codes_and_signals_are_told(
    cluster: Cluster, namespace: str, command: str, code: int, reason: str, phase: str
) -> None:
    # A process that is the first of its PID namespace ignores what it does not handle: let a child end by the signal.
    cluster.apply(pod_document("ends", f"sh -c '{command}'; exit $?", restartPolicy="Never"), namespace)
    pod = cluster.wait_pod(namespace, "ends", terminated, "has ended")
    assert (terminated(pod)["exitCode"], terminated(pod)["reason"]) == (code, reason)
    assert pod["status"]["phase"] == phase
    assert terminated(pod)["startedAt"] <= terminated(pod)["finishedAt"]


def test_too_much_memory_is_an_oom_kill(cluster: Cluster, namespace: str) -> None:
    container = {"resources": {"limits": {"memory": "32Mi"}}}
    eat = "exec python3 -c 'bytearray(200 * 2**20)'"
    cluster.apply(pod_document("greedy", eat, restartPolicy="Never", container=container), namespace)
    pod = cluster.wait_pod(namespace, "greedy", terminated, "has ended")
    assert (terminated(pod)["reason"], terminated(pod)["exitCode"]) == ("OOMKilled", 137)


def test_failing_containers_restart_with_growing_back_off(cluster: Cluster, namespace: str) -> None:
    cluster.apply(pod_document("crashing", "exit 1"), namespace)
    pod = cluster.wait_pod(
        namespace,
        "crashing",
        lambda pod: (container_status(pod).get("state") or {}).get("waiting", {}).get("reason") == "CrashLoopBackOff",
        "backs off",
    )
    assert "back-off 10s restarting failed container=main" in container_status(pod)["state"]["waiting"]["message"]
    assert container_status(pod)["lastState"]["terminated"]["exitCode"] == 1
    assert container_status(pod)["restartCount"] >= 1


def test_restart_policy_on_failure_leaves_success_alone(cluster: Cluster, namespace: str) -> None:
    command = "test -e /keep/done && exit 0; touch /keep/done; exit 1"
    document = pod_document(
        "twice",
        command,
        restartPolicy="OnFailure",
        container={"volumeMounts": [{"name": "keep", "mountPath": "/keep"}]},
        volumes=[{"name": "keep", "emptyDir": {}}],
    )
    cluster.apply(document, namespace)
    pod = cluster.wait_pod(namespace, "twice", lambda pod: pod["status"]["phase"] == "Succeeded", "has succeeded")
    assert container_status(pod)["restartCount"] == 1


def test_a_command_that_does_not_exist_says_so(cluster: Cluster, namespace: str) -> None:
    document = pod_document("lost", restartPolicy="Never", container={"command": ["no-such-program"]})
    cluster.apply(document, namespace)
    pod = cluster.wait_pod(namespace, "lost", lambda pod: pod["status"]["phase"] == "Failed", "has failed")
    assert terminated(pod)["reason"] == "StartError"
    assert terminated(pod)["exitCode"] == 128
    assert "no-such-program" in terminated(pod)["message"]


def test_a_missing_image_is_told_and_recovers_when_it_appears(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    name = f"local/late-{namespace}:1"
    cluster.apply(
        pod_document("waits", container={"image": name, "command": ["/bin/busybox", "sleep", "1000"]}), namespace
    )

    def waiting_reason(pod: Any) -> str:
        return str((container_status(pod).get("state") or {}).get("waiting", {}).get("reason"))

    cluster.wait_pod(
        namespace, "waits", lambda pod: waiting_reason(pod) in ("ErrImagePull", "ImagePullBackOff"), "says so"
    )
    events = cluster.kubectl("get", "events", "-n", namespace, "-o", "json").stdout
    assert name in events
    busybox = shutil.which("busybox")
    assert busybox, "the test needs Debian's busybox-static"
    (tmp_path / "root" / "bin").mkdir(parents=True)
    shutil.copy(busybox, tmp_path / "root" / "bin" / "busybox")
    cluster.pyk("image", "import", name, str(tmp_path / "root"), "--data-dir", str(cluster.data_dir))
    cluster.wait_ready(namespace, "waits", seconds=90)


def test_a_pod_that_fits_nowhere_says_why_and_fits_when_room_is_made(cluster: Cluster, namespace: str) -> None:
    half = {"resources": {"requests": {"cpu": "1500m"}}}
    for name in ("a", "b", "c"):
        cluster.apply(pod_document(name, container=half), namespace)
        cluster.wait_ready(namespace, name)
    cluster.apply(pod_document("late", container=half), namespace)

    def refused(pod: Any) -> Any:
        return [c for c in pod["status"].get("conditions") or [] if c.get("reason") == "Unschedulable"]

    pod = cluster.wait_pod(namespace, "late", refused, "is refused")
    assert "0/3 nodes are available" in refused(pod)[0]["message"]
    assert "Insufficient cpu" in refused(pod)[0]["message"]
    cluster.kubectl("delete", "pod", "b", "-n", namespace)
    cluster.wait_ready(namespace, "late")


def test_environment_volumes_and_files(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "configmap", "cm", "--from-literal=greeting=hello", "--from-literal=b=2", "-n", namespace)
    cluster.kubectl("create", "secret", "generic", "sec", "--from-literal=password=s3cret", "-n", namespace)
    container = {
        "env": [
            {"name": "PLAIN", "value": "x"},
            {"name": "BOTH", "value": "$(PLAIN)-$(GREETING)"},
            {"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "greeting"}}},
            {"name": "AFTER", "value": "$(GREETING)$$(PLAIN)"},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "password"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
        ],
        "envFrom": [{"prefix": "CM_", "configMapRef": {"name": "cm"}}],
        "resources": {"limits": {"memory": "64Mi"}},
        "workingDir": "/tmp",
        "volumeMounts": [
            {"name": "cm", "mountPath": "/etc/cm"},
            {"name": "sec", "mountPath": "/etc/sec", "readOnly": True},
            {"name": "scratch", "mountPath": "/scratch"},
        ],
    }
    volumes = [
        {"name": "cm", "configMap": {"name": "cm"}},
        {"name": "sec", "secret": {"secretName": "sec", "defaultMode": 0o400}},
        {"name": "scratch", "emptyDir": {"medium": "Memory"}},
    ]
    command = (
        'echo "$PLAIN|$BOTH|$AFTER|$PASSWORD|$NODE|$LIMIT|$CM_b"; pwd; cat /etc/cm/greeting; echo; '
        "stat -L -c %a /etc/sec/password; touch /etc/sec/x 2>/dev/null || echo read-only; "
        "grep ' /scratch ' /proc/mounts | cut -d' ' -f3; hostname"
    )
    lines = output_of(cluster, namespace, "files", command, container=container, volumes=volumes).splitlines()
    node = cluster.pod(namespace, "files")["spec"]["nodeName"]
    assert lines == [
        f"x|x-$(GREETING)|hello$(PLAIN)|s3cret|{node}|{64 * 2**20}|2",
        *("/tmp", "hello", "400", "read-only", "tmpfs", "files"),
    ]


def test_a_mounted_config_map_changes_live(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "configmap", "live", "--from-literal=v=old", "-n", namespace)
    document = pod_document(
        "reader",
        container={"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
        volumes=[{"name": "v", "configMap": {"name": "live"}}],
    )
    cluster.apply(document, namespace)
    cluster.wait_ready(namespace, "reader")
    cluster.kubectl("patch", "configmap", "live", "-n", namespace, "-p", '{"data":{"v":"new"}}')
    wait_for(
        "the new value in the container",
        lambda: cluster.kubectl("exec", "reader", "-n", namespace, "--", "cat", "/v/v").stdout == "new",
    )


def test_containers_are_confined(cluster: Cluster, namespace: str) -> None:
    command = (
        "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; "
        "ls /proc/self/fd | wc -l; ps -e 2>/dev/null | wc -l; cat /proc/1/comm; "
        "ls /sys/fs/cgroup >/dev/null; mount -t tmpfs none /mnt 2>/dev/null && echo mounted; "
        "echo x > /proc/sys/kernel/hostname 2>/dev/null && echo wrote; "
        "cat /proc/kcore >/dev/null 2>&1 && echo read; true"
    )
    container = {"securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
    text = output_of(cluster, namespace, "confined", command, container=container)
    assert "CapEff:\t0000000000000000" in text
    assert "NoNewPrivs:\t1" in text
    assert "Seccomp:\t2" in text
    for escape in ("mounted", "wrote", "read"):
        assert escape not in text.splitlines()


def test_limits_are_the_cgroups(cluster: Cluster, namespace: str) -> None:
    container = {
        "resources": {"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"cpu": "500m", "memory": "48Mi"}}
    }
    cluster.apply(pod_document("limited", container=container), namespace)
    pod = cluster.wait_ready(namespace, "limited")
    assert pod["status"]["qosClass"] == "Burstable"
    identity = container_status(pod)["containerID"].partition("://")[2]
    roots = [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")]
    groups = [group for root in roots if root.is_dir() for group in root.glob(f"pyk*/**/burstable/**/{identity}")]
    assert groups, f"no cgroup named for the container {identity}"
    limits = [file for name in ("memory.limit_in_bytes", "memory.max") if (file := groups[0] / name).exists()]
    assert int(limits[0].read_text()) == 48 * 2**20


def test_containers_of_a_pod_share_its_network_but_not_its_processes(cluster: Cluster, namespace: str) -> None:
    serve = "import socket; s = socket.create_server(('127.0.0.1', 8080)); c, _ = s.accept(); c.sendall(b'hi')"
    client = (
        "import socket, time\n"
        "while True:\n"
        "    try: print(socket.create_connection(('127.0.0.1', 8080)).recv(9).decode()); break\n"
        "    except OSError: time.sleep(0.1)\n"
    )
    containers = [
        {"name": "server", "image": IMAGE, "command": ["python3", "-c", serve]},
        {"name": "client", "image": IMAGE, "command": ["python3", "-c", client]},
        {"name": "lonely", "image": IMAGE, "command": ["sh", "-c", "ls -d /proc/[0-9]* | wc -l"]},
    ]
    document = pod_document("shared", restartPolicy="Never")
    document["spec"]["containers"] = containers
    cluster.apply(document, namespace)
    cluster.wait_pod(namespace, "shared", lambda pod: pod["status"]["phase"] == "Succeeded", "has succeeded")
    assert cluster.kubectl("logs", "shared", "-c", "client", "-n", namespace).stdout == "hi\n"
    assert int(cluster.kubectl("logs", "shared", "-c", "lonely", "-n", namespace).stdout) <= 4


def test_pods_of_all_nodes_reach_one_another_by_address(cluster: Cluster, namespace: str) -> None:
    serve = (
        "import socket\n"
        "server = socket.create_server(('', 8080))\n"
        "while True:\n"
        "    one, _ = server.accept(); one.sendall(b'pong'); one.close()\n"
    )
    nodes = [node["metadata"]["name"] for node in cluster.get("nodes")["items"]]
    assert len(nodes) == 3
    for node in nodes:
        document = pod_document(f"on-{node}", nodeName=node, container={"command": ["python3", "-c", serve]})
        cluster.apply(document, namespace)
    addresses = {node: cluster.wait_ready(namespace, f"on-{node}")["status"]["podIP"] for node in nodes}
    assert len(set(addresses.values())) == 3
    asking = (
        "import socket, sys\n"
        "for address in sys.argv[1:]: print(socket.create_connection((address, 8080), 10).recv(9).decode())"
    )
    for node in nodes:
        said = cluster.kubectl(
            *("exec", f"on-{node}", "-n", namespace, "--", "python3", "-c", asking, *addresses.values())
        ).stdout
        assert said.split() == ["pong"] * 3


def test_termination_gives_time_and_takes_it(cluster: Cluster, namespace: str) -> None:
    polite = "trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done"
    document = pod_document("polite", polite, terminationGracePeriodSeconds=30)
    cluster.apply(document, namespace)
    stubborn = pod_document("stubborn", "trap '' TERM; while :; do sleep 0.1; done", terminationGracePeriodSeconds=1)
    cluster.apply(stubborn, namespace)
    for name in ("polite", "stubborn"):
        cluster.wait_ready(namespace, name)
        cluster.kubectl("delete", "pod", name, "-n", namespace, timeout=20)


def test_readiness_and_liveness_probes_act(cluster: Cluster, namespace: str) -> None:
    fast = {"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": round(patient(1))}
    container = {
        "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, **fast},
        "livenessProbe": {"exec": {"command": ["test", "!", "-e", "/tmp/sick"]}, **fast},
    }
    cluster.apply(pod_document("probed", container=container), namespace)
    pod = cluster.wait_pod(namespace, "probed", lambda pod: pod["status"]["phase"] == "Running", "runs")
    assert not is_ready(pod)
    cluster.kubectl("exec", "probed", "-n", namespace, "--", "touch", "/tmp/ready")
    cluster.wait_ready(namespace, "probed")
    cluster.kubectl("exec", "probed", "-n", namespace, "--", "touch", "/tmp/sick")
    cluster.wait_pod(namespace, "probed", lambda pod: container_status(pod).get("restartCount") == 1, "is restarted")


def test_previous_logs_are_kept(cluster: Cluster, namespace: str) -> None:
    cluster.apply(pod_document("again", "echo run; sleep 1; exit 1"), namespace)
    cluster.wait_pod(namespace, "again", lambda pod: container_status(pod).get("restartCount", 0) >= 1, "restarted")
    assert cluster.kubectl("logs", "again", "-p", "-n", namespace).stdout == "run\n"


def test_top_shows_what_pods_and_nodes_use(cluster: Cluster, namespace: str) -> None:
    cluster.apply(
        pod_document("busy", "while :; do :; done", container={"resources": {"limits": {"cpu": "200m"}}}), namespace
    )
    cluster.wait_ready(namespace, "busy")

    def millicores() -> int:
        rows = cluster.pyk("top", "pods", "-n", namespace, "--no-headers").stdout.split()
        return int(rows[1].rstrip("m")) if len(rows) > 1 else 0

    used = wait_for("its cpu use", lambda: millicores() > 100 and millicores())
    assert used <= 260
    nodes = cluster.pyk("top", "nodes", "--no-headers").stdout.splitlines()
    assert len(nodes) == 3
    assert "<unknown>" not in json.dumps(nodes)
    advice = cluster.pyk("top", "pods", "-n", namespace, "--recommend", "--for", "3", "--no-headers").stdout
    cpu, memory = (line.split() for line in advice.splitlines())
    assert cpu[:4] == ["Pod/busy", "main", "cpu", "200m"]
    assert 150 <= int(cpu[5].rstrip("m")) <= 320, "what it uses, and a margin"
    assert memory[4:] == ["250Mi", "250Mi", "250Mi"], "the least that is recommended"
