"""A control plane's backup, taken while it runs, restored under nodes that run on; and what is not restored."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator

import pytest

from tests.e2e.harness import BIN, deployment_document, wait_for
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
def machines() -> Iterator[Machines]:
    made = Machines()
    yield made
    made.close()


def refused(machine: Machine, *command: str) -> str:
    """The one line with which a `pyk` command fails."""
    done = machine.run(BIN / "pyk", *command, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stdout + done.stderr
    return done.stderr


@pytest.mark.parametrize("store", STORES)
def test_a_cluster_goes_on_from_its_backup(machines: Machines, store: str) -> None:
    control, worker = machines.add("control"), machines.add("worker-1")
    control.server("--store", store)
    worker.agent("--server", control.url, "--token", control.token())
    wait_for("the node is ready", lambda: control.is_ready(worker.name))
    (control.folder / "web.json").write_text(json.dumps(deployment_document("web", 2)))
    control.kubectl("apply", "-f", str(control.folder / "web.json"))
    control.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    control.kubectl("create", "configmap", "kept", "--from-literal=a=1")
    data, file = str(control.folder / "server"), str(control.folder / "backup.tar.gz")
    taken = control.run(BIN / "pyk", "backup", file, "--data-dir", data).stdout
    assert f"{store} at revision" in taken
    assert (control.folder / "backup.tar.gz").stat().st_mode & 0o777 == 0o600
    names = "jsonpath={.items[*].metadata.uid}"
    uids = sorted(control.kubectl("get", "pods", "-o", names).split())
    control.kubectl("create", "configmap", "lost", "--from-literal=a=1")
    version = "jsonpath={.metadata.resourceVersion}"
    newest = int(control.kubectl("get", "configmap", "lost", "-o", version))
    options = control.server_options()
    assert "another pyk server runs on" in refused(control, "restore", file, *options, "--force")

    control.stop("server", signal.SIGTERM)
    assert "--force puts it aside" in refused(control, "restore", file, *options)
    restored = control.run(BIN / "pyk", "restore", file, *options, "--force").stdout
    assert "before-restore" in restored
    control.server()
    found = control.kubectl("get", "configmaps", "-o", "name")
    assert "configmap/kept" in found
    assert "configmap/lost" not in found
    assert int(control.kubectl("get", "configmap", "kept", "-o", version)) > newest
    wait_for("the node is ready", lambda: control.is_ready(worker.name))
    control.kubectl("scale", "deployment/web", "--replicas=3")
    control.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    after = control.kubectl("get", "pods", "-o", names).split()
    assert set(uids) < set(after), "the pods run on, and the agent has noticed the new one"
    assert worker.processes["agent"].poll() is None

    if store == "etcd":
        return
    other = machines.add("other")
    other.server()
    other.stop("server")
    told = refused(other, "restore", file, *other.server_options(), "--force")
    assert "has another cluster" in told
    (control.folder / "cut.tar.gz").write_bytes((control.folder / "backup.tar.gz").read_bytes()[:-400])
    told = refused(machines.add("empty"), "restore", str(control.folder / "cut.tar.gz"), "--data-dir", data + "-new")
    assert "is no backup of pyk, or cut" in told
