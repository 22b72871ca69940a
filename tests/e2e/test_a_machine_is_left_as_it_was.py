"""What `pyk up` made is gone after `pyk down`: the whole machine is compared, before and after.

It runs first, before the cluster that the other tests share comes up and changes the machine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.e2e.harness import Cluster, deployment_document, make_cluster

_EXPIRES = re.compile(r" expires \d+sec")
"""How long a route that a router announced is still valid: it counts down by itself."""


def snapshot(folder: Path) -> dict[str, set[str]]:
    """All mounts, control groups, network namespaces, links, routes and packet filter rules, and our processes."""
    mounts = {line.split(" ", 3)[3] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    hierarchies = Path("/sys/fs/cgroup")  # the one of v2 itself, or a folder for each of v1
    groups = {str(path) for root in (hierarchies, *hierarchies.iterdir()) for path in root.glob("pyk*")}
    names = Path("/run/netns")
    return {
        "mounts": mounts,
        "cgroups": groups,
        "network namespaces": {path.name for path in names.iterdir()} if names.is_dir() else set(),
        "links": {path.name for path in Path("/sys/class/net").iterdir()},
        "routes": {_EXPIRES.sub("", route) for route in output("ip", "route", "show", "table", "all")},
        "rules": set(output("nft", "list", "ruleset")),
        "processes": {line for line in output("ps", "-ewwo", "args") if str(folder) in line},
        "files": {str(path) for path in folder.rglob("*")},
    }


def output(*command: str) -> list[str]:
    found = shutil.which(command[0]) or f"/usr/sbin/{command[0]}"
    return subprocess.run([found, *command[1:]], capture_output=True, text=True, check=True).stdout.splitlines()


def use(cluster: Cluster) -> None:
    """Run pods with a Secret, a volume in memory, and one that ignores its end."""
    cluster.kubectl("create", "secret", "generic", "s", "--from-literal=k=v")
    document = deployment_document("used", 4, "trap '' TERM; while :; do sleep 1; done")
    spec = document["spec"]["template"]["spec"]
    spec["volumes"] = [
        {"name": "s", "secret": {"secretName": "s"}},
        {"name": "m", "emptyDir": {"medium": "Memory"}},
    ]
    spec["containers"][0]["volumeMounts"] = [{"name": "s", "mountPath": "/s"}, {"name": "m", "mountPath": "/m"}]
    cluster.apply(document, "default")
    cluster.kubectl("rollout", "status", "deployment/used", "--timeout=60s")


def test_up_and_down_leave_no_trace(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path)
    before = snapshot(tmp_path)
    try:
        cluster.up("--nodes", "2")
        use(cluster)
        running = snapshot(tmp_path)
    finally:
        cluster.down()
    after = snapshot(tmp_path)
    for kind in ("mounts", "cgroups", "network namespaces", "links", "routes", "processes", "files"):
        assert running[kind] > before[kind], f"the comparison sees no {kind} while the cluster runs"
    assert after == before
    cluster.down()
