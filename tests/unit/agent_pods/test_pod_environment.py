"""Environment variables, the downward API, and the files that the node writes for a pod."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from agent.pods.downward import Facts, UnknownField, field_value, resource_value
from agent.pods.envfile import BadFile, variable_in
from agent.pods.environment import ConfigError, container_environment, expand
from agent.pods.files import hostname, hosts_file, kernel_hostname, resolv_conf
from agent.pods.launch import subpath_of
from agent.pods.messages import log_tail, termination_message

FACTS = Facts(("10.0.0.1", "fd00::1"), ("192.0.2.1",), {"cpu": "4", "memory": "8Gi"})


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)z", "x1y2z"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(NONE)", "$(NONE)"),
        ("$(A", "$(A"),
        ("$A ${A}", "$A ${A}"),
        ("$", "$"),
        ("$()", "$()"),
        ("$(EMPTY)", ""),
    ],
)
def test_references_to_variables_are_expanded(text: str, result: str) -> None:
    assert expand(text, {"A": "1", "B": "2", "EMPTY": ""}) == result


def environment(pod: Any, container: Any, **objects: Any) -> Any:
    def lookup(kind: Any, name: str) -> Any:
        return objects.get(f"{kind.plural}_{name}")

    return container_environment(pod, {"name": "c", **container}, lookup, FACTS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("$(NONE)-$(EMPTY)", "missing value for EMPTY, NONE"),
        ("$(ROOT)", "error SubPath `/tmp` must not be an absolute path"),
        ("a/$(UP)", "unable to provision SubPath `a/..`: must not contain '..'"),
    ],
)
def test_a_path_below_a_volume_needs_its_variables_and_stays_there(text: str, words: str) -> None:
    variables = {"A": "1", "ROOT": "/tmp", "UP": "..", "EMPTY": ""}
    with pytest.raises(ConfigError, match=re.escape(words)):
        subpath_of({"subPathExpr": text}, variables)
    assert subpath_of({"subPathExpr": "$$(NONE)/$(A"}, variables) == "$(NONE)/$(A"
    assert subpath_of({"subPath": "$(A)"}, variables) == "$(A)"


def test_later_sources_win_and_earlier_variables_can_be_used(pod: Any) -> None:
    container = {
        "envFrom": [{"configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}, "prefix": "P_"}],
        "env": [
            {"name": "A", "value": "mine"},
            {"name": "B", "value": "$(A)-$(P_k)-$(Z)"},
            {"name": "Z", "value": "z"},
        ],
    }
    data = {"A": "map", "with space": "1", "bad=name": "2"}
    found, skipped = environment(
        pod(),
        container,
        configmaps_m={"data": data},
        secrets_s={"data": {"k": base64.b64encode(b"v").decode()}},
    )
    assert found == {"A": "mine", "with space": "1", "P_k": "v", "B": "mine-v-$(Z)", "Z": "z"}
    assert skipped == ["bad=name"]


def test_what_is_missing_is_told_unless_optional(pod: Any) -> None:
    def variable(**reference: Any) -> Any:
        return {"env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", **reference}}}]}

    with pytest.raises(ConfigError, match='configmap "m" not found'):
        environment(pod(), variable())
    with pytest.raises(ConfigError, match="couldn't find key k in ConfigMap ns/m"):
        environment(pod(), variable(), configmaps_m={"data": {}})
    assert environment(pod(), variable(optional=True))[0] == {}
    assert environment(pod(), variable(optional=True), configmaps_m={"data": {}})[0] == {}
    with pytest.raises(ConfigError, match='secret "s" not found'):
        environment(pod(), {"envFrom": [{"secretRef": {"name": "s"}}]})


def test_fields_of_the_pod(pod: Any) -> None:
    asked = pod(metadata={"labels": {"b": "2", "a": 'x"y'}, "annotations": {"n": "l1\nl2"}}, nodeName="n1")
    expected = {
        "metadata.name": "p",
        "metadata.namespace": "ns",
        "metadata.uid": asked["metadata"]["uid"],
        "metadata.labels": 'a="x\\"y"\nb="2"',
        "metadata.labels['a']": 'x"y',
        "metadata.annotations": 'n="l1\\nl2"',
        "spec.nodeName": "n1",
        "status.podIP": "10.0.0.1",
        "status.podIPs": "10.0.0.1,fd00::1",
        "status.hostIP": "192.0.2.1",
        "status.hostIPs": "192.0.2.1",
    }
    assert {path: field_value(asked, path, FACTS) for path in expected} == expected
    with pytest.raises(UnknownField):
        field_value(asked, "spec.containers", FACTS)


@pytest.mark.parametrize(
    ("resource", "divisor", "result"),
    [
        ("limits.cpu", "1m", "1500"),
        ("limits.cpu", None, "2"),
        ("requests.cpu", "1m", "250"),
        ("requests.memory", "1Mi", "64"),
        ("limits.memory", "1Gi", "8"),
        ("requests.ephemeral-storage", None, "0"),
    ],
)
def test_resources_of_a_container(pod: Any, resource: str, divisor: str | None, result: str) -> None:
    resources = {"limits": {"cpu": "1500m"}, "requests": {"cpu": "250m", "memory": "64Mi"}}
    asked = pod({"name": "c", "resources": resources})
    assert resource_value(asked, "c", {"resource": resource, "divisor": divisor}, FACTS) == result


def test_host_names(pod: Any) -> None:
    assert hostname(pod()) == "p"
    assert hostname(pod(metadata={"name": "x" * 62 + "-y"})) == "x" * 62
    named = pod(hostname="h", subdomain="s", setHostnameAsFQDN=True)
    assert kernel_hostname(named, "cluster.local", "n1") == "h.s.ns.svc.cluster.local"
    assert kernel_hostname(pod(hostNetwork=True), "cluster.local", "n1") == "n1"
    with pytest.raises(ValueError, match="is too long \\(64 characters is the max, 67 characters requested\\)"):
        kernel_hostname(named, "x" * 56, "n1")


def test_the_hosts_file_of_a_pod_and_of_a_host_network_pod(pod: Any) -> None:
    aliases = [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]
    text = hosts_file(pod(hostAliases=aliases), ["10.0.0.1"], "cluster.local", "the host's")
    assert text.startswith("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
    assert text.endswith("10.0.0.1\tp\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n")
    host = hosts_file(pod(hostNetwork=True), ["192.0.2.1"], "cluster.local", "127.0.0.1 here\n")
    assert host == "# Kubernetes-managed hosts file (host network).\n127.0.0.1 here\n"


HOST_RESOLV = "nameserver 9.9.9.9\nsearch corp.example\noptions edns0\n"


@pytest.mark.parametrize(
    ("spec", "dns", "text"),
    [
        ({"dnsPolicy": "Default"}, ["10.0.0.10"], HOST_RESOLV),
        (
            {"dnsPolicy": "ClusterFirst"},
            ["10.0.0.10"],
            "nameserver 10.0.0.10\nsearch ns.svc.cluster.local svc.cluster.local cluster.local corp.example\n"
            "options ndots:5\n",
        ),
        ({"dnsPolicy": "ClusterFirst"}, [], HOST_RESOLV),
        ({"dnsPolicy": "ClusterFirst", "hostNetwork": True}, ["10.0.0.10"], HOST_RESOLV),
        (
            {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "debug"}]}},
            ["10.0.0.10"],
            "nameserver 1.1.1.1\noptions debug\n",
        ),
        (
            {"dnsPolicy": "Default", "dnsConfig": {"options": [{"name": "ndots", "value": "3"}]}},
            [],
            "nameserver 9.9.9.9\nsearch corp.example\noptions edns0 ndots:3\n",
        ),
    ],
)
def test_resolv_conf_by_policy(pod: Any, spec: Any, dns: list[str], text: str) -> None:
    assert resolv_conf(pod(**spec), HOST_RESOLV, dns, "cluster.local") == text


def test_the_termination_message_is_bounded_and_may_come_from_the_log(tmp_path: Any) -> None:
    message, log = tmp_path / "message", tmp_path / "0.log"
    log.write_text("2026-01-01T00:00:00Z stdout P he\n2026-01-01T00:00:00Z stdout F llo\n" * 100)
    message.write_text("x" * 5000)
    assert termination_message(message, log, "File", 1) == "x" * 4096
    message.write_text("")
    assert termination_message(message, log, "File", 1) == ""
    assert termination_message(message, log, "FallbackToLogsOnError", 0) == ""
    assert termination_message(message, log, "FallbackToLogsOnError", 1).endswith("hello\nhello\n")
    assert len(log_tail(log)) <= 2048


# Variables from files

FILE = "# comment\nA=one\n\nB='two # not a comment'\nC='over\nlines'\nA=later\n"


@pytest.mark.parametrize(
    ("key", "value"), [("A", "one"), ("B", "two # not a comment"), ("C", "over\nlines"), ("D", None)]
)
def test_the_values_in_a_file_of_variables(key: str, value: str | None) -> None:
    assert variable_in(FILE, key) == value


@pytest.mark.parametrize("text", ["nothing\n", "A='open\nand open"])
def test_files_that_hold_no_variables(text: str) -> None:
    with pytest.raises(BadFile):
        variable_in(text, "B")


def test_a_variable_of_a_file_is_there_or_missing_or_optional() -> None:
    def found(**reference: Any) -> dict[str, str]:
        origin = {"fileKeyRef": {"volumeName": "v", "path": "e", "key": "A", **reference}}
        container = {"name": "c", "env": [{"name": "X", "valueFrom": origin}]}
        files = {("v", "e"): FILE}
        pod = {"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [container]}}
        lookup: Any = None
        return container_environment(pod, container, lookup, FACTS, lambda *place: files.get(place))[0]

    assert found() == {"X": "one"}
    assert found(key="D", optional=True) == found(path="none", optional=True) == {}
    with pytest.raises(ConfigError, match='environment variable key "D" not found in file "e" of volume "v"'):
        found(key="D")
    with pytest.raises(ConfigError, match='env file "none" of volume "v" not found'):
        found(path="none")
