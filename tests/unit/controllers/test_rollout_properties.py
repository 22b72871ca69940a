"""Whatever happens in whatever order, a rolling update keeps its two promises and comes to its end.

The model: ReplicaSets with pods that become ready one by one, or never when their image is broken. Hypothesis chooses
sizes, limits and the order in which the Deployment loop, each ReplicaSet's loop, and readiness take their turns; so
statuses are as late as they like.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.controllers.deployment import Observed, decide
from controlplane.controllers.rollout import fence_posts, size
from pyk.api.objects import Object, name_of
from pyk.reconcile.actions import Create, Delete, Patch, Update, UpdateStatus
from tests.unit.controllers.documents import NOW, deployment

LIMITS = st.one_of(st.integers(0, 4), st.sampled_from(["0%", "25%", "50%", "100%"]))


@dataclass
class Model:
    """A Deployment, its sets, and for each set its pods: True for a ready one."""

    deployment: Object
    sets: dict[str, Object] = field(default_factory=dict)
    pods: dict[str, list[bool]] = field(default_factory=dict)
    ticks: int = 0

    @property
    def total(self) -> int:
        return sum(map(len, self.pods.values()))

    @property
    def available(self) -> int:
        return sum(map(sum, self.pods.values()))

    def deploy(self) -> bool:
        """One step of the Deployment loop; whether it did anything."""
        actions = decide(Observed(self.deployment, list(self.sets.values()), NOW + self.ticks))
        for action in actions:
            match action:
                case Create(obj):
                    self.ticks += 1
                    created = copy.deepcopy(obj)
                    created["metadata"] |= {"uid": f"uid-{name_of(obj)}", "resourceVersion": "1", "generation": 1}
                    created["metadata"]["creationTimestamp"] = f"2026-01-01T00:00:{self.ticks % 60:02}Z"
                    self.sets[name_of(obj)] = created
                    self.pods[name_of(obj)] = []
                case Update(obj):
                    self.sets[name_of(obj)] = copy.deepcopy(obj)
                    self.sets[name_of(obj)]["metadata"]["generation"] += 1
                case UpdateStatus(obj):
                    self.deployment = copy.deepcopy(obj)
                case Patch():
                    assert isinstance(action.patch, dict)
                    self.deployment["metadata"]["annotations"] = action.patch["metadata"]["annotations"]
                case Delete():
                    del self.sets[action.name], self.pods[action.name]
        return bool(actions)

    def replicate(self, index: int) -> bool:
        """One step of a ReplicaSet's loop: pods come or go (unready ones first), then the status is written."""
        if not self.sets:
            return False
        name = sorted(self.sets)[index % len(self.sets)]
        replica_set, pods = self.sets[name], self.pods[name]
        pods.sort(reverse=True)
        wanted = size(replica_set)
        self.pods[name] = (pods + [False] * (wanted - len(pods)))[:wanted]
        ready = sum(self.pods[name])
        status: dict[str, Any] = {
            "replicas": wanted,
            "readyReplicas": ready,
            "availableReplicas": ready,
            "observedGeneration": replica_set["metadata"]["generation"],
        }
        if replica_set.get("status") == status:
            return False
        self.sets[name] = {**replica_set, "status": status}
        return True

    def get_ready(self, index: int) -> bool:
        """One pod becomes ready, unless its image is broken."""
        for name in sorted(self.sets)[index % max(1, len(self.sets)) :]:
            image = self.sets[name]["spec"]["template"]["spec"]["containers"][0]["image"]
            if image != "broken" and False in self.pods[name]:
                self.pods[name][self.pods[name].index(False)] = True
                return True
        return False

    def settle(self) -> None:
        """Everybody takes turns until nobody has anything left to do."""
        for _ in range(300):
            moved = self.deploy()
            for index in range(len(self.sets)):
                moved |= self.replicate(index)
                moved |= self.get_ready(index)
            if not moved:
                return
        raise AssertionError("it never came to rest")


TURNS = st.lists(
    st.one_of(
        st.tuples(st.just("deploy"), st.just(0)),
        st.tuples(st.just("replicate"), st.integers(0, 3)),
        st.tuples(st.just("get ready"), st.integers(0, 3)),
        st.tuples(st.just("image"), st.integers(0, 3)),
    ),
    max_size=60,
)
IMAGES = ["a", "b", "c", "broken"]


@settings(max_examples=150, deadline=None)
@given(replicas=st.integers(1, 8), surge=LIMITS, unavailable=LIMITS, turns=TURNS)
def test_an_update_never_has_too_many_pods_nor_too_few_available_ones(
    replicas: int, surge: Any, unavailable: Any, turns: list[tuple[str, int]]
) -> None:
    model = Model(deployment(replicas=replicas, surge=surge, unavailable=unavailable))
    model.settle()
    assert model.available == replicas
    extra, missing = fence_posts(model.deployment)
    for turn, number in turns:
        before = model.available
        match turn:
            case "deploy":
                model.deploy()
            case "replicate":
                model.replicate(number)
            case "get ready":
                model.get_ready(number)
            case "image":
                spec = model.deployment["spec"]
                spec["template"]["spec"]["containers"][0]["image"] = IMAGES[number]
                model.deployment["metadata"]["generation"] += 1
        assert model.total <= replicas + extra
        assert model.available >= min(before, replicas - missing)


@settings(max_examples=100, deadline=None)
@given(
    replicas=st.integers(0, 8),
    after=st.integers(0, 8),
    surge=LIMITS,
    unavailable=LIMITS,
    turns=TURNS,
    strategy=st.sampled_from(["RollingUpdate", "Recreate"]),
)
def test_a_deployment_always_comes_to_its_newest_template_and_size(
    replicas: int, after: int, surge: Any, unavailable: Any, turns: list[tuple[str, int]], strategy: str
) -> None:
    model = Model(deployment(replicas=replicas, surge=surge, unavailable=unavailable))
    if strategy == "Recreate":
        model.deployment["spec"]["strategy"] = {"type": "Recreate"}
    container = model.deployment["spec"]["template"]["spec"]["containers"][0]
    for turn, number in turns:
        match turn:
            case "deploy":
                model.deploy()
            case "replicate":
                model.replicate(number)
            case "get ready":
                model.get_ready(number)
            case "image":
                container = model.deployment["spec"]["template"]["spec"]["containers"][0]
                container["image"] = IMAGES[number]
    model.deployment["spec"]["replicas"] = after
    model.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "last"
    model.settle()
    alive = {name: pods for name, pods in model.pods.items() if pods}
    assert model.available == model.total == after
    images = {model.sets[name]["spec"]["template"]["spec"]["containers"][0]["image"] for name in alive}
    assert images <= {"last"}
    assert model.deployment["status"]["updatedReplicas"] == after
