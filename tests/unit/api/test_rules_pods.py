"""Pods: what is filled in, what is refused and in which words, what may change, and how kubectl shows them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pyk.api.kinds import POD
from pyk.api.rules.pods_columns import summarize
from pyk.api.rules.pods_resources import qos_class, sum_of_requests
from pyk.reconcile.clock import timestamp

Document = dict[str, Any]
RULES = POD.rules
NOW = 1_750_000_000.0


def pod(**spec: Any) -> Document:
    """A pod with its defaults; `spec` fields replace those of a minimal one."""
    made = {"metadata": {"name": "web", "namespace": "default"}, "spec": {"containers": [container()], **spec}}
    made = copy.deepcopy(made)
    RULES.default(made)
    return made


def container(name: str = "a", image: str = "nginx:1", **fields: Any) -> Document:
    return {"name": name, "image": image, **fields}


def problems(obj: Document, old: Document | None = None) -> dict[str, str]:
    return {f"{error.field}: {error.message}": error.reason for error in RULES.validate(obj, old)}


def test_a_minimal_pod_gets_kubernetes_defaults() -> None:
    assert pod()["spec"] == {
        "containers": [
            {
                "name": "a",
                "image": "nginx:1",
                "imagePullPolicy": "IfNotPresent",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }
        ],
        "dnsPolicy": "ClusterFirst",
        "enableServiceLinks": True,
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "terminationGracePeriodSeconds": 30,
    }


def test_defaulting_twice_changes_nothing() -> None:
    made = pod(
        containers=[
            container(
                ports=[{"containerPort": 80}],
                livenessProbe={"httpGet": {"port": 80}},
                env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                resources={"limits": {"cpu": "1"}},
            )
        ],
        volumes=[{"name": "v"}, {"name": "c", "configMap": {"name": "c"}}, {"name": "h", "hostPath": {"path": "/x"}}],
        hostNetwork=True,
    )
    again = copy.deepcopy(made)
    RULES.default(again)
    assert again == made


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("host:5000/nginx", "Always"),
        ("nginx:1", "IfNotPresent"),
        ("host:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:0123", "IfNotPresent"),
        ("nginx:latest@sha256:0123", "Always"),
    ],
)
def test_the_pull_policy_follows_from_the_tag(image: str, policy: str) -> None:
    assert pod(containers=[container(image=image)])["spec"]["containers"][0]["imagePullPolicy"] == policy


def test_requests_default_from_limits_and_ports_of_the_host_from_the_containers() -> None:
    made = pod(
        hostNetwork=True,
        containers=[
            container(
                ports=[{"containerPort": 80}],
                resources={"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1"}},
            )
        ],
    )["spec"]["containers"][0]
    assert made["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}
    assert made["ports"] == [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]


def test_probes_and_volumes_get_their_defaults() -> None:
    made = pod(
        containers=[container(readinessProbe={"httpGet": {"port": 80}, "periodSeconds": 3})],
        volumes=[{"name": "e"}, {"name": "s", "secret": {"secretName": "s"}}, {"name": "h", "hostPath": {"path": "/"}}],
    )["spec"]
    assert made["containers"][0]["readinessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "periodSeconds": 3,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert made["volumes"] == [
        {"name": "e", "emptyDir": {}},
        {"name": "s", "secret": {"secretName": "s", "defaultMode": 420}},
        {"name": "h", "hostPath": {"path": "/", "type": ""}},
    ]


def test_a_pod_level_limit_without_request_asks_for_what_its_containers_ask_for() -> None:
    made = pod(
        containers=[container(resources={"requests": {"cpu": "100m"}}), container("b")],
        resources={"limits": {"cpu": "1", "memory": "64Mi"}},
    )
    assert made["spec"]["resources"]["requests"] == {"cpu": "100m", "memory": "64Mi"}


def test_a_new_pod_is_pending_with_its_quality_of_service() -> None:
    made = pod(containers=[container(resources={"limits": {"cpu": "1", "memory": "1Gi"}})])
    RULES.prepare(made, None)
    assert made["status"] == {"phase": "Pending", "qosClass": "Guaranteed"}


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([{}], "BestEffort"),
        ([{"requests": {"ephemeral-storage": "1Gi"}}], "BestEffort"),
        ([{"requests": {"cpu": "0"}}], "BestEffort"),
        ([{"requests": {"cpu": "1"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}], "Burstable"),
        ([{"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}, {}], "Burstable"),
    ],
)
def test_quality_of_service(resources: list[Document], expected: str) -> None:
    spec = {"containers": [container(str(index), resources=each) for index, each in enumerate(resources)]}
    assert qos_class(spec) == expected
    assert qos_class({"containers": [], "initContainers": spec["containers"]}) == expected


def test_what_a_pod_requests_at_its_peak() -> None:
    def asks(cpu: str, **fields: Any) -> Document:
        return container(resources={"requests": {"cpu": cpu}}, **fields)

    spec = {
        "initContainers": [asks("100m", restartPolicy="Always"), asks("2")],
        "containers": [asks("500m"), asks("300m")],
    }
    assert sum_of_requests(spec, "cpu") == "2100m"
    assert sum_of_requests({**spec, "initContainers": spec["initContainers"][:1]}, "cpu") == "900m"
    assert sum_of_requests(spec, "memory") == ""


CASES = yaml.safe_load((Path(__file__).parent / "pods.yaml").read_text())


def of_case(case: Document) -> Document:
    if "container" in case:
        return pod(containers=[container(**case["container"])])
    return pod(**case["spec"])


@pytest.mark.parametrize("case", CASES["accepted"], ids=str)
def test_a_good_pod_is_accepted(case: Document) -> None:
    assert problems(of_case(case)) == {}


@pytest.mark.parametrize("case", CASES["refused"], ids=lambda case: case["message"])
def test_a_bad_pod_is_told_what_is_wrong_and_where(case: Document) -> None:
    found = problems(of_case(case))
    matching = [message for message in found if message.startswith(case["message"])]
    assert len(matching) == 1, found
    assert found[matching[0]] == case["reason"]


def changed(**spec: Any) -> tuple[Document, Document]:
    old = pod(tolerations=[{"key": "a", "operator": "Exists"}], activeDeadlineSeconds=100)
    new = copy.deepcopy(old)
    new["spec"].update(spec)
    return new, old


def test_images_tolerations_deadline_and_labels_of_a_pod_may_change() -> None:
    new, old = changed(
        tolerations=[{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}], activeDeadlineSeconds=50
    )
    new["spec"]["containers"][0]["image"] = "nginx:2"
    new["metadata"]["labels"] = {"a": "b"}
    assert problems(new, old) == {}


def test_another_change_of_a_pod_names_the_fields() -> None:
    new, old = changed(restartPolicy="Never")
    new["spec"]["containers"][0]["command"] = ["x"]
    [(message, reason)] = problems(new, old).items()
    assert reason == "FieldValueForbidden"
    assert message.startswith(
        "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
    )
    assert 'spec.restartPolicy: "Always" -> "Never"' in message
    assert 'spec.containers[0].command: null -> ["x"]' in message


@pytest.mark.parametrize("case", CASES["unchangeable"], ids=lambda case: case["message"])
def test_what_may_not_change_in_a_pod(case: Document) -> None:
    new, old = changed(**case["spec"])
    [message] = problems(new, old)
    assert message.startswith(case["message"])


def _requiring(*terms: Document, **others: Any) -> Document:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}} if terms else {}
    return {"nodeAffinity": {**required, **others}}


def _in(key: str) -> Document:
    return {"key": key, "operator": "In", "values": ["x"]}


_TERM = {"matchExpressions": [_in("a")]}
_LONGER = {"matchExpressions": [_in("b"), _in("a")]}
_PREFERRED = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": _TERM}]}
_NARROWER = "only additions are allowed (no mutations or deletions)"


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ({}, {"nodeSelector": {"a": "x"}}, ""),
        ({"nodeSelector": {"a": "x"}}, {"nodeSelector": {"a": "x", "b": "y"}}, ""),
        ({"nodeSelector": {"a": "x"}}, {"nodeSelector": {"a": "z"}}, "only additions to spec.nodeSelector are allowed"),
        ({"nodeSelector": {"a": "x"}}, {}, "only additions to spec.nodeSelector are allowed"),
        ({}, {"affinity": _requiring(_TERM)}, ""),
        ({"affinity": _requiring(_TERM)}, {"affinity": _requiring(_LONGER, **_PREFERRED)}, ""),
        ({"affinity": _requiring(**_PREFERRED)}, {"affinity": _requiring(_TERM)}, ""),
        ({"affinity": _requiring(_LONGER)}, {"affinity": _requiring(_TERM)}, _NARROWER),
        ({"affinity": _requiring({})}, {"affinity": _requiring(_TERM)}, _NARROWER),
        (
            {"affinity": _requiring(_TERM)},
            {"affinity": _requiring(_TERM, _TERM)},
            "no additions/deletions to non-empty",
        ),
        ({"affinity": _requiring(_TERM)}, {}, "no additions/deletions to non-empty"),
        ({}, {"affinity": {"podAffinity": {}}}, "pod updates may not change fields other than"),
    ],
)
def test_where_a_gated_pod_may_run_only_becomes_narrower(before: Document, after: Document, problem: str) -> None:
    gated = {"schedulingGates": [{"name": "g"}]}
    old, new = pod(**gated, **before), pod(**after)
    found = problems(new, old)
    assert [problem in message for message in found] == ([True] if problem else [])
    if after != before:  # once nothing holds the pod back the scheduler may have read it
        assert problems(new, pod(**before)) != {}


def test_a_container_that_ended_for_good_does_not_come_back() -> None:
    old = pod(restartPolicy="Never")
    ended = {"name": "a", "restartCount": 0, "ready": False, "image": "", "imageID": ""}
    old["status"] = {
        "qosClass": "BestEffort",
        "containerStatuses": [{**ended, "state": {"terminated": {"exitCode": 1}}}],
    }
    new = copy.deepcopy(old)
    new["status"]["containerStatuses"][0]["state"] = {"running": {}}
    errors = [f"{error.field}: {error.message}" for error in RULES.validate_status(new, old)]
    assert errors == ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
    old["spec"]["restartPolicy"] = "OnFailure"
    assert not list(RULES.validate_status(new, old))


def shown(status: Document, *, deleting: bool = False, **spec: Any) -> list[Any]:
    made = pod(**spec)
    made["metadata"]["creationTimestamp"] = timestamp(NOW - 300)
    if deleting:
        made["metadata"]["deletionTimestamp"] = timestamp(NOW)
    made["status"] = status
    return [column.cell(made, NOW) for column in RULES.columns if column.priority == 0]


def status_of(
    state: Document, *, name: str = "a", ready: bool = False, restarts: int = 0, last: float = 0, **more: Any
) -> Document:
    made: Document = {"name": name, "state": state, "ready": ready, "restartCount": restarts, **more}
    if last:
        made["lastState"] = {"terminated": {"exitCode": 1, "finishedAt": timestamp(NOW - last)}}
    return made


RUNNING = {"running": {"startedAt": timestamp(NOW - 10)}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff"}}
DONE = {"terminated": {"exitCode": 0, "reason": "Completed"}}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"status": {"phase": "Pending"}}, ["0/1", "Pending", "0"]),
        (
            {"status": {"phase": "Running", "containerStatuses": [status_of(RUNNING, ready=True)]}},
            ["1/1", "Running", "0"],
        ),
        (
            {"status": {"phase": "Running", "containerStatuses": [status_of(BACK_OFF, restarts=3, last=300)]}},
            ["0/1", "CrashLoopBackOff", "3 (5m ago)"],
        ),
        ({"status": {"phase": "Succeeded", "containerStatuses": [status_of(DONE)]}}, ["0/1", "Completed", "0"]),
        (
            {"status": {"phase": "Failed", "containerStatuses": [status_of({"terminated": {"exitCode": 3}})]}},
            ["0/1", "ExitCode:3", "0"],
        ),
        (
            {
                "status": {
                    "phase": "Failed",
                    "containerStatuses": [status_of({"terminated": {"exitCode": 137, "signal": 9}})],
                }
            },
            ["0/1", "Signal:9", "0"],
        ),
        ({"status": {"phase": "Failed", "reason": "Evicted"}}, ["0/1", "Evicted", "0"]),
        (
            {"status": {"phase": "Running", "containerStatuses": [status_of(RUNNING, ready=True)]}, "deleting": True},
            ["1/1", "Terminating", "0"],
        ),
        (
            {"status": {"phase": "Succeeded", "containerStatuses": [status_of(DONE)]}, "deleting": True},
            ["0/1", "Completed", "0"],
        ),
        ({"status": {"phase": "Running", "reason": "NodeLost"}, "deleting": True}, ["0/1", "Unknown", "0"]),
        (
            {
                "status": {
                    "phase": "Running",
                    "containerStatuses": [status_of(DONE), status_of(RUNNING, name="b", ready=True)],
                    "conditions": [{"type": "Ready", "status": "False"}],
                },
                "containers": [container(), container("b")],
            },
            ["1/2", "NotReady", "0"],
        ),
        (
            {
                "status": {
                    "phase": "Pending",
                    "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated", "status": "False"}],
                }
            },
            ["0/1", "SchedulingGated", "0"],
        ),
        (
            {
                "status": {
                    "phase": "Pending",
                    "initContainerStatuses": [status_of(DONE, name="i"), status_of(RUNNING, name="j")],
                },
                "initContainers": [container("i"), container("j")],
            },
            ["0/1", "Init:1/2", "0"],
        ),
        (
            {
                "status": {
                    "phase": "Pending",
                    "initContainerStatuses": [status_of(BACK_OFF, name="i", restarts=2, last=60)],
                },
                "initContainers": [container("i")],
            },
            ["0/1", "Init:CrashLoopBackOff", "2 (60s ago)"],
        ),
        (
            {
                "status": {
                    "phase": "Pending",
                    "initContainerStatuses": [status_of({"terminated": {"exitCode": 1, "reason": "Error"}}, name="i")],
                },
                "initContainers": [container("i")],
            },
            ["0/1", "Init:Error", "0"],
        ),
        (
            {
                "status": {
                    "phase": "Running",
                    "initContainerStatuses": [
                        status_of(RUNNING, name="s", ready=True, started=True, restarts=1, last=10)
                    ],
                    "containerStatuses": [status_of(RUNNING, ready=True)],
                    "conditions": [{"type": "Initialized", "status": "True"}],
                },
                "initContainers": [container("s", restartPolicy="Always")],
            },
            ["2/2", "Running", "1 (10s ago)"],
        ),
    ],
)
def test_kubectl_shows_what_a_pod_is_doing(arguments: Document, expected: list[str]) -> None:
    assert shown(**arguments) == ["web", *expected, "5m"]


def test_wide_columns_of_a_pod() -> None:
    made = pod(nodeName="n1", readinessGates=[{"conditionType": "a/b"}, {"conditionType": "c/d"}])
    made["status"] = {"podIPs": [{"ip": "10.1.0.5"}], "conditions": [{"type": "a/b", "status": "True"}]}
    wide = {column.name: column.cell(made, NOW) for column in RULES.columns if column.priority == 1}
    assert wide == {"IP": "10.1.0.5", "Node": "n1", "Nominated Node": "<none>", "Readiness Gates": "1/2"}
    assert summarize(made).total == 1


def test_selectable_fields_of_a_pod() -> None:
    made = pod(nodeName="n1")
    made["status"] = {"phase": "Running", "podIP": "10.1.0.5"}
    assert {name: read(made) for name, read in RULES.fields.items()} == {
        "spec.nodeName": "n1",
        "spec.restartPolicy": "Always",
        "spec.schedulerName": "default-scheduler",
        "spec.serviceAccountName": "",
        "spec.hostNetwork": "false",
        "status.phase": "Running",
        "status.podIP": "10.1.0.5",
        "status.nominatedNodeName": "",
    }


@pytest.mark.parametrize(
    ("fields", "code", "is_refused"),
    [
        ({}, 0, True),
        ({}, 42, True),
        ({"restartPolicy": "OnFailure"}, 42, False),
        ({"restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}, 42, False),
        ({"restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}, 1, True),
        (
            {
                "restartPolicyRules": [
                    {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [9]}}
                ]
            },
            1,
            False,
        ),
        ({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}, 0, False),
    ],
)
def test_a_container_comes_back_only_where_something_restarts_it(fields: Document, code: int, is_refused: bool) -> None:
    def with_state(state: Document) -> Document:
        made = pod(restartPolicy="Never", containers=[container(**fields)])
        return {**made, "status": {"containerStatuses": [{"name": "a", "state": state}]}}

    old, new = with_state({"terminated": {"exitCode": code}}), with_state({"running": {}})
    found = [f"{error.field}: {error.message}" for error in RULES.validate_status(new, old)]
    refusal = "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"
    assert found == ([refusal] if is_refused else [])
