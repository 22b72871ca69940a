"""A cluster of several machines: joining with a token, what is told to who may not, restarts, and leaving."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyk import csr
from pyk.pki import RequestSigner
from pyk.reconcile.clock import RealClock
from tests.e2e.harness import BIN, deployment_document, wait_for
from tests.e2e.machines import Machine, Machines

READY = Path(__file__).parents[2] / "vagrant" / "ready.sh"
AS_ANOTHER = "import sys; {change}; from pyk.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    made = Machines()
    yield made
    made.close()


@pytest.fixture(scope="module")
def control(machines: Machines) -> Machine:
    """The control plane."""
    made = machines.add("control")
    made.server("--tls-san", "control.example")
    return made


@pytest.fixture(scope="module")
def worker(machines: Machines, control: Machine) -> Machine:
    """A node with a pod on it."""
    made = machines.add("worker-1")
    made.agent("--server", control.url, "--token", control.token())
    wait_for("the node is ready", lambda: control.is_ready(made.name))
    control.kubectl("run", "web", "--image=pyk.local/host", "--command", "--", "sh", "-c", "echo here; sleep 100000")
    control.kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
    return made


@pytest.fixture(scope="module")
def stranger(machines: Machines) -> Machine:
    """A machine that does not get in."""
    return machines.add("stranger")


def refusal(machine: Machine, *options: str, change: str = "") -> str:
    """The one line with which `pyk agent` ends; `change` is Python that makes it another agent."""
    command = [BIN / "pyk"] if not change else [sys.executable, "-c", AS_ANOTHER.format(change=change)]
    done = machine.run(*command, "agent", *machine.agent_options(), *options, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert not (machine.folder / "agent" / "pki" / "kubelet-client-current.pem").exists()
    return lines[0]


def test_a_machine_joins_with_a_token_and_runs_pods(control: Machine, worker: Machine) -> None:
    assert control.kubectl("exec", "web", "--", "echo", "hello").strip() == "hello"
    assert control.kubectl("logs", "web").strip() == "here"
    pki = worker.folder / "agent" / "pki"
    for name in ("kubelet-client-current.pem", "kubelet-server-current.pem"):
        assert (pki / name).stat().st_mode & 0o777 == 0o600
    assert not (pki / "ca.key").exists()
    through_the_balancer = worker.run(
        *(BIN / "kubectl", "--kubeconfig", worker.folder / "agent" / "kubeconfig", "get", "node", worker.name)
    )
    assert worker.name in through_the_balancer.stdout


def test_the_end_of_vagrant_up_waits_for_nodes_and_says_which_are_missing(control: Machine, worker: Machine) -> None:
    environment = ("env", f"PATH={BIN}:{os.environ['PATH']}", f"KUBECONFIG={control.kubeconfig}")
    found = control.run(*environment, "sh", READY, "1").stdout
    assert re.search(rf"^{worker.name} +Ready ", found, re.MULTILINE), found
    missing = control.run(*environment, "sh", READY, "2", "1", check=False)
    assert missing.returncode == 1
    assert missing.stderr.startswith("not all of 2 nodes are ready after 1 s:")
    assert worker.name in missing.stderr


def test_tokens_are_listed_without_their_secrets_and_end_when_deleted(control: Machine, stranger: Machine) -> None:
    made = control.token("--ttl", "90m", "--description", "for a test")
    token_id, secret = re.search(r"::(\w+)\.(\w+)$", made).groups()  # type: ignore[union-attr]
    listed = control.pyk("token", "list").stdout
    assert "for a test" in listed
    assert secret not in listed
    control.pyk("token", "delete", token_id)
    assert f"knows no token {token_id}" in refusal(stranger, "--server", control.url, "--token", made)
    command = control.pyk("token", "create", "--print-join-command").stdout
    assert command.startswith(f"pyk agent --server {control.url} --token K10")


def test_a_wrong_token_is_told_from_a_wrong_cluster(control: Machine, stranger: Machine) -> None:
    token = control.token()
    changed = token[:-1] + ("a" if token[-1] != "a" else "b")
    assert "the secret of the token" in refusal(stranger, "--server", control.url, "--token", changed)
    other = f"K10{'ab' * 32}::{token.split('::')[1]}"
    assert "is not of the cluster that the token is for" in refusal(stranger, "--server", control.url, "--token", other)
    assert "cannot be reached" in refusal(stranger, "--server", "https://10.77.0.200:6443", "--token", token)
    assert "has not joined yet" in refusal(stranger, "--server", control.url)


def test_a_name_that_is_not_in_the_server_s_certificate_is_told_with_the_remedy(
    machines: Machines, control: Machine, stranger: Machine
) -> None:
    """The address is the control plane's, but nobody told it."""
    control.run("ip", "address", "add", "10.77.0.99/24", "dev", "eth0")
    told = refusal(stranger, "--server", "https://10.77.0.99:6443", "--token", control.token())
    assert "--tls-san 10.77.0.99" in told


