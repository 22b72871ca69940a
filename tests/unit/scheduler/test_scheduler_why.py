"""What `pyk why` says: of a pod that waits, of one that is placed, and of clusters that are only imagined."""

from __future__ import annotations

from typing import Any

import pytest

from pyk.errors import UserError
from scheduler.why import answer

Json = dict[str, Any]


def node(name: str, cpu: str = "2", **spec: Any) -> Json:
    labels = {"kubernetes.io/hostname": name, **spec.pop("labels", {})}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "10"}},
    }


def pod(name: str, cpu: str = "1", at: str = "", **spec: Any) -> Json:
    condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": at}
    owner = {"kind": "ReplicaSet", "name": "rs", "uid": "u", "controller": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "ownerReferences": [owner]},
        "spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}], **spec},
        "status": {"phase": "Pending", "conditions": [condition] if at else []},
    }


def deployment(name: str, replicas: int, cpu: str = "1") -> Json:
    template = {"metadata": {"labels": {"app": name}}, "spec": pod("", cpu)["spec"]}
    spec = {"replicas": replicas, "template": template}
    return {"kind": "Deployment", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def ask(*objects: Json, **question: Any) -> str:
    return answer({"objects": list(objects), **question})


def test_a_pod_that_waits_is_told_what_each_node_needs() -> None:
    taint = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}
    text = ask(
        node("a", cpu="700m"),
        node("b", cpu="700m"),
        node("c", taints=[taint]),
        node("d", unschedulable=True, cpu="1"),
        pod("p", cpu="1"),
        pod="default/p",
    )
    assert "Of 4 nodes 0 would do now." in text
    assert "Refused by NodeResourcesFit:\n  2 Insufficient cpu: a, b" in text
    assert "  2 nodes need 300m more cpu: a, b" in text
    assert "  1 node needs a toleration of taint dedicated=gpu:NoSchedule (or the taint gone): c" in text
    assert "  1 node needs to be uncordoned: d" in text


def test_a_node_that_needs_two_things_is_told_both() -> None:
    text = ask(node("a", cpu="500m"), pod("p", cpu="1", nodeSelector={"disk": "ssd"}), pod="default/p")
    assert "1 node needs labels that match disk=ssd and 500m more cpu: a" in text


def test_a_placed_pod_is_shown_the_scores_as_they_were() -> None:
    text = ask(
        node("a"),
        node("b"),
        pod("p", at="2026-01-01T00:00:05Z", nodeName="a"),
        pod("later", cpu="2", at="2026-01-01T00:00:09Z", nodeName="b"),
        pod="default/p",
    )
    assert text.startswith("default/p was placed on a at 2026-01-01T00:00:05Z.")
    assert "Of 2 nodes 2 would do, as things were then:" in text
    head, first, second = text.splitlines()[-3:]
    assert head.split()[:4] == ["NODE", "TOTAL", "TaintToleration", "x3"]
    assert {first.split()[0], second.split()[0]} == {"a", "b"}
    assert "a *" in text


def test_it_is_told_who_would_have_to_make_way() -> None:
    low = pod("low", cpu="2", at="2026-01-01T00:00:00Z", nodeName="a", priority=1)
    text = ask(node("a"), low, pod("high", cpu="2", priority=5), pod="default/high")
    assert "For its priority default/low would have to end on a." in text
    text = ask(node("a"), low, pod("high", cpu="2", priority=5, preemptionPolicy="Never"), pod="default/high")
    assert "its preemptionPolicy is Never" in text


def test_a_manifest_that_is_not_applied_is_placed_in_thought() -> None:
    text = ask(node("a"), node("b"), pod("there", nodeName="a"), manifests=[deployment("web", 5)])
    assert "deployment/web: 3 of 5 pods would get a node" in text
    assert "2 on b, 1 on a" in text
    assert "2 would wait: 0/2 nodes are available: 2 Insufficient cpu." in text
    assert "2 nodes need 1 more cpu: a, b" in text


def test_nodes_that_are_not_there_are_imagined() -> None:
    text = ask(
        node("a"), pod("p", cpu="8"), pod="default/p", changes=[["add-node", "cpu=16,memory=32Gi,count=2,zone=z"]]
    )
    assert "With these changes 2 of 3 nodes would do." in text
    text = ask(node("a"), manifests=[deployment("web", 6)], changes=[["add-node", "a,count=2"]])
    assert "6 of 6 pods would get a node" in text


def test_draining_tells_where_the_pods_would_go() -> None:
    text = ask(node("a"), node("b"), pod("p", nodeName="a"), pod("q", nodeName="a"), changes=[["drain", "a"]])
    assert text.splitlines()[0] == "pods of nodes that are drained or gone: 2 of 2 pods would get a node"
    assert "2 on b" in text
    assert ask(node("a"), node("b"), changes=[["cordon", "b"]]) == "No pod would be placed anew."


def test_taints_and_labels_are_imagined() -> None:
    changes = [["taint", "a:k=v:NoSchedule"], ["label", "b:disk=ssd"]]
    picky = pod("p", nodeSelector={"disk": "ssd"})
    assert "With these changes 1 of 2 nodes would do." in ask(
        node("a"), node("b"), picky, pod="default/p", changes=changes
    )
    tainted = node("a", taints=[{"key": "k", "effect": "NoSchedule"}])
    text = ask(tainted, pod("p"), pod="default/p", changes=[["taint", "a:k-"]])
    assert "With these changes 1 of 1 nodes would do." in text


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ({"pod": "default/none"}, "there is no pod default/none"),
        ({"changes": [["cordon", "x"]]}, "there is no node 'x'"),
        ({"changes": [["add-node", "nonsense"]]}, "neither KEY=VALUE nor the name of a node"),
        ({"changes": [["add-node", "cpu=1,count=0"]]}, "count must be 1 to 20000"),
        ({"changes": [["taint", "a:k=v"]]}, "is not NODE:key=value:Effect"),
        ({"manifests": [{"kind": "ConfigMap", "metadata": {"name": "c"}}]}, "a ConfigMap has no pods to place"),
    ],
)
def test_what_cannot_be_answered_is_told_in_one_line(question: Json, told: str) -> None:
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        ask(node("a"), **question)
    assert told in str(caught.value)
