"""Node-pressure eviction: thresholds, conditions, whom to end and in which words, limits of local storage."""

from __future__ import annotations

from typing import Any

import pytest

from agent.eviction.decide import Judgement, Past, are_resolved, judge
from agent.eviction.localstorage import PodSpace, Space, excess, is_limited
from agent.eviction.ranking import Candidate, Used, message, ranked, refusal
from agent.eviction.thresholds import Observation, Threshold, for_pods, thresholds
from pyk.api.objects import Object

GI, MI, KI = 1 << 30, 1 << 20, 1 << 10
HARD = thresholds({"memory.available": "100Mi", "nodefs.available": "10%"}, {}, {}, {})


def left(**values: int) -> dict[str, Observation]:
    names = {"memory": "memory.available", "disk": "nodefs.available"}
    return {names[name]: Observation(value, GI) for name, value in values.items()}


PLENTY = left(memory=GI, disk=GI)


@pytest.mark.parametrize(
    ("hard", "soft", "grace", "wrong"),
    [
        pytest.param({"memory.free": "1Gi"}, {}, {}, "unknown eviction signal", id="no such signal"),
        pytest.param({"memory.available": "lots"}, {}, {}, "quantities must match", id="no quantity"),
        pytest.param({"memory.available": "101%"}, {}, {}, ">= 0% and <= 100%", id="more than all"),
        pytest.param({"memory.available": "-1"}, {}, {}, "must be positive", id="less than nothing"),
        pytest.param({}, {"memory.available": "1Gi"}, {}, "grace period must be specified", id="soft without grace"),
    ],
)
def test_a_bad_threshold_is_refused(hard: Any, soft: Any, grace: Any, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        thresholds(hard, soft, grace, {})


def test_a_share_of_nothing_or_of_all_is_no_threshold() -> None:
    assert thresholds({"nodefs.available": "0%", "imagefs.available": "100%"}, {}, {}, {}) == ()


def look(configured: tuple[Threshold, ...], seen: Any, past: Past | Judgement, now: float) -> Judgement:
    return judge(configured, seen, past.past if isinstance(past, Judgement) else past, now, 60.0)


def test_a_hard_threshold_acts_at_once_and_its_condition_holds_on() -> None:
    first = look(HARD, left(memory=99 * MI, disk=GI), Past(), 0.0)
    assert first.conditions == ("MemoryPressure",)
    assert [each.signal for each in first.due] == ["memory.available"]
    second = look(HARD, PLENTY, first, 10.0)
    assert (second.conditions, second.due) == (("MemoryPressure",), ())
    assert look(HARD, PLENTY, second, 60.0).conditions == ()


def test_a_soft_threshold_acts_after_its_grace_but_tells_at_once() -> None:
    soft = thresholds({}, {"memory.available": "500Mi"}, {"memory.available": 30.0}, {})
    low = left(memory=400 * MI)
    first = look(soft, low, Past(), 0.0)
    assert (first.conditions, first.due) == (("MemoryPressure",), ())
    late = look(soft, low, look(soft, low, first, 20.0), 30.0)
    assert [each.signal for each in late.due] == ["memory.available"]
    relieved = look(soft, PLENTY, first, 20.0)
    assert look(soft, low, relieved, 30.0).due == ()  # the time begins anew


def test_memory_goes_before_disk() -> None:
    found = look(HARD, left(memory=1, disk=1), Past(), 0.0)
    assert found.conditions == ("DiskPressure", "MemoryPressure")
    assert [each.signal for each in found.due] == ["memory.available", "nodefs.available"]


def test_a_threshold_is_over_when_the_minimal_reclaim_is_there_too() -> None:
    configured = thresholds({"memory.available": "100Mi"}, {}, {}, {"memory.available": "50Mi"})
    assert look(configured, left(memory=120 * MI), Past(), 0.0).due == ()
    short = look(configured, left(memory=90 * MI), Past(), 0.0)
    still = look(configured, left(memory=120 * MI), short, 10.0)
    assert len(still.due) == 1
    assert not are_resolved(still.due, left(memory=149 * MI))
    assert are_resolved(still.due, left(memory=150 * MI))
    assert look(configured, left(memory=150 * MI), still, 20.0).due == ()


def test_the_pods_own_group_is_watched_like_the_node() -> None:
    configured = for_pods(HARD)
    seen = PLENTY | {"allocatableMemory.available": Observation(99 * MI, GI)}
    assert look(configured, seen, Past(), 0.0).conditions == ("MemoryPressure",)


def pod(name: str, *, priority: int = 0, **resources: Any) -> Object:
    container = {"name": "c", "resources": resources}
    return {
        "metadata": {"name": name, "namespace": "n", "uid": name},
        "spec": {"containers": [container], "priority": priority},
    }


def candidate(name: str, memory: int = 0, *, pids: int = 0, storage: int = 0, **more: Any) -> Candidate:
    used = Used(memory=memory, pids=pids, storage=storage)
    return Candidate(name, pod(name, **more), used, {"c": used})


def test_those_who_exceed_their_requests_go_first_then_the_least_important_then_the_largest() -> None:
    asks = {"requests": {"memory": "1Gi"}}
    found = ranked(
        [
            candidate("within its request", 900 * MI, **asks),
            candidate("far within", 100 * MI, priority=-5, **asks),
            candidate("best effort, important", 500 * MI, priority=100),
            candidate("best effort", 200 * MI),
            candidate("best effort, larger", 300 * MI),
            candidate("critical", 9 * GI, priority=2_000_000_000),
        ],
        "memory",
    )
    assert [each.uid for each in found] == [
        "best effort, larger",
        "best effort",
        "best effort, important",
        "far within",
        "within its request",
    ]


def test_processes_go_by_priority_and_number() -> None:
    found = ranked(
        [candidate("few", pids=5), candidate("many", pids=9), candidate("vital", pids=99, priority=1)], "pids"
    )
    assert [each.uid for each in found] == ["many", "few", "vital"]


def test_disk_goes_by_what_exceeds_the_request() -> None:
    asks = {"requests": {"ephemeral-storage": "1Gi"}}
    found = ranked([candidate("asked", storage=GI, **asks), candidate("not", storage=MI)], "ephemeral-storage")
    assert [each.uid for each in found] == ["not", "asked"]


def test_the_message_is_the_kubelets() -> None:
    seen = {"memory.available": Observation(90 * MI + 1, 2 * GI)}
    victim = candidate("v", 300 * MI, requests={"memory": "100Mi"})
    assert message(victim, HARD[0], "memory", seen) == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. "
        "Container c was using 300Mi, request is 100Mi, has larger consumption of memory. "
    )
    modest = candidate("v", 50 * MI, requests={"memory": "100Mi"})
    assert message(modest, HARD[0], "memory", {}) == "The node was low on resource: memory. "
    pids = thresholds({"pid.available": "10"}, {}, {}, {})[0]
    assert message(candidate("v", pids=7), pids, "pids", {"pid.available": Observation(3, 100)}) == (
        "The node was low on resource: pids. Threshold quantity: 10, available: 0. "
    )


