"""What is checked on a cluster of virtual machines, in the order in which it is done.

A check is a function that gets the running `Lab` and raises `LabError` or AssertionError when something is not so; what
it returns is printed behind its name. It leaves the cluster as it found it: ready, and without its pods.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.lab.cluster import READY_SECONDS, Lab, wait_until
from tests.lab.machine import Machine
from tests.lab.repository import passes


@dataclass(frozen=True)
class Check:
    """`is_short`: part of the selection that CI runs; `control_planes`: of the lab that it needs, 0 for the tester."""

    name: str
    says: str
    run: Callable[[Lab], str | None]
    is_short: bool
    control_planes: int


ALL: list[Check] = []


def check(*, short: bool = True, control_planes: int = 1) -> Callable[[Callable[[Lab], str | None]], object]:
    """Adds a function to the checks, named as it is."""

    def add(run: Callable[[Lab], str | None]) -> object:
        says = (run.__doc__ or "").strip().splitlines()[0]
        ALL.append(Check(run.__name__.replace("_", " "), says, run, short, control_planes))
        return run

    return add


@check()
def nodes_are_on_cgroup_v2(lab: Lab) -> str:
    """All nodes are Ready, on machines whose only hierarchy is cgroup v2."""
    nodes = lab.get("nodes")["items"]
    assert {node["metadata"]["name"] for node in nodes} == {worker.name for worker in lab.workers}
    for worker in lab.workers:
        assert worker.tell("stat -f -c %T /sys/fs/cgroup").strip() == "cgroup2fs"
        assert worker.tell("ls /sys/fs/cgroup | grep -c '^memory$' || true").strip() == "0"
    addresses = {node["metadata"]["name"]: node["status"]["addresses"] for node in nodes}
    for worker in lab.workers:
        assert {"type": "InternalIP", "address": worker.address} in addresses[worker.name]
    return f"kernel {nodes[0]['status']['nodeInfo']['kernelVersion']}"


@check()
def limits_are_those_of_cgroup_v2(lab: Lab) -> None:
    """A container's cpu, memory and process limits are in its group's files, and memory beyond them kills it."""
    limits = {"cpu": "500m", "memory": "64Mi"}
    pod = lab.pod("limited", lab.workers[0].name, container={"resources": {"limits": limits}})
    hog = "sleep 2; head -c 200m /dev/zero | tail"
    greedy = lab.pod("greedy", lab.workers[0].name, hog, container={"resources": {"limits": {"memory": "32Mi"}}})
    greedy["spec"]["restartPolicy"] = "Never"
    lab.run_pods(pod)
    lab.apply(greedy)
    files = lab.inside("limited", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max").out.split()
    assert files == [str(64 << 20), "50000", "100000"], files
    wait_until("greedy has ended", lambda: _phase(lab, "greedy") == "Failed", 90)
    ended = lab.get("pod", "greedy")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137), ended
    lab.delete("pod/limited", "pod/greedy")


@check()
def pods_and_services_reach_across_machines(lab: Lab) -> None:
    """Pods reach each other on two machines, a service by address and by name, and the API server by its service."""
    one, two = lab.workers
    serve = "mkdir -p /w; echo hello from $(hostname) >/w/index.html; exec busybox httpd -f -p 8080 -h /w"
    server, client = lab.run_pods(lab.pod("server", one.name, serve), lab.pod("client", two.name))
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    lab.apply(service)
    address = server["status"]["podIP"]
    cluster_ip = lab.get("service", "web")["spec"]["clusterIP"]
    for url in (f"http://{address}:8080", f"http://{cluster_ip}", "http://web", "http://web.default.svc.cluster.local"):
        wait_until(f"a pod reads {url}", lambda url=url: _reads(lab, "client", url, "hello from server"), 60)  # type: ignore[misc]
    script = "import socket; socket.create_connection(('kubernetes.default', 443), 10)"
    api = lab.inside("client", f'python3 -c "{script}"')
    assert api.code == 0, api
    assert client["status"]["podIP"] != address
    lab.delete("service/web", "pod/server", "pod/client")


@check()
def user_namespaces_map_root_to_nobody(lab: Lab) -> None:
    """`hostUsers: false`: root inside is an unprivileged user of the machine, and owns its volumes and its token."""
    volumes = [{"name": "scratch", "emptyDir": {"medium": "Memory"}}]
    container = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
    lab.run_pods(lab.pod("mapped", lab.workers[0].name, hostUsers=False, volumes=volumes, container=container))
    first, outside, count = lab.inside("mapped", "cat /proc/self/uid_map").out.split()
    assert first == "0", first
    assert int(outside) >= 65536, outside
    assert int(count) >= 65536, count
    token = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    script = f"echo x >/scratch/x; stat -L -c %u /scratch /scratch/x {token}; test -s {token} && echo there"
    owners = lab.inside("mapped", script).out.split()
    assert owners == ["0", "0", "0", "there"], owners
    lab.delete("pod/mapped")


@check()
def apparmor_confines_containers(lab: Lab) -> str:
    """Containers run under the default profile, under one of the machine's that they name, or under none."""
    worker = lab.workers[0]
    rules = "profile lab-deny flags=(attach_disconnected) {\n  file,\n  deny /etc/passwd r,\n}\n"
    profile = f"#include <tunables/global>\n{rules}"
    worker.tell(f"printf '%s' '{profile}' >/tmp/lab-deny; apparmor_parser -r /tmp/lab-deny")
    kinds = {
        "default": None,
        "none": {"type": "Unconfined"},
        "named": {"type": "Localhost", "localhostProfile": "lab-deny"},
    }
    pods = []
    for name, wanted in kinds.items():
        context = {"securityContext": {"appArmorProfile": wanted}} if wanted else {}
        pods.append(lab.pod(f"armor-{name}", worker.name, container=context))
    lab.run_pods(*pods)
    found = {name: lab.inside(f"armor-{name}", "cat /proc/self/attr/current").out.strip() for name in kinds}
    assert found["none"] == "unconfined", found
    assert found["named"] == "lab-deny (enforce)", found
    assert found["default"].endswith("(enforce)"), found
    denied = lab.inside("armor-named", "cat /etc/passwd")
    assert denied.code != 0, denied
    assert "ermission denied" in denied.out, denied
    lab.delete(*(f"pod/armor-{name}" for name in kinds))
    return f"default: {found['default']}"