def test_a_clock_that_is_an_hour_off_is_told(control: Machine, stranger: Machine) -> None:
    change = "import time; from pyk.reconcile.clock import RealClock; RealClock.time = lambda self: time.time() {} 3600"
    arguments = ("--server", control.url, "--token", control.token())
    ahead, behind = (refusal(stranger, *arguments, change=change.format(sign)) for sign in "+-")
    assert re.search(r"clock is (3599|36\d\d) s ahead of the control plane's", ahead), ahead
    assert re.search(r"clock is (35\d\d|360\d) s behind the control plane's", behind), behind


def test_an_agent_that_is_newer_or_far_older_than_its_server_is_told(control: Machine, stranger: Machine) -> None:
    arguments = ("--server", control.url, "--token", control.token())
    change = "import pyk.version; pyk.version.KUBERNETES_VERSION = '{}'"
    newer = refusal(stranger, *arguments, change=change.format("v1.37.0+pyk0.2.0"))
    assert "is newer than its server" in newer
    older = refusal(stranger, *arguments, change=change.format("v1.30.0+pyk0.1.0"))
    assert "older than its server" in older


def test_a_second_machine_of_a_name_does_not_get_in(control: Machine, worker: Machine, stranger: Machine) -> None:
    token = control.token()
    told = refusal(stranger, "--server", control.url, "--token", token, "--node-name", worker.name)
    assert "on another machine" in told
    assert f"pyk node rm {worker.name}" in told
    assert control.is_ready(worker.name)


def container_pid(worker: Machine) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"echo here; sleep" in (entry / "cmdline").read_bytes() and entry.joinpath("cwd").exists():
                    return int(entry.name)
            except OSError:
                continue
    raise AssertionError("the container is gone")


def test_an_agent_is_restarted_under_its_containers(control: Machine, worker: Machine) -> None:
    before = container_pid(worker)
    path = "jsonpath={.status.containerStatuses[0].restartCount}"
    restarts = control.kubectl("get", "pod", "web", "-o", path)
    worker.stop("agent")
    os.kill(before, 0)
    worker.agent("--server", control.url)
    wait_for("exec works again", lambda: control.kubectl("exec", "web", "--", "echo", "x", check=False).strip() == "x")
    assert container_pid(worker) == before
    assert control.kubectl("get", "pod", "web", "-o", path) == restarts