TOLERATES = [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}]


@pytest.mark.parametrize(
    ("which", "conditions", "refused"),
    [
        pytest.param(pod("p"), (), False, id="no pressure"),
        pytest.param(pod("p"), ("MemoryPressure",), True, id="best effort"),
        pytest.param(pod("p", requests={"memory": "1Mi"}), ("MemoryPressure",), False, id="burstable"),
        pytest.param(pod("p", requests={"memory": "1Mi"}), ("DiskPressure",), True, id="disk is for all"),
        pytest.param(pod("p", priority=2_000_000_000), ("DiskPressure",), False, id="critical"),
        pytest.param(
            {"spec": {"containers": [], "tolerations": TOLERATES}, "metadata": {}},
            ("MemoryPressure",),
            False,
            id="tolerates",
        ),
    ],
)
def test_a_node_under_pressure_takes_no_pod_that_would_add_to_it(
    which: Object, conditions: tuple[str, ...], refused: bool
) -> None:
    assert (refusal(which, conditions) is not None) is refused


def test_the_refusal_is_the_kubelets() -> None:
    assert refusal(pod("p"), ("PIDPressure", "DiskPressure")) == (
        "The node had condition: [DiskPressure PIDPressure]. "
    )


def storing(limits: list[str | None], size_limit: str = "", medium: str = "") -> Object:
    containers = [
        {"name": f"c{index}", "resources": {"limits": {"ephemeral-storage": limit}} if limit else {}}
        for index, limit in enumerate(limits)
    ]
    empty = {"sizeLimit": size_limit, "medium": medium} if size_limit else {}
    return {"metadata": {}, "spec": {"containers": containers, "volumes": [{"name": "v", "emptyDir": empty}]}}


def space(layers: dict[str, int], logs: dict[str, int] | None = None, volume: int = 0) -> PodSpace:
    def of(sizes: dict[str, int]) -> dict[str, Space]:
        return {name: Space(size, 1) for name, size in sizes.items()}

    return PodSpace(of(layers), of(logs or {}), of({"v": volume}))


@pytest.mark.parametrize(
    ("which", "used", "why"),
    [
        pytest.param(storing(["1Mi"]), space({"c0": MI}), None, id="just within"),
        pytest.param(
            storing([None], "10Mi"),
            space({}, volume=10 * MI + 1),
            'Usage of EmptyDir volume "v" exceeds the limit "10Mi". ',
            id="a volume",
        ),
        pytest.param(storing([None], "10Mi", "Memory"), space({}, volume=11 * MI), None, id="memory has its own size"),
        pytest.param(
            storing(["1Mi", "1Mi"]),
            space({"c0": MI, "c1": MI}, volume=1),
            "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ",
            id="the pod as a whole",
        ),
        pytest.param(
            storing(["1Mi", "5Mi"]),
            space({"c0": MI - 1}, {"c0": 2}),
            'Container c0 exceeded its local ephemeral storage limit "1Mi". ',
            id="layer and logs of one container",
        ),
        pytest.param(storing([None]), space({"c0": GI}), None, id="no limit"),
    ],
)
def test_limits_of_local_storage(which: Object, used: PodSpace, why: str | None) -> None:
    assert excess(which, used) == why


def test_only_pods_with_limits_are_looked_at() -> None:
    assert not is_limited(storing([None]))
    assert not is_limited(storing([None], "1Mi", "Memory"))
    assert is_limited(storing([None], "1Mi"))
    assert is_limited(storing([None, "1Mi"]))