@check()
def other_ways_between_machines_carry_pods(lab: Lab) -> str:
    """VXLAN, WireGuard and host routes, one after the other: pods reach each other by each."""
    one, two = lab.workers
    serve = "mkdir -p /w; echo hello from $(hostname) >/w/index.html; exec busybox httpd -f -p 8080 -h /w"
    server, _ = lab.run_pods(lab.pod("server", one.name, serve), lab.pod("client", two.name))
    url = f"http://{server['status']['podIP']}:8080"
    took = []
    for backend, kind in (("vxlan", "vxlan"), ("wireguard", "wireguard"), ("auto", "")):
        for worker in lab.workers:
            worker.tell(f"pyk install agent --network-backend {backend}", seconds=READY_SECONDS)
        if kind:
            wait_until(f"all have a {kind} link", lambda kind=kind: _all_have_link(lab, kind), 120)  # type: ignore[misc]
        lab.wait_ready(one.name, two.name)
        waited = wait_until(
            f"a pod is reached by {backend}", lambda: _reads(lab, "client", url, "hello from server"), 120
        )
        took.append(f"{backend} {waited:.0f} s")
    lab.delete("pod/server", "pod/client")
    return ", ".join(took)


@check()
def a_worker_that_loses_power_is_replaced_and_comes_back(lab: Lab) -> str:
    """Power off: its pods run on the other machine. Power on: the node is ready again and runs pods."""
    one, two = lab.workers
    lab.apply(_deployment("moving", 2))
    lab.do("rollout", "status", "deployment/moving", "--timeout=120s")
    wait_until("a pod is on the machine that will lose power", lambda: _nodes_of(lab, "moving").get(one.name), 60)
    one.pull_the_plug()
    seen = wait_until(f"{one.name} is not ready", lambda: not lab.is_ready(one.name), 120)
    moved = seen + wait_until(
        "all pods run on the other machine", lambda: _nodes_of(lab, "moving").get(two.name) == 2, 120
    )
    one.start()
    one.wait()
    back = wait_until(f"{one.name} is ready again", lambda: lab.is_ready(one.name), 240)
    wait_until("the old pods are gone", lambda: len(_pods(lab, "moving")) == 2, 120)
    lab.run_pods(lab.pod("after", one.name))
    lab.delete("deployment/moving", "pod/after")
    return f"not ready after {seen:.0f} s, all pods moved after {moved:.0f} s, ready {back:.0f} s after its boot"