def test_a_second_agent_and_a_second_server_on_one_folder_are_told(control: Machine, worker: Machine) -> None:
    done = worker.run(BIN / "pyk", "agent", *worker.agent_options(), "--server", control.url, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "another pyk agent runs on" in done.stderr
    done = control.run(BIN / "pyk", "server", *control.server_options(), check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "another pyk server runs on" in done.stderr


def test_a_control_plane_is_restarted_under_its_nodes(control: Machine, worker: Machine) -> None:
    before = container_pid(worker)
    control.kubectl("create", "configmap", "kept", "--from-literal=a=1")
    assert control.stop("server") == 0
    control.server()
    document = json.loads(control.kubectl("get", "configmap", "kept", "-o", "json"))
    assert document["data"] == {"a": "1"}
    assert control.log("server").count("to add a machine") == 1, "a token is printed at the first start only"
    wait_for("the node is ready", lambda: control.is_ready(worker.name))
    assert container_pid(worker) == before


def test_a_removed_node_gets_no_answer_until_it_joins_with_a_new_token(
    machines: Machines, control: Machine, worker: Machine
) -> None:
    leaver = machines.add("leaver")
    leaver.agent("--server", control.url, "--token", control.token())
    wait_for("the node is ready", lambda: control.is_ready(leaver.name))
    document = deployment_document("moving", 2)
    (control.folder / "moving.json").write_text(json.dumps(document))
    control.kubectl("cordon", worker.name)
    control.kubectl("apply", "-f", str(control.folder / "moving.json"))
    control.kubectl("rollout", "status", "deployment/moving", "--timeout=60s")
    control.kubectl("uncordon", worker.name)
    told = control.pyk("node", "rm", leaver.name).stdout
    assert "drained" in told
    assert f"node/{leaver.name} removed" in told
    control.kubectl("rollout", "status", "deployment/moving", "--timeout=60s")
    assert control.kubectl("get", "pods", "-l", "app=moving", "-o", "wide").count(worker.name) == 2
    refused = leaver.run(
        *(BIN / "kubectl", "--kubeconfig", leaver.folder / "agent" / "kubeconfig", "get", "--raw", "/api/v1/nodes"),
        check=False,
    )
    assert "Unauthorized" in refused.stderr or "must be logged in" in refused.stderr, refused.stderr
    assert leaver.name not in control.kubectl("get", "nodes,leases,csr", "-A")
    leaver.stop("agent")
    done = leaver.run(BIN / "pyk", "agent", *leaver.agent_options(), "--server", control.url, check=False)
    assert done.returncode == 1
    assert f"node {leaver.name} was removed from the cluster" in done.stderr
    leaver.agent("--server", control.url, "--token", control.token())
    wait_for("the node is ready again", lambda: control.is_ready(leaver.name))
    leaver.stop("agent")


def shown_by(control: Machine) -> str:
    """The certificate that the API server shows."""
    command = f"import ssl; print(ssl.get_server_certificate(('{control.address}', 6443)))"
    return control.run(sys.executable, "-c", command).stdout


def test_a_control_plane_s_certificates_are_renewed_while_it_serves(control: Machine, worker: Machine) -> None:
    data = ("--data-dir", str(control.folder / "server"))
    before, agent = shown_by(control), worker.processes["agent"].pid
    listed = control.run(BIN / "pyk", "cert", "list", *data).stdout
    assert "kube-apiserver " in listed
    control.run(BIN / "pyk", "cert", "renew", *data)
    assert shown_by(control) != before
    assert control.log("server").count("apiserver serving") == control.log("server").count("control plane is up")
    control.kubectl("get", "nodes")
    assert control.kubectl("exec", "web", "--", "echo", "hello").strip() == "hello"
    assert worker.processes["agent"].pid == agent
    listed = worker.run(BIN / "pyk", "cert", "list", "--data-dir", worker.folder / "agent").stdout
    assert f"system:node:{worker.name}" in listed


def test_an_expired_certificate_is_told_and_a_token_makes_the_machine_a_node_again(
    control: Machine, worker: Machine
) -> None:
    worker.stop("agent")
    ca = control.folder / "server" / "pki"
    now = RealClock().time()
    key, request = csr.make_request(worker.name)
    expired = RequestSigner(ca / "ca.crt", ca / "ca.key").sign(request, ["client auth"], now - 7200, now - 3600)
    csr.write(worker.folder / "agent" / "pki" / "kubelet-client-current.pem", expired, key)
    done = worker.run(BIN / "pyk", "agent", *worker.agent_options(), "--server", control.url, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert f"the certificate of node {worker.name} has expired: give --token" in done.stderr
    pid = container_pid(worker)
    worker.agent("--server", control.url, "--token", control.token())
    wait_for("exec works again", lambda: control.kubectl("exec", "web", "--", "echo", "x", check=False).strip() == "x")
    assert container_pid(worker) == pid


def test_a_machine_that_gets_another_address_says_so_and_is_a_node_with_that(
    machines: Machines, control: Machine, worker: Machine
) -> None:
    worker.run("ip", "address", "add", "10.77.0.60/24", "dev", "eth0")
    worker.run("ip", "address", "delete", f"{worker.address}/24", "dev", "eth0")
    worker.run("ip", "address", "replace", "10.77.0.60/24", "dev", "eth0")
    assert worker.processes["agent"].wait(30) == 1
    assert f"does not have the address {worker.address} any more" in worker.log("agent")
    worker.address = "10.77.0.60"
    worker.agent("--server", control.url)  # as systemd does
    path = 'jsonpath={.status.addresses[?(@.type=="InternalIP")].address}'
    wait_for(
        "the node has the new address",
        lambda: control.kubectl("get", "node", worker.name, "-o", path).strip() == worker.address,
    )
    wait_for("exec works again", lambda: control.kubectl("exec", "web", "--", "echo", "x", check=False).strip() == "x")


def test_a_machine_that_is_no_node_any_more_has_a_network_as_before(worker: Machine, stranger: Machine) -> None:
    shown = (
        *(("ip", "-brief", "link"), ("ip", "route"), ("ip", "-6", "route"), ("nft", "list", "tables")),
        *(("ip", "-o", "address", "show", "lo"), ("tc", "filter", "show", "dev", "eth0", "ingress")),
    )

    def network(machine: Machine) -> list[list[str]]:
        words = [[line.split()[0:2] for line in machine.run(*command).stdout.splitlines()] for command in shown]
        return [sorted(word.partition("@")[0] for line in lines for word in line) for lines in words]

    worker.stop("agent")
    before, never = network(worker), network(stranger)
    assert sum(has != had for has, had in zip(before, never, strict=True)) == 5, before  # all but IPv6's routes
    end = (
        "from pyk.cli.install import _end_containers as end; from pyk.machine.options import AgentOptions as Options; "
    )
    end += f"end(Options(data_dir='{worker.folder}/agent', cgroup_root='{worker.cgroup}'))"
    for _ in range(2):  # the second time there is nothing to do
        worker.run(sys.executable, "-c", end)
        assert network(worker) == never
