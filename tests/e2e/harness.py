"""What the end-to-end tests share: clusters of their own, the commands to talk to them, and documents of pods.

All limits are stretched on a machine that is slow (`tests/patience.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.patience import patient, patient_word
from tests.ports import free_port

BIN = Path(sys.executable).parent
KUBECTL = BIN / "kubectl"
IMAGE = "pyk.local/host"
PATIENCE_SECONDS = 60
READY_SECONDS = 60


def wait_for(what: str, check: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> Any:
    """What `check` returns as soon as that is true; fails the test with `what` when it never is."""
    deadline = time.monotonic() + patient(seconds)
    last: Any = None
    while time.monotonic() < deadline:
        last = check()
        if last:
            return last
        time.sleep(0.1)
    pytest.fail(f"after {patient(seconds):.0f} s still not so: {what} (last: {last!r})")


@dataclass
class Cluster:
    """A running cluster, and the commands to talk to it."""

    name: str
    data_dir: Path
    kubeconfig: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def run(
        self, *command: str | Path, check: bool = True, stdin: str | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command with the cluster's kubeconfig."""
        result = subprocess.run(
            [str(word) for word in command],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=patient(timeout),
            check=False,
        )
        if check and result.returncode != 0:
            pytest.fail(f"{' '.join(map(str, command))}: exit {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result

    def pyk(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run(BIN / "pyk", *words, **options)

    def kubectl(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run kubectl; a `--timeout=SECONDSs` among the words is stretched as all limits are."""
        return self.run(KUBECTL, *map(patient_word, words), **options)

    def get(self, *words: str) -> Any:
        """An object or list as its document."""
        return json.loads(self.kubectl("get", *words, "-o", "json").stdout)

    def apply(self, document: Any, namespace: str) -> None:
        """Apply an object or a list of them through kubectl."""
        documents = document if isinstance(document, list) else [document]
        body = {"apiVersion": "v1", "kind": "List", "items": documents}
        self.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(body))

    def up(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        limit = f"--timeout={patient(READY_SECONDS):.0f}s"
        return self.pyk("up", "--detach", limit, *self.own_options(), *options, check=check)

    def own_options(self) -> list[str]:
        return [
            *("--name", self.name, "--data-dir", str(self.data_dir)),
            *("--kubeconfig", str(self.kubeconfig), "--port", str(self.port)),
        ]

    def down(self, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.pyk(
            "down",
            *("--name", self.name, "--data-dir", str(self.data_dir), "--kubeconfig", str(self.kubeconfig)),
            check=check,
        )

    def node(self, action: str, node: str) -> None:
        self.pyk("node", action, node, "--data-dir", str(self.data_dir))

    def pod(self, namespace: str, name: str) -> Any:
        return self.get("pod", name, "-n", namespace)

    def wait_pod(self, namespace: str, name: str, check: Callable[[Any], Any], what: str, seconds: float = 60) -> Any:
        """The pod, as soon as `check(pod)` holds."""

        def checked() -> Any:
            pod = self.pod(namespace, name)
            return pod if check(pod) else None

        return wait_for(f"pod {name} {what}", checked, seconds=seconds)

    def wait_ready(self, namespace: str, name: str, seconds: float = 60) -> Any:
        return self.wait_pod(namespace, name, is_ready, "is ready", seconds)


def is_ready(pod: Any) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def container_status(pod: Any, index: int = 0) -> Any:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return statuses[index] if len(statuses) > index else {}


def pod_document(name: str, *command: str, **spec: Any) -> dict[str, Any]:
    """A pod with one container of the host's image that runs a shell command, and ends in no time when told to."""
    container = {"name": "main", "image": IMAGE, "command": ["sh", "-c", *(command or ("exec sleep 100000",))]}
    container |= spec.pop("container", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec},
    }


def deployment_document(name: str, replicas: int, *command: str, **spec: Any) -> dict[str, Any]:
    """A Deployment of such pods."""
    pod = pod_document(name, *command)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod["spec"]},
            **spec,
        },
    }


def make_cluster(folder: Path) -> Cluster:
    name = f"t{os.getpid() % 10000}{uuid.uuid4().hex[:3]}"
    return Cluster(name, folder / "data", folder / "kubeconfig", free_port(4))
