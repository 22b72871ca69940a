"""The numbers of a rollout, and the annotations and names that go with them."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.controllers.deployment import Observed, decide, decide_after_collision, decide_after_refusal
from controlplane.controllers.pods import created_at
from controlplane.controllers.revisions import (
    LONGEST_HISTORY,
    REVISION,
    REVISION_HISTORY,
    annotations_of_new,
    is_collision,
    new_replica_set,
    split_new,
    surplus_history,
)
from controlplane.controllers.rollout import fence_posts, scaled_sizes, size_of_new, sizes_of_old
from controlplane.controllers.templates import is_same_template, template_hash
from pyk.api.objects import name_of
from pyk.reconcile.actions import Create, Delete, Emit, Update, UpdateStatus
from tests.unit.controllers.documents import NOW, deployment, replica_set


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (10, "25%", "25%", (3, 2)),
        (1, "25%", "25%", (1, 0)),
        (10, 0, 0, (0, 1)),
        (10, "0%", "5%", (0, 1)),
        (3, 0, "100%", (0, 3)),
        (2, 1, 5, (1, 2)),
        (0, "25%", "25%", (0, 0)),
    ],
)
def test_percentages_round_surge_up_and_unavailability_down(
    replicas: int, surge: Any, unavailable: Any, expected: tuple[int, int]
) -> None:
    assert fence_posts(deployment(replicas=replicas, surge=surge, unavailable=unavailable)) == expected


def test_recreate_allows_neither() -> None:
    assert fence_posts(deployment(strategy={"type": "Recreate"})) == (0, 0)


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        ((0, 0), (10, 10), 3),
        ((3, 0), (8, 8), 5),
        ((3, 0), (10, 10), 3),
        ((12, 12), (0, 0), 10),
        ((5, 5), (0, 0), 10),
    ],
    ids=["surge first", "what the old ones left", "no room", "too many of the new", "all that is missing"],
)
def test_the_new_set_grows_into_the_room_there_is(new: tuple[int, int], old: tuple[int, int], expected: int) -> None:
    found = deployment(replicas=10, surge=3, unavailable=2)
    sets = [
        replica_set("new", replicas=new[0], available=new[1]),
        replica_set("old", replicas=old[0], available=old[1]),
    ]
    assert size_of_new(found, sets[0], sets[1:]) == expected


def test_pods_that_are_still_there_take_room_even_when_their_set_was_made_smaller() -> None:
    old = replica_set("old", replicas=8)
    old["status"]["replicas"] = 10
    found = deployment(replicas=10, surge=2, unavailable=2)
    assert size_of_new(found, replica_set("new", replicas=2), [old]) == 2


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        ((0, 0), [(10, 10)], {"old-0": 8}),
        ((4, 0), [(8, 8)], {}),
        ((5, 0), [(8, 3)], {}),
        ((5, 5), [(8, 3)], {"old-0": 3}),
        ((3, 3), [(4, 4), (4, 2)], {"old-0": 3, "old-1": 2}),
    ],
    ids=[
        "down to the minimum",
        "not below it",
        "sick pods count as long as nothing better is there",
        "sick pods go, then healthy ones that are replaced",
        "sick pods of any set go before healthy ones of the oldest",
    ],
)
def test_old_sets_shrink_as_the_minimum_allows(
    new: tuple[int, int], old: list[tuple[int, int]], expected: dict[str, int]
) -> None:
    found = deployment(replicas=10, surge=3, unavailable=2)
    olds = [replica_set(f"old-{index}", replicas=size, available=there) for index, (size, there) in enumerate(old)]
    assert sizes_of_old(found, replica_set("new", replicas=new[0], available=new[1]), olds) == expected


def test_a_late_status_does_not_give_up_pods_twice() -> None:
    """The old set went from 10 to 8, which its status does not show yet; one new pod is available."""
    old = replica_set("old", replicas=8)
    old["status"] = {"replicas": 10, "availableReplicas": 10}
    found = deployment(replicas=10, surge=0, unavailable=2)
    assert sizes_of_old(found, replica_set("new", replicas=2, available=1), [old]) == {"old": 7}


def test_scaling_keeps_proportions_and_gives_the_rest_to_the_largest() -> None:
    noted = {"annotations": {"deployment.kubernetes.io/max-replicas": "13"}}
    sets = [replica_set("old", replicas=8, **noted), replica_set("new", replicas=5, available=0, **noted)]
    found = deployment(replicas=30, surge=3, unavailable=2)
    assert scaled_sizes(found, sets[1], sets[:1]) == {"old": 20, "new": 13}
    found = deployment(replicas=0, surge=3, unavailable=2)
    assert scaled_sizes(found, sets[1], sets[:1]) == {"old": 0, "new": 0}


def test_a_saturated_new_set_ends_the_old_ones_on_scaling() -> None:
    sets = [replica_set("old", replicas=2), replica_set("new", replicas=3)]
    assert scaled_sizes(deployment(replicas=3), sets[1], sets[:1]) == {"old": 0}


def test_templates_are_the_same_but_for_the_hash_label_and_empty_fields() -> None:
    template = deployment()["spec"]["template"]
    labelled = {**template, "metadata": {"labels": {"app": "web", "pod-template-hash": "x"}, "creationTimestamp": None}}
    assert is_same_template(template, {**labelled, "spec": {**template["spec"], "securityContext": {}}})
    assert not is_same_template(template, deployment(image="b")["spec"]["template"])
    assert template_hash(template) == template_hash(labelled) != template_hash(template, 1)
    assert template_hash(template) != template_hash(deployment(image="b")["spec"]["template"])


def test_the_new_set_is_named_and_selected_by_its_hash() -> None:
    found = deployment(replicas=3, surge=1)
    found["metadata"]["annotations"] = {
        "kubernetes.io/change-cause": "why",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
    }
    made = new_replica_set(found, [replica_set("old", annotations={REVISION: "4"})], 1)
    hashed = template_hash(found["spec"]["template"])
    assert name_of(made) == f"web-{hashed}"
    labels = {"app": "web", "pod-template-hash": hashed}
    assert made["metadata"]["labels"] == made["spec"]["template"]["metadata"]["labels"] == labels
    assert made["spec"]["selector"]["matchLabels"] == labels
    assert made["metadata"]["annotations"] == {
        "kubernetes.io/change-cause": "why",
        REVISION: "5",
        "deployment.kubernetes.io/desired-replicas": "3",
        "deployment.kubernetes.io/max-replicas": "4",
    }


def test_a_set_that_becomes_the_new_one_again_remembers_its_revisions() -> None:
    other = replica_set("other", annotations={REVISION: "7"})
    again = replica_set("again", annotations={REVISION: "3", REVISION_HISTORY: "1"})
    annotations = annotations_of_new(deployment(), again, [other])
    assert (annotations[REVISION], annotations[REVISION_HISTORY]) == ("8", "1,3")
    long = ",".join(str(number) for number in range(1000, 1400))
    again["metadata"]["annotations"][REVISION_HISTORY] = long
    history = annotations_of_new(deployment(), again, [other])[REVISION_HISTORY]
    assert len(history) <= LONGEST_HISTORY
    assert history.endswith(",1399,3")


def test_the_oldest_of_several_sets_with_the_template_is_the_new_one() -> None:
    young, old = replica_set("young", creationTimestamp="2026-01-02T00:00:00Z"), replica_set("old")
    assert created_at(old) < created_at(young)
    new, others = split_new(deployment(), [young, old])
    assert new is old
    assert others == [young]


def test_only_empty_sets_that_are_seen_to_be_so_are_cleaned_up() -> None:
    def old(name: str, revision: int, **more: Any) -> Any:
        return replica_set(name, replicas=0, annotations={REVISION: str(revision)}, **more)

    unseen = old("unseen", 2)
    unseen["metadata"]["generation"] = 2
    sets = [old("kept", 9), old("first", 1), unseen, replica_set("alive", annotations={REVISION: "3"})]
    assert [name_of(each) for each in surplus_history(deployment(revisionHistoryLimit=1), sets)] == ["first"]
    assert surplus_history(deployment(revisionHistoryLimit=None), sets) == []


def test_a_taken_name_is_a_collision_unless_it_is_our_own_set() -> None:
    found = deployment()
    assert not is_collision(found, replica_set("web-x"))
    assert is_collision(found, replica_set("web-x", image="b"))
    assert is_collision(found, {**replica_set("web-x"), "metadata": {"name": "web-x"}})
    (action,) = decide_after_collision(found)
    assert isinstance(action, UpdateStatus)
    assert action.obj["status"]["collisionCount"] == 1
    named = new_replica_set(action.obj, [], 1)
    assert name_of(named) != name_of(new_replica_set(found, [], 1))


def test_a_refused_set_is_told_once() -> None:
    found = deployment()
    told = decide_after_refusal(found, replica_set("web-x"), "no", NOW)
    assert isinstance(told[1], UpdateStatus)
    (condition,) = told[1].obj["status"]["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", "ReplicaSetCreateError")
    again = decide_after_refusal(told[1].obj, replica_set("web-x"), "no", NOW + 5)
    assert [type(action) for action in again] == [Emit]


def test_a_selector_of_everything_is_refused_with_an_event() -> None:
    found = deployment(selector={})
    actions = decide(Observed(found, [], NOW))
    assert isinstance(actions[0], Emit)
    assert actions[0].reason == "SelectingAll"
    assert not [action for action in actions if isinstance(action, Create)]


def test_a_deployment_that_is_being_deleted_only_counts() -> None:
    found = deployment()
    found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    actions = decide(Observed(found, [replica_set("web-x", image="b")], NOW))
    assert [type(action) for action in actions] == [UpdateStatus]


def test_min_ready_seconds_reach_the_new_set() -> None:
    found = deployment(minReadySeconds=7)
    first = [action for action in decide(Observed(found, [replica_set("web-x")], NOW)) if isinstance(action, Update)]
    assert [action.obj["spec"]["minReadySeconds"] for action in first] == [7]


def test_without_a_progress_deadline_there_is_no_progress_condition() -> None:
    found = deployment(progressDeadlineSeconds=None)
    actions = decide(Observed(found, [replica_set("web-x")], NOW))
    (status,) = [action.obj["status"] for action in actions if isinstance(action, UpdateStatus)]
    assert [condition["type"] for condition in status["conditions"]] == ["Available"]


def test_a_failing_set_shows_in_the_deployment() -> None:
    failing = replica_set("web-x", replicas=3, available=0)
    failing["status"]["conditions"] = [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}]
    actions = decide(Observed(deployment(), [failing], NOW))
    (status,) = [action.obj["status"] for action in actions if isinstance(action, UpdateStatus)]
    assert ("ReplicaFailure", "FailedCreate") in [(each["type"], each["reason"]) for each in status["conditions"]]


def test_history_is_not_touched_while_the_rollout_is_under_way() -> None:
    sets = [replica_set("web-x", replicas=1, available=0), replica_set("old", replicas=0, image="b")]
    actions = decide(Observed(deployment(revisionHistoryLimit=0), sets, NOW))
    assert not [action for action in actions if isinstance(action, Delete)]
