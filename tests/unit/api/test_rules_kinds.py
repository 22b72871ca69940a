"""Deployments, ReplicaSets, configuration, nodes, namespaces, events and leases: defaults, checks and columns."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest

from pyk.api.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    LEASE,
    NAMESPACE,
    NODE,
    REPLICA_SET,
    SECRET,
    SERVICE_ACCOUNT,
    Kind,
)
from pyk.reconcile.clock import timestamp

Document = dict[str, Any]
NOW = 1_750_000_000.0


def made(kind: Kind, **fields: Any) -> Document:
    """An object of the kind with its defaults."""
    obj = copy.deepcopy({"metadata": {"name": "x", "namespace": "default"}, **fields})
    kind.rules.default(obj)
    return obj


def problems(kind: Kind, obj: Document, old: Document | None = None) -> list[str]:
    return [f"{error.field}: {error.message}" for error in kind.rules.validate(obj, old)]


def cells(kind: Kind, obj: Document, *, wide: bool = False) -> dict[str, Any]:
    obj["metadata"].setdefault("creationTimestamp", timestamp(NOW - 90))
    return {column.name: column.cell(obj, NOW) for column in kind.rules.columns if wide or column.priority == 0}


def workload(kind: Kind, **spec: Any) -> Document:
    template = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}}
    return made(kind, spec={"selector": {"matchLabels": {"app": "a"}}, "template": template, **spec})


def test_a_deployment_gets_kubernetes_defaults() -> None:
    spec = workload(DEPLOYMENT)["spec"]
    assert {field: spec[field] for field in spec if field not in ("selector", "template")} == {
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
    }
    assert spec["template"]["spec"]["restartPolicy"] == "Always"
    assert "enableServiceLinks" not in spec["template"]["spec"], "this is filled in when a pod is made"
    assert workload(DEPLOYMENT, replicas=0)["spec"]["replicas"] == 0
    assert workload(DEPLOYMENT, strategy={"type": "Recreate"})["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}},
        {"strategy": {"type": "Recreate"}},
        {"selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]}},
        {"replicas": 0, "minReadySeconds": 10},
    ],
)
def test_a_good_deployment_is_accepted(spec: Document) -> None:
    assert problems(DEPLOYMENT, workload(DEPLOYMENT, **spec)) == []


def templated(labels: Document | None = None, **spec: Any) -> Document:
    return {
        "template": {
            "metadata": {"labels": {"app": "a"} if labels is None else labels},
            "spec": {"containers": [{"name": "c", "image": "nginx:1"}], **spec},
        }
    }


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"replicas": -1}, "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        ({"selector": {}}, "spec.selector: Invalid value: {}: empty selector is invalid for deployment"),
        (
            templated({"app": "b"}),
            'spec.template.metadata.labels: Invalid value: {"app":"b"}: `selector` does not match template `labels`',
        ),
        (
            templated(restartPolicy="Never"),
            'spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"',
        ),
        (
            templated(activeDeadlineSeconds=5),
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
        ),
        (
            {"strategy": {"type": "Blue"}},
            'spec.strategy.type: Unsupported value: "Blue": supported values: "Recreate", "RollingUpdate"',
        ),
        (
            {"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}},
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}},
            'spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0',
        ),
        (
            {"strategy": {"rollingUpdate": {"maxUnavailable": "101%"}}},
            'spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%',
        ),
        (
            {"strategy": {"rollingUpdate": {"maxSurge": "many"}}},
            'spec.strategy.rollingUpdate.maxSurge: Invalid value: "many": a valid percent string',
        ),
        (
            {"minReadySeconds": 600},
            "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
        ),
    ],
)
def test_a_bad_deployment_is_told_what_is_wrong(spec: Document, message: str) -> None:
    [found] = problems(DEPLOYMENT, workload(DEPLOYMENT, **spec))
    assert found.startswith(message)


@pytest.mark.parametrize("kind", [DEPLOYMENT, REPLICA_SET])
def test_a_selector_never_changes(kind: Kind) -> None:
    old, new = workload(kind), workload(kind)
    new["spec"]["selector"] = {"matchLabels": {"app": "a", "tier": "b"}}
    new["spec"]["template"]["metadata"]["labels"] = {"app": "a", "tier": "b"}
    assert problems(kind, new, old) == [
        'spec.selector: Invalid value: {"matchLabels":{"app":"a","tier":"b"}}: field is immutable'
    ]
    new["spec"]["selector"] = old["spec"]["selector"]
    assert problems(kind, new, old) == []


def test_a_replica_set_needs_a_template_and_a_count() -> None:
    assert workload(REPLICA_SET)["spec"]["replicas"] == 1
    assert problems(REPLICA_SET, workload(REPLICA_SET)) == []
    assert problems(REPLICA_SET, workload(REPLICA_SET, template=None)) == ["spec.template: Required value"]


def test_a_status_does_not_count_more_than_there_are() -> None:
    status = {"replicas": 1, "readyReplicas": 2, "availableReplicas": 3}
    found = [error.field for error in REPLICA_SET.rules.validate_status({"status": status}, None)]
    assert found == ["status.readyReplicas", "status.availableReplicas", "status.availableReplicas"]


def test_columns_of_workloads() -> None:
    deployment = workload(DEPLOYMENT, replicas=3)
    deployment["status"] = {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}
    assert cells(DEPLOYMENT, deployment, wide=True) == {
        "Name": "x",
        "Ready": "2/3",
        "Up-to-date": 3,
        "Available": 1,
        "Age": "90s",
        "Containers": "c",
        "Images": "nginx:1",
        "Selector": "app=a",
    }
    replica_set = workload(REPLICA_SET, replicas=3)
    replica_set["status"] = {"replicas": 2}
    assert cells(REPLICA_SET, replica_set) == {"Name": "x", "Desired": 3, "Current": 2, "Ready": 0, "Age": "90s"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": {"a b": ""}}, 'data[a b]: Invalid value: "a b": a valid config key must consist of'),
        (
            {"data": {"a": ""}, "binaryData": {"a": ""}},
            'data[a]: Invalid value: "a": duplicate of key present in binaryData',
        ),
        ({"data": {"a": "x" * (1 << 20), "b": "y"}}, "[]: Too long: may not be more than 1048576 bytes"),
    ],
)
def test_a_bad_config_map_is_told_what_is_wrong(fields: Document, message: str) -> None:
    [found] = problems(CONFIG_MAP, made(CONFIG_MAP, **fields))
    assert found.startswith(message)


def test_what_is_immutable_stays_as_it_is() -> None:
    old = made(CONFIG_MAP, data={"a": "1"}, immutable=True)
    assert problems(CONFIG_MAP, made(CONFIG_MAP, data={"a": "1"}, immutable=True), old) == []
    assert problems(CONFIG_MAP, made(CONFIG_MAP, data={"a": "2"}), old) == [
        "immutable: Forbidden: field is immutable when `immutable` is set",
        "data: Forbidden: field is immutable when `immutable` is set",
    ]


def test_string_data_becomes_data() -> None:
    secret = made(SECRET, data={"a": "b2xk", "b": "Yg=="}, stringData={"a": "new ü"})
    assert secret["type"] == "Opaque"
    assert "stringData" not in secret
    assert {key: base64.b64decode(text).decode() for key, text in secret["data"].items()} == {"a": "new ü", "b": "b"}


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}, ["data[tls.key]: Required value"]),
        (
            {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "eA=="}},
            ['data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": invalid JSON'],
        ),
        (
            {"type": "kubernetes.io/service-account-token"},
            ["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        ),
        ({"type": "kubernetes.io/basic-auth", "stringData": {"username": "me"}}, []),
        ({"type": "example.com/anything", "data": {}}, []),
    ],
)
def test_typed_secrets_hold_what_their_type_promises(fields: Document, messages: list[str]) -> None:
    assert problems(SECRET, made(SECRET, **fields)) == messages


def test_the_type_of_a_secret_never_changes() -> None:
    assert problems(SECRET, made(SECRET, type="a/b"), made(SECRET)) == [
        'type: Invalid value: "a/b": field is immutable'
    ]


def test_columns_of_configuration() -> None:
    assert cells(CONFIG_MAP, made(CONFIG_MAP, data={"a": "1"}, binaryData={"b": ""}))["Data"] == 2
    secret = cells(SECRET, made(SECRET, stringData={"a": "1"}))
    assert (secret["Type"], secret["Data"]) == ("Opaque", 1)
    assert cells(SERVICE_ACCOUNT, made(SERVICE_ACCOUNT)) == {"Name": "x", "Secrets": 0, "Age": "90s"}


def test_a_namespace_is_labelled_with_its_name_and_kept_by_its_finalizer() -> None:
    namespace = made(NAMESPACE)
    NAMESPACE.rules.prepare(namespace, None)
    assert namespace["metadata"]["labels"] == {"kubernetes.io/metadata.name": "x"}
    assert namespace["spec"] == {"finalizers": ["kubernetes"]}
    assert namespace["status"] == {"phase": "Active"}
    changed = {"metadata": {"name": "x", "labels": {"kubernetes.io/metadata.name": "y"}}, "spec": {"finalizers": []}}
    NAMESPACE.rules.prepare(changed, namespace)
    assert changed["spec"] == namespace["spec"]
    assert changed["metadata"]["labels"] == namespace["metadata"]["labels"]
    assert cells(NAMESPACE, namespace) == {"Name": "x", "Status": "Active", "Age": "90s"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"taints": [{"key": "a", "effect": "Sometimes"}]},
            'spec.taints[0].effect: Unsupported value: "Sometimes": supported values: "NoExecute", "NoSchedule",',
        ),
        ({"taints": [{"key": "", "effect": "NoExecute"}]}, "spec.taints[0].key: Required value"),
        (
            {"taints": [{"key": "a", "effect": "NoExecute"}] * 2},
            'spec.taints[1]: Duplicate value: {"key":"a","effect":"NoExecute"}: taints must be unique',
        ),
        ({"podCIDR": "10.1.0.300/24"}, 'spec.podCIDRs[0]: Invalid value: "10.1.0.300/24": must be a valid CIDR value'),
    ],
)
def test_a_bad_node_is_told_what_is_wrong(spec: Document, message: str) -> None:
    [found] = problems(NODE, made(NODE, spec=spec))
    assert found.startswith(message)


def test_a_nodes_pod_network_is_set_once() -> None:
    fresh, placed = made(NODE), made(NODE, spec={"podCIDR": "10.1.1.0/24"})
    assert placed["spec"]["podCIDRs"] == ["10.1.1.0/24"]
    assert problems(NODE, placed, fresh) == []
    assert problems(NODE, made(NODE, spec={"podCIDR": "10.1.2.0/24"}), placed) == [
        'spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid'
    ]
    assert problems(NODE, made(NODE, spec={**placed["spec"], "unschedulable": True}), placed) == []


@pytest.mark.parametrize(
    ("conditions", "spec", "expected"),
    [
        ([], {}, "Unknown"),
        ([{"type": "Ready", "status": "True"}], {}, "Ready"),
        ([{"type": "Ready", "status": "False"}], {}, "NotReady"),
        ([{"type": "Ready", "status": "Unknown"}], {"unschedulable": True}, "NotReady,SchedulingDisabled"),
    ],
)
def test_kubectl_shows_what_a_node_is_doing(conditions: list[Document], spec: Document, expected: str) -> None:
    node = made(NODE, spec=spec, status={"conditions": conditions})
    assert cells(NODE, node)["Status"] == expected


def test_columns_of_a_node() -> None:
    node = made(
        NODE,
        status={
            "addresses": [{"type": "InternalIP", "address": "10.88.1.11"}],
            "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian"},
        },
    )
    node["metadata"]["labels"] = {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"}
    shown = cells(NODE, node, wide=True)
    assert (shown["Roles"], shown["Version"], shown["Internal-IP"], shown["External-IP"]) == (
        "edge,worker",
        "v1.36.0",
        "10.88.1.11",
        "<none>",
    )
    assert (shown["OS-Image"], shown["Kernel-Version"]) == ("Debian", "<unknown>")


def event(**fields: Any) -> Document:
    about = {"kind": "Pod", "name": "web", "namespace": "default", "fieldPath": "spec.containers{a}"}
    return made(EVENT, involvedObject=about, **fields)


def test_columns_of_an_event() -> None:
    shown = cells(
        EVENT,
        event(
            type="Warning",
            reason="BackOff",
            message="Back-off restarting\n",
            count=4,
            firstTimestamp=timestamp(NOW - 3600),
            lastTimestamp=timestamp(NOW - 5),
            source={"component": "kubelet", "host": "n1"},
        ),
        wide=True,
    )
    assert shown == {
        "Last Seen": "5s",
        "Type": "Warning",
        "Reason": "BackOff",
        "Object": "pod/web",
        "Subobject": "spec.containers{a}",
        "Source": "kubelet, n1",
        "Message": "Back-off restarting",
        "First Seen": "60m",
        "Count": 4,
        "Name": "x",
    }


def test_an_event_is_in_the_namespace_of_what_it_is_about() -> None:
    assert problems(EVENT, event()) == []
    elsewhere = event()
    elsewhere["metadata"]["namespace"] = "other"
    assert problems(EVENT, elsewhere) == [
        'involvedObject.namespace: Invalid value: "default": does not match event.namespace'
    ]
    about_node = made(EVENT, involvedObject={"kind": "Node", "name": "n1"})
    assert problems(EVENT, about_node) == []


def test_an_event_with_an_event_time_is_checked_in_full() -> None:
    found = problems(EVENT, event(eventTime="2026-01-01T00:00:00.000000Z"))
    assert [message.partition(":")[0] for message in found] == [
        "reportingController",
        "reportingInstance",
        "action",
        "reason",
        "type",
    ]


def test_events_are_found_by_what_they_are_about() -> None:
    fields = {name: read(event(type="Normal", source={"component": "x"})) for name, read in EVENT.rules.fields.items()}
    assert fields["involvedObject.name"] == "web"
    assert fields["source"] == "x"
    assert fields["type"] == "Normal"


def test_a_lease_lasts_a_while() -> None:
    assert problems(LEASE, made(LEASE, spec={"leaseDurationSeconds": 0})) == [
        "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"
    ]
    assert cells(LEASE, made(LEASE, spec={"holderIdentity": "me"})) == {"Name": "x", "Holder": "me", "Age": "90s"}
