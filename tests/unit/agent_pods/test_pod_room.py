"""Which pods count against the node's room: those that may still run something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.pods.admission import admit_ports
from agent.pods.observed import CONTAINER_NAME
from agent.pods.record import PodRecord
from agent.runtime.contract import ContainerState, Phase


def record(*phases: Phase, deleting: bool = False, policy: str = "Always", gone: bool = False) -> PodRecord:
    metadata: dict[str, Any] = {"name": "p", "namespace": "d", "uid": "u"}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    pod = {"metadata": metadata, "spec": {"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}}
    found = PodRecord("u", pod, 0.0, gone=gone)
    for name, phase in zip("ab", phases, strict=False):
        labels = {CONTAINER_NAME: name}
        found.states[name] = ContainerState(name, "u", phase, 1, 0, 0, 0, None, 0, False, Path("/dev/null"), labels)
    return found


@pytest.mark.parametrize(
    ("seen", "takes_room"),
    [
        (record(), True),
        (record(Phase.RUNNING), True),
        (record(Phase.EXITED, Phase.EXITED), True),
        (record(Phase.EXITED, Phase.EXITED, policy="Never"), False),
        (record(Phase.EXITED, policy="Never"), True),
        (record(Phase.EXITED, Phase.RUNNING, policy="Never"), True),
        (record(Phase.EXITED, Phase.RUNNING, deleting=True), True),
        (record(Phase.EXITED, Phase.EXITED, deleting=True), False),
        (record(deleting=True), False),
        (record(Phase.RUNNING, gone=True), False),
    ],
)
def test_a_pod_takes_room_while_it_may_run_something(seen: PodRecord, takes_room: bool) -> None:
    assert seen.takes_room is takes_room


def with_ports(*ports: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "ports": list(ports)}]}}


@pytest.mark.parametrize(
    ("wanted", "taken", "is_taken"),
    [
        ({"hostPort": 80}, {"hostPort": 80}, True),
        ({"hostPort": 80, "hostIP": "192.0.2.1"}, {"hostPort": 80, "hostIP": "0.0.0.0"}, True),
        ({"hostPort": 80, "hostIP": "192.0.2.1"}, {"hostPort": 80, "hostIP": "192.0.2.2"}, False),
        ({"hostPort": 80}, {"hostPort": 80, "protocol": "UDP"}, False),
        ({"hostPort": 80}, {"hostPort": 81}, False),
        ({"containerPort": 80}, {"containerPort": 80}, False),
    ],
)
def test_a_pod_is_rejected_whose_host_port_is_taken(wanted: Any, taken: Any, is_taken: bool) -> None:
    rejection = admit_ports(with_ports(wanted), [with_ports(taken)])
    assert (rejection is not None and rejection.reason == "NodePorts") is is_taken
