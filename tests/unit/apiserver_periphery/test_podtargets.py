"""Which container a request means, its log options, why there are no logs, and where a node listens."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.apiserver.channels import codec_of
from controlplane.apiserver.podtargets import container_for, log_parameters, node_address, waiting_message
from pyk.api.status import ApiError

Document = dict[str, Any]


def pod(*containers: str, init: tuple[str, ...] = (), **status: Any) -> Document:
    return {
        "metadata": {"name": "x", "namespace": "default"},
        "spec": {
            "containers": [{"name": name} for name in containers],
            "initContainers": [{"name": name} for name in init],
            "ephemeralContainers": [{"name": "debugger"}],
        },
        "status": status,
    }


@pytest.mark.parametrize(
    ("target", "wanted", "expected"),
    [
        (pod("a"), "", "a"),
        (pod("a", init=("i",)), "", "a"),
        (pod("a", "b"), "b", "b"),
        (pod("a", init=("i",)), "i", "i"),
        (pod("a"), "debugger", "debugger"),
    ],
)
def test_the_container_that_is_meant(target: Document, wanted: str, expected: str) -> None:
    assert container_for(target, wanted) == expected


@pytest.mark.parametrize(
    ("target", "wanted", "words"),
    [
        (pod("a"), "z", "container z is not valid for pod x"),
        (pod("a", "b"), "", "a container name must be specified for pod x, choose one of: [a b]"),
        (
            pod("a", "b", init=("i", "j")),
            "",
            "a container name must be specified for pod x, choose one of: [a b] or one of the init containers: [i j]",
        ),
    ],
)
def test_a_container_must_be_named_when_there_is_a_choice(target: Document, wanted: str, words: str) -> None:
    with pytest.raises(ApiError) as raised:
        container_for(target, wanted)
    assert (raised.value.code, raised.value.message) == (400, words)


def test_log_options_are_passed_on() -> None:
    query = {
        "follow": "true",
        "previous": "false",
        "timestamps": "1",
        "tailLines": "0",
        "sinceTime": "2026-01-01T00:00:00Z",
    }
    assert log_parameters(pod("a"), {**query, "container": "a", "pretty": "true"}) == [
        ("follow", "true"),
        ("timestamps", "true"),
        ("tailLines", "0"),
        ("sinceTime", "2026-01-01T00:00:00Z"),
    ]


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        (
            {"tailLines": "-1"},
            422,
            'PodLogOptions "x" is invalid: tailLines: Invalid value: -1: must be greater than or',
        ),
        ({"limitBytes": "0"}, 422, "limitBytes: Invalid value: 0: must be greater than 0"),
        (
            {"sinceSeconds": "5", "sinceTime": "2026-01-01T00:00:00Z"},
            422,
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ),
        ({"sinceTime": "yesterday"}, 400, 'parsing time "yesterday": it is not an RFC 3339 time'),
        ({"tailLines": "many"}, 400, 'strconv.ParseInt: parsing "many": invalid syntax'),
    ],
)
def test_bad_log_options_are_refused(query: Document, code: int, words: str) -> None:
    with pytest.raises(ApiError) as raised:
        log_parameters(pod("a"), query)
    assert raised.value.code == code
    assert words in raised.value.message


def waiting(reason: str, **more: Any) -> Document:
    return pod("a", containerStatuses=[{"name": "a", "state": {"waiting": {"reason": reason}}, **more}])


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (pod("a"), 'container "a" in pod "x" is waiting to start: ContainerCreating'),
        (waiting("ContainerCreating"), 'container "a" in pod "x" is waiting to start: ContainerCreating'),
        (waiting("ImagePullBackOff"), 'container "a" in pod "x" is waiting to start: trying and failing to pull image'),
        (waiting("CrashLoopBackOff", lastState={"terminated": {"exitCode": 1}}), ""),
        (pod("a", containerStatuses=[{"name": "a", "state": {"running": {}}}]), ""),
    ],
)
def test_why_a_container_has_no_logs_yet(target: Document, words: str) -> None:
    assert waiting_message(target, "a") == words


def node(port: int | None, *addresses: tuple[str, str]) -> Document:
    status: Document = {"addresses": [{"type": kind, "address": address} for kind, address in addresses]}
    if port is not None:
        status["daemonEndpoints"] = {"kubeletEndpoint": {"Port": port}}
    return {"metadata": {"name": "n1"}, "status": status}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (node(10251, ("Hostname", "n1"), ("InternalIP", "10.88.1.11")), "10.88.1.11:10251"),
        (node(None, ("InternalIP", "10.88.1.11")), "10.88.1.11:10250"),
        (node(1, ("InternalIP", "fd00::1")), "[fd00::1]:1"),
        (node(1, ("Hostname", "n1")), "n1:1"),
    ],
)
def test_where_a_node_listens(target: Document, expected: str) -> None:
    assert node_address(target) == expected


def test_a_node_without_address_cannot_be_asked() -> None:
    with pytest.raises(ApiError, match=r"no preferred addresses found"):
        node_address(node(1))


def test_channels_pass_as_they_are_or_as_base64() -> None:
    plain, text = codec_of("v5.channel.k8s.io"), codec_of("v4.base64.channel.k8s.io")
    assert plain is not None
    assert text is not None
    assert (plain.encode(b"\x01hi"), plain.decode(b"\x00in"), plain.decode("\x00in")) == (
        b"\x01hi",
        b"\x00in",
        b"\x00in",
    )
    assert (text.encode(b"\x01hi"), text.decode("0aW4="), text.node_protocol) == (
        "1aGk=",
        b"\x00in",
        "v4.channel.k8s.io",
    )
    with pytest.raises(ValueError, match=r"base64|padding"):
        text.decode("0a")
    assert codec_of("v1.unknown") is None