@check()
def a_cut_cable_heals(lab: Lab) -> str:
    """A machine whose cable is out is replaced; plugged in again, it ends what it should no longer run."""
    one, two = lab.workers
    lab.apply(_deployment("cut", 2))
    lab.do("rollout", "status", "deployment/cut", "--timeout=120s")
    wait_until("a pod is on the machine whose cable is cut", lambda: _nodes_of(lab, "cut").get(one.name), 60)
    one.cable(False)
    seen = wait_until(f"{one.name} is not ready", lambda: not lab.is_ready(one.name), 120)
    wait_until("all pods run on the other machine", lambda: _nodes_of(lab, "cut").get(two.name) == 2, 120)
    one.cable(True)
    healed = wait_until(f"{one.name} is ready again", lambda: lab.is_ready(one.name), 120)
    wait_until("the old pod is gone", lambda: len(_pods(lab, "cut")) == 2, 120)
    wait_until("its container has ended", lambda: _marked(one, "lab-cut") == _nodes_of(lab, "cut").get(one.name, 0), 60)
    lab.delete("deployment/cut")
    return f"not ready after {seen:.0f} s, ready {healed:.0f} s after the cable was in again"


@check()
def a_reboot_of_the_control_plane_leaves_containers_alone(lab: Lab) -> str:
    """The control plane's machine reboots: containers run on, and the cluster is as it was."""
    before = lab.run_pods(lab.pod("steady", lab.workers[0].name))[0]["status"]["containerStatuses"][0]
    lab.servers[0].reboot()
    back = wait_until("the API answers", lambda: lab.kubectl("get", "--raw", "/readyz", seconds=30).code == 0, 300)
    lab.wait_ready(*(worker.name for worker in lab.workers))
    after = lab.get("pod", "steady")["status"]["containerStatuses"][0]
    assert (after["containerID"], after["restartCount"]) == (before["containerID"], 0), after
    lab.run_pods(lab.pod("later", lab.workers[1].name))
    lab.delete("pod/steady", "pod/later")
    return f"the API answered {back:.0f} s after the machine did"


@check(short=False, control_planes=3)
def any_of_three_control_planes_may_die(lab: Lab) -> str:
    """With three control planes, losing one loses nothing, and one leads at a time."""
    first, second, third = lab.servers
    lab.do("create", "configmap", "kept", "--from-literal=a=b")
    holder = _leader(lab)
    assert holder, "nobody leads"
    second.pull_the_plug()
    lost = wait_until("the API takes writes", lambda: _writes(lab), 120)
    assert lab.get("configmap", "kept")["data"] == {"a": "b"}
    lab.run_pods(lab.pod("meanwhile", lab.workers[0].name))
    lab.wait_ready(lab.workers[0].name)
    second.start()
    second.wait()
    lab.wait_for_api(second)
    third.cable(False)
    wait_until("the API takes writes without the third", lambda: _writes(lab), 120)
    third.cable(True)
    lab.wait_for_api(third)
    first.pull_the_plug()
    lab.write_kubeconfig(second)
    took = wait_until("another server answers", lambda: _writes(lab), 180)
    lab.wait_ready(lab.workers[0].name)
    lab.run_pods(lab.pod("after", lab.workers[0].name))
    first.start()
    first.wait()
    lab.wait_for_api(first)
    lab.write_kubeconfig(first)
    lab.delete("pod/meanwhile", "pod/after", "configmap/kept")
    return f"writes after {lost:.0f} s without the second, {took:.0f} s without the first"


