"""The same cluster with its state in etcd: one of its own, or one that runs already."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Cluster, deployment_document, is_ready, make_cluster, wait_for
from tests.e2e.machine import component_pid

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(shutil.which("etcd") is None, reason="the etcd binary is missing: apt-get install etcd-server"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: etcd and the cluster both put files there."""
    made = Path(tempfile.mkdtemp(prefix="pyk-e2e-etcd-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def small(folder: Path) -> Iterator[Cluster]:
    """A cluster that the test starts; it is taken down in any case."""
    made = make_cluster(folder)
    yield made
    made.down(check=False)


@pytest.fixture
def running_etcd(folder: Path) -> Iterator[str]:
    """The HOST:PORT of an etcd that is not the cluster's own."""
    with socket.socket() as client, socket.socket() as peer:
        client.bind(("127.0.0.1", 0))
        peer.bind(("127.0.0.1", 0))
        endpoint, peers = (f"127.0.0.1:{one.getsockname()[1]}" for one in (client, peer))
    process = subprocess.Popen(
        [
            *("etcd", "--data-dir", str(folder / "etcd"), "--logger", "zap"),
            *("--listen-client-urls", f"http://{endpoint}", "--advertise-client-urls", f"http://{endpoint}"),
            *("--listen-peer-urls", f"http://{peers}", "--initial-advertise-peer-urls", f"http://{peers}"),
            *("--initial-cluster", f"default=http://{peers}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield endpoint
    process.kill()
    process.wait()


def all_ready(cluster: Cluster, count: int) -> bool:
    pods = cluster.get("pods")["items"]
    return len(pods) == count and all(is_ready(pod) for pod in pods)


def test_a_rollout_goes_on_when_its_etcd_is_killed(small: Cluster) -> None:
    small.up("--nodes", "1", "--store", "etcd")
    small.apply(deployment_document("web", 2), "default")
    wait_for("2 pods ready", lambda: all_ready(small, 2))
    before = {pod["metadata"]["uid"] for pod in small.get("pods")["items"]}
    os.kill(component_pid(small, "etcd"), signal.SIGKILL)
    wait_for("the update is taken", lambda: small.kubectl("scale", "deploy/web", "--replicas=3", check=False).stdout)
    wait_for("3 pods ready", lambda: all_ready(small, 3))
    assert before < {pod["metadata"]["uid"] for pod in small.get("pods")["items"]}


def test_a_cluster_keeps_its_state_in_an_etcd_that_runs_already(small: Cluster, running_etcd: str) -> None:
    small.up("--nodes", "1", "--etcd-endpoints", running_etcd)
    small.kubectl("create", "configmap", "kept", "--from-literal=a=1")
    everything = {"key": "AA==", "range_end": "AA==", "keys_only": True}  # from the key \0 to the last
    request = urllib.request.Request(f"http://{running_etcd}/v3/kv/range", json.dumps(everything).encode())
    with urllib.request.urlopen(request) as answer:
        keys = [base64.b64decode(entry["key"]).decode() for entry in json.load(answer)["kvs"]]
    assert any(key.endswith("configmaps/default/kept") for key in keys), keys
