"""Each rule by its behaviour: which nodes a pod may use, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}}


def preferring(*terms: tuple[int, dict[str, Any]]) -> dict[str, Any]:
    listed = [{"weight": weight, "preference": term} for weight, term in terms]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": listed}}


def label(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def test_a_pod_goes_to_the_node_that_has_room(cluster: Any) -> None:
    cluster.node("small", cpu="500m")
    cluster.node("large", cpu="2")
    assert cluster.schedule(cpu="1").node == "large"


def test_a_request_of_exactly_what_is_left_fits_and_one_more_does_not(cluster: Any) -> None:
    cluster.node("n", cpu="2", memory="1Gi")
    cluster.place("n", cpu="500m", memory="24Mi")
    assert "Insufficient cpu" in cluster.message(cpu="1501m")
    assert "Insufficient memory" in cluster.message(memory="1048576001")
    assert cluster.schedule(cpu="1500m", memory="1000Mi").node == "n"


def test_the_message_counts_each_reason_and_sorts_them_as_text(cluster: Any) -> None:
    cluster.node("a", taints=["k=v:NoSchedule"])
    cluster.node("b", cpu="1")
    cluster.node("c", cpu="1")
    assert (
        cluster.message(cpu="2")
        == "0/3 nodes are available: 1 node(s) had untolerated taint {k: v}, 2 Insufficient cpu."
    )


def test_one_node_may_lack_several_resources(cluster: Any) -> None:
    cluster.node("n", cpu="1", memory="1Gi", pods="0")
    assert (
        cluster.message(cpu="2", memory="2Gi")
        == "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 Too many pods."
    )


def test_without_nodes_the_message_says_so(cluster: Any) -> None:
    assert cluster.message() == "no nodes available to schedule pods"


def test_the_number_of_pods_on_a_node_is_limited(cluster: Any) -> None:
    cluster.node("n", pods="1")
    cluster.place("n")
    assert cluster.message() == "0/1 nodes are available: 1 Too many pods."


def test_a_pod_that_requests_nothing_fits_on_an_overcommitted_node(cluster: Any) -> None:
    cluster.node("n", cpu="1")
    cluster.place("n", cpu="3")
    assert cluster.schedule().node == "n"
    assert "Insufficient cpu" in cluster.message(cpu="1m")


def test_an_extended_resource_must_be_there_and_free(cluster: Any) -> None:
    cluster.node("plain")
    cluster.node("gpu", example_com__gpu="1")
    wants = {"containers": [{"resources": {"requests": {"example-com/gpu": "1"}}}]}
    assert cluster.schedule(**wants).node == "gpu"
    assert cluster.message(**wants) == "0/2 nodes are available: 2 Insufficient example-com/gpu."


def test_a_resource_that_no_node_has_is_insufficient_everywhere(cluster: Any) -> None:
    cluster.node("n")
    wants = {"containers": [{"resources": {"requests": {"example.com/never": "1"}}}]}
    assert cluster.message(**wants) == "0/1 nodes are available: 1 Insufficient example.com/never."


def test_ephemeral_storage_is_counted(cluster: Any) -> None:
    cluster.node("n", ephemeral_storage="1Gi")
    wants = {"containers": [{"resources": {"requests": {"ephemeral-storage": "600Mi"}}}]}
    assert cluster.schedule(**wants).node == "n"
    assert cluster.message(**wants) == "0/1 nodes are available: 1 Insufficient ephemeral-storage."


@pytest.mark.parametrize(
    ("spec", "millicores"),
    [
        ({"containers": ["100m", "200m"]}, 300),
        ({"containers": ["100m"], "initContainers": ["700m", "400m"]}, 700),
        ({"containers": ["500m", "400m"], "initContainers": ["700m"]}, 900),
        ({"containers": ["100m"], "initContainers": ["+200m"]}, 300),
        ({"containers": ["100m"], "initContainers": ["+200m", "500m"]}, 700),
        ({"containers": ["100m"], "initContainers": ["500m", "+200m"]}, 500),
        ({"containers": ["100m"], "initContainers": ["+200m", "+300m", "50m"]}, 600),
        ({"containers": ["100m"], "overhead": {"cpu": "50m"}}, 150),
        ({"containers": ["100m"], "initContainers": ["300m"], "overhead": {"cpu": "50m"}}, 350),
        ({"containers": ["100m", "100m"], "resources": {"requests": {"cpu": "1"}}}, 1000),
        ({"containers": ["100m"], "resources": {"requests": {"cpu": "1"}}, "overhead": {"cpu": "50m"}}, 1050),
    ],
)
def test_what_a_pod_needs_follows_from_its_containers(cluster: Any, spec: dict[str, Any], millicores: int) -> None:
    """A `+` marks a sidecar: an init container with restartPolicy Always."""

    def container(cpu: str) -> dict[str, Any]:
        sidecar = {"restartPolicy": "Always"} if cpu.startswith("+") else {}
        return {"resources": {"requests": {"cpu": cpu.removeprefix("+")}}, **sidecar}

    for field in ("containers", "initContainers"):
        if field in spec:
            spec = {**spec, field: [container(cpu) for cpu in spec[field]]}
    assert cluster.signature(**spec).requests["cpu"] == millicores


@pytest.mark.parametrize(
    ("toleration", "is_tolerated"),
    [
        ({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"operator": "Exists", "effect": "NoSchedule"}, True),
        ({"key": "k", "operator": "Equal", "value": "w", "effect": "NoSchedule"}, False),
        ({"key": "k", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "k", "value": ""}, False),
    ],
)
def test_a_taint_keeps_out_pods_that_do_not_tolerate_it(
    cluster: Any, toleration: dict[str, str], is_tolerated: bool
) -> None:
    cluster.node("n", taints=["k=v:NoSchedule"])
    assert (cluster.schedule(tolerations=[toleration]).node == "n") is is_tolerated


def test_the_first_untolerated_taint_is_the_reason(cluster: Any) -> None:
    cluster.node("n", taints=["mild:PreferNoSchedule", "a=1:NoSchedule", "b:NoExecute"])
    tolerations = [{"key": "a", "operator": "Exists"}]
    assert cluster.message() == "0/1 nodes are available: 1 node(s) had untolerated taint {a: 1}."
    assert cluster.message(tolerations=tolerations).endswith("1 node(s) had untolerated taint {b: }.")


def test_nodes_with_fewer_untolerated_mild_taints_are_better(cluster: Any) -> None:
    cluster.node("two", cpu="64", taints=["a:PreferNoSchedule", "b:PreferNoSchedule"])
    cluster.node("one", cpu="2", taints=["a:PreferNoSchedule"])
    assert cluster.schedule(cpu="1").node == "one"
    assert cluster.schedule(cpu="1", tolerations=[{"operator": "Exists"}]).node == "two"


def test_devices_that_a_pod_claims_are_allocated_by_nobody(cluster: Any) -> None:
    cluster.node("a")
    cluster.node("b", taints=["k=v:NoSchedule"])
    claims = [{"name": "gpu", "resourceClaimName": "gpu"}]
    assert (
        cluster.message(resourceClaims=claims)
        == "0/2 nodes are available: 1 cannot allocate all claims, 1 node(s) had untolerated taint {k: v}."
    )
    assert cluster.schedule().node == "a"


def test_a_cordoned_node_takes_only_pods_that_tolerate_it(cluster: Any) -> None:
    cluster.node("n", unschedulable=True)
    assert cluster.message() == "0/1 nodes are available: 1 node(s) were unschedulable."
    tolerations = [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}]
    assert cluster.schedule(tolerations=tolerations).node == "n"


def test_a_node_selector_must_match_every_label(cluster: Any) -> None:
    cluster.node("a", labels={"disk": "ssd"})
    cluster.node("b", labels={"disk": "ssd", "zone": "z1"})
    assert cluster.schedule(nodeSelector={"disk": "ssd", "zone": "z1"}).node == "b"
    assert (
        cluster.message(nodeSelector={"disk": "hdd"})
        == "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    )


@pytest.mark.parametrize(
    ("operator", "values", "matching"),
    [
        ("In", ["2", "3"], "b"),
        ("NotIn", ["2"], "acd"),
        ("Exists", [], "abd"),
        ("DoesNotExist", [], "c"),
        ("Gt", ["2"], "a"),
        ("Lt", ["10"], "b"),
        ("Gt", ["1"], "ab"),
        ("Gt", ["-5"], "ab"),
        ("Gt", ["1_0"], ""),
        ("Gt", ["x"], ""),
        ("Gt", ["1", "2"], ""),
        ("Like", ["2"], ""),
    ],
)
def test_affinity_operators_compare_labels(cluster: Any, operator: str, values: list[str], matching: str) -> None:
    for name, generation in {"a": "10", "b": "2", "c": None, "d": "two"}.items():
        cluster.node(name, labels={"gen": generation} if generation else {})
    verdict = cluster.decider.verdict(cluster.signature(affinity=affinity(label("gen", operator, *values))))
    assert "".join(sorted(name for name, row in cluster.snapshot.rows.items() if verdict.feasible[row])) == matching


def test_terms_are_alternatives_and_the_requirements_of_a_term_all_hold(cluster: Any) -> None:
    cluster.node("a", labels={"zone": "z1", "disk": "hdd"})
    cluster.node("b", labels={"zone": "z2", "disk": "ssd"})
    both = {
        "matchExpressions": label("zone", "In", "z1")["matchExpressions"] + label("disk", "Exists")["matchExpressions"]
    }
    assert cluster.schedule(affinity=affinity(both)).node == "a"
    assert cluster.schedule(affinity=affinity(label("zone", "In", "z9"), label("disk", "In", "ssd"))).node == "b"


def test_an_empty_term_matches_no_node(cluster: Any) -> None:
    cluster.node("n")
    assert "didn't match Pod's node affinity/selector" in cluster.message(affinity=affinity({}))


def test_match_fields_choose_nodes_by_name_and_the_others_are_not_looked_at(cluster: Any) -> None:
    for name in ("a", "b", "c"):
        cluster.node(name, cpu="1", taints=["k=v:NoSchedule"] if name == "c" else [])
    pinned = affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]})
    assert cluster.schedule(cpu="1", affinity=pinned).node == "b"
    assert (
        cluster.message(cpu="1", affinity=pinned)
        == "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    )
    others = affinity({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["a", "b"]}]})
    assert "1 node(s) had untolerated taint {k: v}, 2 node(s) didn't match" in cluster.message(affinity=others)


def test_preferred_terms_add_their_weights(cluster: Any) -> None:
    cluster.node("a", labels={"x": "1"})
    cluster.node("b", labels={"x": "1", "y": "1"})
    cluster.node("c", labels={"y": "1"})
    decision = cluster.schedule(affinity=preferring((10, label("x", "Exists")), (30, label("y", "Exists")), (5, {})))
    assert decision.node == "b"
    assert decision.feasible == 3


def test_when_the_best_preferred_node_is_full_the_others_scores_are_scaled_anew(cluster: Any) -> None:
    cluster.node("best", pods="1", labels={"x": "9"})
    cluster.node("good", labels={"y": "9"})
    cluster.node("poor", labels={})
    spec = {"affinity": preferring((90, label("x", "Exists")), (10, label("y", "Exists")))}
    signature = cluster.signature(**spec)
    assert cluster.schedule(**spec).node == "best"
    verdict = cluster.decider.verdict(signature)
    good, poor = (verdict.totals[cluster.snapshot.rows[name]] for name in ("good", "poor"))
    assert good - poor == 200


@pytest.mark.parametrize(
    ("wanted", "taken", "conflicts"),
    [
        (("0.0.0.0", "TCP", 80), ("10.0.0.1", "TCP", 80), True),
        (("10.0.0.1", "TCP", 80), ("0.0.0.0", "TCP", 80), True),
        (("", "", 80), ("", "", 80), True),
        (("10.0.0.1", "TCP", 80), ("10.0.0.1", "TCP", 80), True),
        (("10.0.0.1", "TCP", 80), ("10.0.0.2", "TCP", 80), False),
        (("0.0.0.0", "UDP", 80), ("0.0.0.0", "TCP", 80), False),
        (("0.0.0.0", "TCP", 81), ("0.0.0.0", "TCP", 80), False),
    ],
)
def test_host_ports_conflict_by_address_protocol_and_port(
    cluster: Any, wanted: tuple[str, str, int], taken: tuple[str, str, int], conflicts: bool
) -> None:
    def containers(address: str, protocol: str, port: int) -> list[dict[str, Any]]:
        return [{"ports": [{"containerPort": 1, "hostPort": port, "hostIP": address, "protocol": protocol}]}]

    cluster.node("n")
    present = cluster.place("n", containers=containers(*taken))
    if conflicts:
        expected = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
        assert cluster.message(containers=containers(*wanted)) == expected
        cluster.snapshot.remove(present)
    assert cluster.schedule(containers=containers(*wanted)).node == "n"


def test_a_port_of_two_users_is_taken_until_both_are_gone(cluster: Any) -> None:
    ports = [{"ports": [{"hostPort": 80}]}]
    cluster.node("n")
    first, second = (cluster.place("n", containers=ports) for _ in range(2))
    cluster.snapshot.remove(first)
    assert "free ports" in cluster.message(containers=ports)
    cluster.snapshot.remove(second)
    assert cluster.schedule(containers=ports).node == "n"


def test_the_node_with_the_most_left_over_is_best(cluster: Any) -> None:
    cluster.node("busy", cpu="4", memory="8Gi")
    cluster.node("idle", cpu="4", memory="8Gi")
    cluster.place("busy", cpu="2", memory="4Gi")
    decision = cluster.schedule(cpu="1", memory="2Gi")
    assert decision.node == "idle"
    assert decision.score == 300 + 75 + 100


def test_between_nodes_as_free_the_balanced_one_is_better(cluster: Any) -> None:
    cluster.node("skewed", cpu="10", memory="10Gi")
    cluster.node("even", cpu="10", memory="10Gi")
    cluster.place("skewed", cpu="8", memory="1Gi")
    cluster.place("even", cpu="4500m", memory="4608Mi")
    assert cluster.schedule(cpu="1", memory="1Gi").node == "even"


def test_ties_are_broken_by_the_randomness_that_is_passed_in(cluster: Any) -> None:
    for name in "abc":
        cluster.node(name, cpu="1000", memory="1000Gi")
    chosen = {cluster.schedule().node for _ in range(30)}
    assert chosen == {"a", "b", "c"}


def test_equal_pods_in_a_batch_spread_as_if_they_came_one_by_one(cluster: Any) -> None:
    for name in "abcd":
        cluster.node(name, cpu="2", memory="2Gi")
    signature = cluster.signature(cpu="500m", memory="512Mi")
    decisions = cluster.decider.decide([(f"default/{i}", signature) for i in range(17)], cluster.random)
    placed = [decision.node for decision in decisions]
    assert sorted(placed[:4]) == sorted(placed[4:8]) == ["a", "b", "c", "d"]
    assert all(placed[:16])
    assert placed[16] is None