TESTED = (
    ("integration/runtime", "the container runtime"),
    ("e2e/test_pods.py", "what pods ask for"),
    ("e2e/test_pod_life.py", "hooks, sidecars, debugging, resizes and static pods"),
    ("e2e/test_pod_configuration.py", "environment, names and namespaces of the node"),
    ("e2e/test_security.py", "users of their own, sysctls and other runtimes"),
    ("e2e/test_storage.py", "claims and volumes"),
    ("e2e/test_resources.py", "processors of their own, eviction, logs and metrics"),
    ("e2e/test_terminal.py", "terminals"),
    ("e2e/test_forwarding.py", "port forwarding"),
    ("e2e/test_network.py", "services, affinity, policies and rollouts under load"),
    ("e2e/test_services_api.py", "services as clients change them"),
    ("e2e/test_dns.py", "names"),
    ("e2e/test_dual_stack.py", "IPv6 and both families"),
    ("e2e/test_self_healing.py", "containers, agents and nodes that die"),
    ("e2e/test_faults.py", "components killed in the middle of work"),
    ("e2e/test_a_machine_is_left_as_it_was.py", "that nothing is left"),
)
"""The repository's tests that are run on a machine with cgroup v2, a file a check."""


def _tested(path: str, what: str) -> Check:
    name = "on cgroup v2: " + path.partition("/")[2].removesuffix(".py").removeprefix("test_").replace("_", " ")
    return Check(
        name, f"The repository's tests of {what}.", lambda lab: passes(lab.testers[0], f"tests/{path}"), False, 0
    )


ALL.extend(_tested(path, what) for path, what in TESTED)


def _all_have_link(lab: Lab, kind: str) -> bool:
    return all(worker.ask(f"ip -d link show type {kind}").out.strip() for worker in lab.workers)


def _leader(lab: Lab) -> str:
    done = lab.kubectl(
        "get", "lease", "-n", "kube-system", "kube-controller-manager", "-o", "jsonpath={.spec.holderIdentity}"
    )
    return done.out if done.code == 0 else ""


def _writes(lab: Lab) -> bool:
    text = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "written"}})
    done = lab.kubectl("apply", "-f", "-", text=text, seconds=30)
    return done.code == 0 and lab.kubectl("delete", "configmap", "written", seconds=30).code == 0


def _phase(lab: Lab, pod: str) -> str:
    return str(lab.get("pod", pod)["status"].get("phase"))


def _reads(lab: Lab, pod: str, url: str, expected: str) -> bool:
    # Not with busybox: Debian 12's static one ends with a segmentation fault when it looks up an address.
    script = f"import urllib.request as u; print(u.urlopen('{url}', timeout=10).read().decode())"
    done = lab.inside(pod, f'python3 -c "{script}"')
    return done.code == 0 and expected in done.out


def _deployment(name: str, replicas: int) -> dict[str, Any]:
    tolerations = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2}
        for key in ("not-ready", "unreachable")
    ]
    container = {"name": "main", "image": "pyk.local/host", "command": ["sh", "-c", f"exec sleep 1000000 # lab-{name}"]}
    container["command"] = ["sh", "-c", f"while :; do sleep 1; done # lab-{name}"]
    labels = {"app": name}
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    spec = {
        "containers": [container],
        "tolerations": tolerations,
        "terminationGracePeriodSeconds": 1,
        "topologySpreadConstraints": [{**spread, "labelSelector": {"matchLabels": labels}}],
    }
    template = {"metadata": {"labels": labels}, "spec": spec}
    body = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": body}


def _pods(lab: Lab, app: str) -> list[dict[str, Any]]:
    done = lab.kubectl("get", "pods", "-l", f"app={app}", "-o", "json")
    return list(json.loads(done.out)["items"]) if done.code == 0 else []


def _nodes_of(lab: Lab, app: str) -> dict[str, int]:
    """How many ready pods of an app each node has that are to stay."""
    found: dict[str, int] = {}
    for pod in _pods(lab, app):
        conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", ())}
        if "deletionTimestamp" not in pod["metadata"] and conditions.get("Ready") == "True":
            node = pod["spec"]["nodeName"]
            found[node] = found.get(node, 0) + 1
    return found


def _marked(machine: Machine, mark: str) -> int:
    """How many of a machine's processes have a word in their command line, the one that looks left out."""
    pattern = f"{mark[:-1]}[{mark[-1]}]"
    return int(machine.ask(f"grep -lz -e '{pattern}' /proc/[0-9]*/cmdline 2>/dev/null | wc -l").out or 0)
