"""The command itself: what it refuses, in one line, and the small decisions of its commands."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyk.cli.cluster import own_options
from pyk.cli.drain import pods_to_move
from pyk.cli.exec import exit_status, read_when_ready
from pyk.cli.logs import seconds_of
from pyk.cli.main import COMMANDS, main
from pyk.cli.progress import progress_of
from pyk.cli.rollouts import daemon_set_status, deployment_status, stateful_set_status
from pyk.cli.session import parse_wanted
from pyk.client.config import load_kubeconfig
from pyk.errors import UserError
from pyk.lab.layout import Options


def words_of(text: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.kind.plural, one.names) for one in parse_wanted(text)]


def test_kinds_and_names_are_understood_as_kubectl_does() -> None:
    assert words_of(["po"]) == [("pods", ())]
    assert words_of(["pods,deploy"]) == [("pods", ()), ("deployments", ())]
    assert words_of(["Deployment", "a", "b"]) == [("deployments", ("a", "b"))]
    assert words_of(["pod/a", "rs/b"]) == [("pods", ("a",)), ("replicasets", ("b",))]
    assert words_of(["deployments.apps"]) == [("deployments", ())]
    assert {kind for kind, _ in words_of(["all"])} >= {"pods", "deployments", "replicasets"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["get", "widgets"], "doesn't have a resource type 'widgets'"),
        (["get", "pod/a", "b"], "is not KIND/NAME"),
        (["get", "pods", "-o", "xml"], "-o 'xml' is unknown"),
        (["fly"], "invalid choice: 'fly'"),
        (["scale", "cm/a", "--replicas=1"], "cannot be scaled"),
        (["scale", "deploy/a", "--replicas=-1"], "must be 0 or more"),
        (["logs"], "name a pod"),
        (["exec", "a"], "name the command"),
        (["exec", "a", "ls"], "behind '--'"),
        (["get", "pods", "--", "a"], "nothing goes behind '--'"),
        (["get", "pods", "--kubeconfig", "/nonexistent"], "cannot read the kubeconfig"),
        (["delete", "pods"], "name the object"),
        (["up", "--timeout", "soon"], "'soon' is no duration"),
        (["up", "--timeout", "0s"], "--timeout must be longer than nothing"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_status_1(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1


def test_a_cluster_that_is_not_there_says_how_to_start_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["get", "pods"]) == 1
    assert "pyk up" in capsys.readouterr().err


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "usage: pyk " + command in capsys.readouterr().out


def test_getting_pods_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pyk.cli.main import build_parser; build_parser(['get']); import pyk.client.blocking; "
        "print([m for m in ('aiohttp', 'pydantic', 'numpy', 'rich', 'cryptography') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_durations() -> None:
    assert [seconds_of(text) for text in ("90", "90s", "5m", "1h30m")] == [90, 90, 300, 5400]
    with pytest.raises(UserError, match="no duration"):
        seconds_of("soon")


def test_the_exit_status_of_exec_is_the_commands() -> None:
    failure = {"status": "Failure", "reason": "NonZeroExitCode"}
    failure["details"] = {"causes": [{"reason": "ExitCode", "message": "42"}]}
    assert exit_status(b'{"status":"Success"}') == 0
    assert exit_status(json.dumps(failure).encode()) == 42
    with pytest.raises(UserError, match="no such container"):
        exit_status(b'{"status":"Failure","message":"no such container"}')


def deployment(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3}, "status": status}


@pytest.mark.parametrize(
    ("status", "says", "done"),
    [
        ({"observedGeneration": 1}, "spec update to be observed", False),
        ({"observedGeneration": 2, "updatedReplicas": 1}, "1 out of 3 new replicas have been updated", False),
        ({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4}, "1 old replicas are pending", False),
        (
            {"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2},
            "2 of 3 updated replicas are available",
            False,
        ),
        (
            {"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3},
            "successfully rolled out",
            True,
        ),
    ],
)
def test_rollout_status_says_what_kubectl_says(status: dict[str, Any], says: str, done: bool) -> None:
    text, complete = deployment_status(deployment(**status))
    assert says in text
    assert complete is done


def test_a_failed_rollout_is_an_error() -> None:
    conditions = [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]
    with pytest.raises(UserError, match="exceeded its progress deadline"):
        deployment_status(deployment(observedGeneration=2, conditions=conditions))


ROLLING: dict[str, Any] = {
    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}},
    "replicas": 3,
}


@pytest.mark.parametrize(
    ("tell", "status", "says", "done"),
    [
        (stateful_set_status, {}, "statefulset spec update to be observed", False),
        (stateful_set_status, {"observedGeneration": 2, "readyReplicas": 1}, "Waiting for 2 pods to be ready", False),
        (
            stateful_set_status,
            {"observedGeneration": 2, "readyReplicas": 3, "updatedReplicas": 1},
            "partitioned roll out to finish: 1 out of 2 new pods",
            False,
        ),
        (
            stateful_set_status,
            {"observedGeneration": 2, "readyReplicas": 3, "updatedReplicas": 2},
            "partitioned roll out complete: 2 new pods",
            True,
        ),
        (
            daemon_set_status,
            {"observedGeneration": 2, "desiredNumberScheduled": 2, "updatedNumberScheduled": 1},
            "1 out of 2 new pods have been updated",
            False,
        ),
        (
            daemon_set_status,
            {
                "observedGeneration": 2,
                "desiredNumberScheduled": 2,
                "updatedNumberScheduled": 2,
                "numberAvailable": 2,
            },
            'daemon set "web" successfully rolled out',
            True,
        ),
    ],
)
def test_rollouts_of_sets_are_told_as_kubectl_tells_them(tell: Any, status: Any, says: str, done: bool) -> None:
    text, complete = tell({"metadata": {"name": "web", "generation": 2}, "spec": ROLLING, "status": status})
    assert says in text
    assert complete is done


@pytest.mark.parametrize(
    ("kind", "spec", "status", "expected"),
    [
        ("Job", {"parallelism": 3, "completions": 2}, {"ready": 1, "succeeded": 1}, (2, 2)),
        ("Job", {"parallelism": 3, "suspend": True}, {}, (0, 0)),
        ("DaemonSet", {}, {"desiredNumberScheduled": 3, "numberAvailable": 3, "updatedNumberScheduled": 2}, (2, 3)),
        ("StatefulSet", {"replicas": 2}, {"availableReplicas": 2, "updatedReplicas": 1}, (1, 2)),
        ("ReplicationController", {"replicas": 2}, {"availableReplicas": 2}, (2, 2)),
    ],
)
def test_progress_counts_what_each_kind_wants(kind: str, spec: Any, status: Any, expected: tuple[int, int]) -> None:
    assert progress_of({"kind": kind, "metadata": {"name": "x"}, "spec": spec, "status": status}) == expected


def test_a_drain_moves_what_can_come_back_and_refuses_what_cannot() -> None:
    options = argparse.Namespace(ignore_daemonsets=False, delete_emptydir_data=False, force=False)

    def pod(name: str, owner: str = "", **spec: Any) -> dict[str, Any]:
        owners = [{"kind": owner, "name": "o", "uid": "u", "controller": True}] if owner else []
        return {"metadata": {"name": name, "namespace": "d", "ownerReferences": owners}, "spec": spec, "status": {}}

    pods = [
        pod("kept", "ReplicaSet"),
        pod("alone"),
        pod("each", "DaemonSet"),
        pod("data", "ReplicaSet", volumes=[{"name": "v", "emptyDir": {}}]),
    ]
    _, refusals = pods_to_move(pods, options)
    assert [text.split(" ")[0] for text in refusals] == ["nothing", "d/each", "d/data"]
    options = argparse.Namespace(ignore_daemonsets=True, delete_emptydir_data=True, force=True)
    leaving, refusals = pods_to_move(pods, options)
    assert [one["metadata"]["name"] for one in leaving] == ["kept", "alone", "data"]
    assert refusals == []


def test_options_of_exec_stand_before_or_behind_the_pod_and_those_of_the_command_are_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[argparse.Namespace] = []
    monkeypatch.setattr("pyk.cli.exec.run", lambda arguments: seen.append(arguments) or 0)
    for words in (["-n", "x", "-it", "web"], ["web", "-it", "-n", "x"]):
        assert main(["exec", *words, "--", "ls", "-n", "--", "y"]) == 0
    for arguments in seen:
        assert (arguments.pod, arguments.namespace, arguments.tty) == ("web", "x", True)
        assert list(arguments.behind) == ["ls", "-n", "--", "y"]


def test_what_to_try_names_the_cluster_that_was_started() -> None:
    def down(**options: Any) -> str:
        return own_options(Options(**options))

    assert down(data_dir="/var/lib/pyk") == ""
    assert down(name="b", data_dir="/var/lib/pyk-b") == " --name b"
    assert down(name="b", data_dir="/tmp/a b") == " --data-dir '/tmp/a b'"


def test_a_kubeconfig_that_may_not_be_read_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(path: Path, **_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot read the kubeconfig .*: Permission denied"):
        load_kubeconfig()


async def test_input_is_read_only_when_there_is_some() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)  # a read too early is an error here, and a hang on a terminal
    try:
        for word in (b"one", b"two"):
            reading = asyncio.create_task(read_when_ready(reader))
            await asyncio.sleep(0)
            os.write(writer, word)
            assert await reading == word
        reading = asyncio.create_task(read_when_ready(reader))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not reading.done()
        os.close(writer)
        assert await reading == b""
    finally:
        os.close(reader)
