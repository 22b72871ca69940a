"""The disk of a control plane runs full: one clear line to whoever writes, and it goes on when there is room again."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.harness import KUBECTL, wait_for
from tests.e2e.machines import Machine, Machines

STORES = [
    "sqlite",
    pytest.param(
        "etcd",
        marks=[
            pytest.mark.etcd,
            pytest.mark.skipif(shutil.which("etcd") is None, reason="there is no etcd: apt-get install etcd-server"),
        ],
    ),
]


@pytest.fixture
def control(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A control plane whose data is on a small disk of its own."""
    machines = Machines()
    machine = machines.add("control")
    disk = machine.folder / "server"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", disk], check=True)
    yield machine
    machines.close()  # the mount goes with the machine


def create(control: Machine, name: str) -> subprocess.CompletedProcess[str]:
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "x" * 200_000}}
    (control.folder / "one.json").write_text(json.dumps(document))
    words = (KUBECTL, "--kubeconfig", control.kubeconfig, "create", "-f", control.folder / "one.json")
    return control.run(*words, "--request-timeout=15s", check=False)


@pytest.mark.parametrize("store", STORES)
def test_a_full_disk_is_told_and_lived_through(control: Machine, store: str) -> None:
    control.server("--store", store)
    acknowledged = []
    filler = control.folder / "server" / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=64k"], check=False, capture_output=True)
    assert shutil.disk_usage(filler.parent).free == 0
    failure = ""
    for number in range(60):
        done = create(control, f"full-{number}")
        if done.returncode != 0:
            failure = done.stderr
            break
        acknowledged.append(f"configmap/full-{number}")
    assert failure, "it was never full"
    if store == "sqlite":
        assert "is full, nothing can be written: make room" in failure
    wait_for("the log tells why", lambda: "is full" in control.log("server"))
    filler.unlink()
    wait_for("it goes on by itself", lambda: create(control, "after").returncode == 0)
    found = control.kubectl("get", "configmaps", "-o", "name").split()
    assert {*acknowledged, "configmap/after"} <= set(found)
