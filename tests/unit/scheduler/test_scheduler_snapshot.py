"""The arrays keep account: whatever the order of what they are told, and without work for what changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from pyk.api.quantity import BadQuantity
from scheduler.columns import ChangeLog, CodeColumn


def test_a_heartbeat_touches_no_row(cluster: Any) -> None:
    cluster.node("n", labels={"a": "b"})
    position = cluster.snapshot.node_changes.position
    assert cluster.node("n", labels={"a": "b"}) is None
    assert cluster.snapshot.node_changes.position == position


def test_pods_told_before_their_node_count_when_it_comes(cluster: Any) -> None:
    cluster.place("n", cpu="3")
    cluster.node("n", cpu="4")
    assert "Insufficient cpu" in cluster.message(cpu="2")


def test_a_node_that_comes_back_has_its_pods_again(cluster: Any) -> None:
    cluster.node("n", cpu="4")
    cluster.place("n", cpu="3", containers=[{"ports": [{"hostPort": 80}], "resources": {"requests": {"cpu": "3"}}}])
    cluster.snapshot.remove_node("n")
    assert cluster.message() == "no nodes available to schedule pods"
    cluster.node("other", cpu="8")
    assert cluster.schedule(cpu="5").node == "other"
    cluster.node("n", cpu="4")
    assert cluster.message(cpu="4") == "0/2 nodes are available: 2 Insufficient cpu."
    assert cluster.schedule(containers=[{"ports": [{"hostPort": 80}]}]).node == "other"


def test_placing_a_pod_twice_counts_it_once_and_moving_it_frees_the_old_node(cluster: Any) -> None:
    cluster.node("a", cpu="1")
    cluster.node("b", cpu="1")
    signature = cluster.signature(cpu="1")
    for node in ("a", "a", "b", "b"):
        cluster.snapshot.place("default/p", node, signature)
    assert cluster.schedule(cpu="1").node == "a"
    assert cluster.snapshot.remove("default/p") == cluster.snapshot.rows["b"]
    assert cluster.snapshot.remove("default/p") is None
    assert cluster.schedule(cpu="1").node == "b"


def test_a_change_of_a_node_is_seen_by_the_next_decision(cluster: Any) -> None:
    cluster.node("n", cpu="1", labels={"zone": "a"})
    assert "affinity/selector" in cluster.message(nodeSelector={"zone": "b"})
    cluster.node("n", cpu="1", labels={"zone": "b"})
    assert cluster.schedule(nodeSelector={"zone": "b"}).node == "n"
    cluster.place("n", cpu="1")
    assert "Insufficient cpu" in cluster.message(cpu="1")
    cluster.node("n", cpu="2", labels={"zone": "b"})
    assert cluster.schedule(cpu="1").node == "n"


def test_a_node_whose_amounts_cannot_be_read_changes_nothing(cluster: Any) -> None:
    cluster.node("n", cpu="1")
    with pytest.raises(BadQuantity):
        cluster.node("n", cpu="much")
    assert cluster.schedule(cpu="1").node == "n"


def test_the_snapshot_grows_past_its_first_rows_and_resources(cluster: Any) -> None:
    for number in range(300):
        cluster.node(f"n{number}", cpu="1", labels={"host": f"n{number}"}, **{f"r{number % 7}": "1"})
        assert cluster.schedule(cpu="1").node == f"n{number}"
    assert len(cluster.snapshot) == 300
    assert cluster.message(cpu="1", nodeSelector={"host": "n299"}) == (
        "0/300 nodes are available: 1 Insufficient cpu, 299 node(s) didn't match Pod's node affinity/selector."
    )


def test_labels_and_names_that_come_and_go_do_not_pile_up(cluster: Any) -> None:
    cluster.node("steady", labels={"zone": "a"}, taints=["k=v:NoSchedule"])
    for number in range(3000):
        cluster.node(f"n{number}", labels={"zone": f"z{number}"}, taints=[f"k={number}:NoSchedule"])
        assert (
            cluster.schedule(nodeSelector={"zone": f"z{number}"}, tolerations=[{"operator": "Exists"}]).node
            == f"n{number}"
        )
        cluster.snapshot.remove_node(f"n{number}")
    snapshot = cluster.snapshot
    assert snapshot.size < 10
    assert max(len(snapshot.node_names.values), len(snapshot.taints.values), len(snapshot.labels("zone").values)) < 1000
    assert snapshot.epoch > 0
    assert "untolerated taint {k: v}" in cluster.message(nodeSelector={"zone": "a"})


def test_selectors_on_ever_new_labels_do_not_pile_up_columns(cluster: Any) -> None:
    cluster.node("n", labels={"zone": "a"})
    for number in range(2000):
        cluster.message(nodeSelector={f"label-{number}": "x"})
    assert len(cluster.snapshot._labels) <= 513
    assert cluster.schedule(nodeSelector={"zone": "a"}).node == "n"


def test_equal_pods_share_a_signature_and_unused_ones_are_forgotten(cluster: Any) -> None:
    first = cluster.signature(cpu="1", tolerations=[{"operator": "Exists"}])
    again = cluster.signature(cpu="1", tolerations=[{"operator": "Exists"}])
    other = cluster.signature(cpu="2", tolerations=[{"operator": "Exists"}])
    assert first is again
    assert first is not other
    assert first.usage.constraints is other.usage.constraints
    del first, again, other
    assert len(cluster.signatures._known) == 0


def test_a_change_log_tells_each_row_once_or_that_it_no_longer_knows() -> None:
    log = ChangeLog(limit=4)
    start = log.position
    for row in (1, 2, 1):
        log.append(row)
    assert log.since(start, 10) == [1, 2]
    assert log.since(start, 2) is None
    assert log.since(log.position, 10) == []
    for row in range(5):
        log.append(row)
    assert log.since(start, 100) is None
    assert log.since(log.position - 2, 10) == [3, 4]


def test_a_code_column_has_one_code_for_equal_values() -> None:
    column: CodeColumn[str] = CodeColumn(4)
    for row, value in enumerate(["a", "b", "a", None]):
        column.set(row, value)
    assert column.codes[0] == column.codes[2] != column.codes[1]
    assert column.codes[3] == 0
    assert column.one_of(("a", "never"), slice(0, 4)).tolist() == [True, False, True, False]
    assert column.one_of(("never",), slice(0, 4)).tolist() == [False] * 4
