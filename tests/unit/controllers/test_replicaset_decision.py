"""What the ReplicaSet loop decides, what it claims, and what it expects of a late cache."""

from __future__ import annotations

import asyncio
from typing import Any

from controlplane.controllers.claims import claim, claim_actions
from controlplane.controllers.expectations import OVERDUE_SECONDS, Expectations
from controlplane.controllers.podcontrol import BURST, new_pod
from controlplane.controllers.replicaset import (
    Failure,
    Observed,
    decide,
    decide_status,
    seconds_to_availability,
)
from pyk.api.kinds import POD
from pyk.api.objects import Object, is_deleting, name_of, uid_of
from pyk.api.selectors import from_document
from pyk.client.informer import Informer
from pyk.reconcile.actions import Create, Delete, Patch, UpdateStatus
from pyk.reconcile.clock import VirtualClock, timestamp
from tests.unit.controllers.documents import NOW, pod, replica_set

SET = replica_set("web")
SELECTOR = from_document({"matchLabels": {"app": "web"}}) or ()


def test_the_difference_is_created_or_deleted_in_bounds() -> None:
    assert len(decide(Observed(replica_set("web", replicas=5), [pod("a")], NOW))) == 4
    assert len(decide(Observed(replica_set("web", replicas=5000), [], NOW))) == BURST
    many = [pod(f"p{number}") for number in range(BURST + 10)]
    assert len(decide(Observed(replica_set("web", replicas=1), many, NOW))) == BURST
    assert decide(Observed(SET, [pod("a"), pod("b"), pod("c")], NOW)) == []


def test_pods_that_leave_or_ended_are_replaced_and_not_counted() -> None:
    leaving = pod("leaving", deletionTimestamp=timestamp(NOW))
    ended = {**pod("ended"), "status": {"phase": "Failed"}}
    actions = decide(Observed(replica_set("web", replicas=2), [pod("a"), leaving, ended], NOW))
    assert [type(action) for action in actions] == [Create]
    (written,) = decide_status(Observed(replica_set("web", replicas=2), [pod("a", ready=5), leaving, ended], NOW), None)
    assert isinstance(written, UpdateStatus)
    status = written.obj["status"]
    assert (status["replicas"], status["readyReplicas"], status["terminatingReplicas"]) == (1, 1, 1)


def test_a_set_that_is_being_deleted_leaves_its_pods_alone() -> None:
    leaving = replica_set("web", deletionTimestamp=timestamp(NOW))
    assert decide(Observed(leaving, [], NOW)) == []


def test_a_pod_whose_deletion_got_no_answer_is_chosen_again() -> None:
    pods = [pod("ready", ready=600), pod("unready")]
    actions = decide(Observed(replica_set("web", replicas=1), pods, NOW, condemned=frozenset({"uid-ready"})))
    assert [action.name for action in actions if isinstance(action, Delete)] == ["ready"]


def test_a_new_pod_carries_the_template_and_its_owner() -> None:
    made = new_pod(SET, SET["spec"]["template"])
    assert made["metadata"]["generateName"] == "web-"
    assert made["metadata"]["labels"] == {"app": "web"}
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == ("uid-web", True, True)


def test_the_status_is_written_only_when_it_says_something_new() -> None:
    observed = Observed(replica_set("web", replicas=1), [pod("a", ready=5, owner=SET)], NOW)
    (written,) = decide_status(observed, None)
    assert isinstance(written, UpdateStatus)
    assert decide_status(Observed(written.obj, observed.pods, NOW + 1), None) == []
    failed = decide_status(Observed(written.obj, observed.pods, NOW), Failure("FailedCreate", "quota"))
    assert isinstance(failed[0], UpdateStatus)
    later = Observed(failed[0].obj, observed.pods, NOW + 60)
    assert decide_status(later, Failure("FailedCreate", "quota, other pod")) == []


def test_the_set_is_looked_at_again_when_the_next_pod_becomes_available_by_age() -> None:
    found = replica_set("web", replicas=2)
    found["spec"]["minReadySeconds"] = 30
    assert seconds_to_availability(Observed(found, [pod("a", ready=5), pod("b", ready=20)], NOW)) == 10
    assert seconds_to_availability(Observed(found, [pod("a", ready=40)], NOW)) is None


def test_claims_adopt_orphans_release_strangers_and_ignore_what_others_own() -> None:
    mine, orphan = pod("mine", owner=SET), pod("orphan")
    stranger = {**pod("stranger", owner=SET)}
    stranger["metadata"]["labels"] = {"app": "other"}
    others = pod("others", owner=replica_set("rival"))
    leaving = pod("leaving", deletionTimestamp=timestamp(NOW))
    claims = claim(SET, SELECTOR, [mine, orphan, stranger, others, leaving])
    assert [name_of(each) for each in claims.owned] == ["mine", "orphan"]
    assert [name_of(each) for each in claims.without_adoption().owned] == ["mine"]
    adoption, release = claim_actions(SET, claims)
    assert isinstance(adoption, Patch)
    assert isinstance(release, Patch)
    assert isinstance(adoption.patch, dict)
    assert isinstance(release.patch, dict)
    assert adoption.patch["metadata"]["ownerReferences"][0]["uid"] == "uid-web"
    assert release.patch["metadata"]["ownerReferences"] == [{"$patch": "delete", "uid": "uid-web"}]
    assert adoption.patch["metadata"]["resourceVersion"] == "1"


def test_an_owner_that_is_being_deleted_neither_adopts_nor_releases() -> None:
    leaving = replica_set("web", deletionTimestamp=timestamp(NOW))
    stranger = pod("stranger", owner=SET)
    stranger["metadata"]["labels"] = {}
    claims = claim(leaving, SELECTOR, [pod("orphan"), stranger])
    assert (claims.owned, claims.adopt, claims.release) == ((), (), ())


class Late:
    """An informer that hears what the test says, and expectations over it."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        nobody: Any = None
        self.informer = Informer(nobody, POD, clock=self.clock)
        self.expectations = Expectations(self.informer, self.clock)

    def hear(self, obj: Object) -> None:
        self.informer._put(f"default/{name_of(obj)}", obj)

    def seen(self) -> list[tuple[str, bool]]:
        found = self.expectations.overlay("default/web", self.informer.values())
        return sorted((name_of(obj), is_deleting(obj)) for obj in found)


async def test_what_was_created_is_there_until_the_cache_shows_it_and_then_as_the_cache_has_it() -> None:
    late = Late()
    late.expectations.expect_creation("default/web", pod("a"))
    assert late.seen() == [("a", False)]
    late.hear(pod("a"))
    assert late.seen() == [("a", False)]
    late.informer._remove("default/a")
    assert late.seen() == []


async def test_an_answer_that_comes_after_the_event_expects_nothing() -> None:
    late = Late()
    late.hear(pod("a"))
    late.expectations.expect_creation("default/web", pod("a"))
    late.informer._remove("default/a")
    assert late.seen() == []


async def test_what_was_deleted_is_leaving_until_the_cache_shows_it() -> None:
    late = Late()
    late.hear(pod("a"))
    late.expectations.expect_deletion("default/web", "default/a", "uid-a")
    assert late.seen() == [("a", True)]
    late.hear(pod("a", resourceVersion="2"))
    assert late.seen() == [("a", True)], "an older change that comes late is not the deletion"
    late.informer._remove("default/a")
    late.hear(pod("a", uid="another"))
    assert late.seen() == [("a", False)]


async def test_a_deletion_that_the_cache_shows_already_is_not_waited_for() -> None:
    late = Late()
    late.hear(pod("a"))
    late.informer._remove("default/a")
    late.expectations.expect_deletion("default/web", "default/a", "uid-a")
    assert late.expectations._pending == {}
    assert late.expectations._owner_of == {}


async def test_a_creation_that_is_never_seen_is_overdue_at_last() -> None:
    late = Late()
    late.expectations.expect_creation("default/web", pod("a"))
    assert late.expectations.overdue("default/web") == []
    assert late.expectations.seconds_to_overdue("default/web") == OVERDUE_SECONDS
    await asyncio.gather(late.clock.advance(OVERDUE_SECONDS))
    (overdue,) = late.expectations.overdue("default/web")
    late.expectations.forget(uid_of(overdue))
    assert late.seen() == []
    assert late.expectations.seconds_to_overdue("default/web") is None


async def test_names_and_uids_of_unanswered_writes_are_kept_for_the_next_try() -> None:
    late = Late()
    late.hear(pod("a"))
    late.expectations.doubt_creation("default/web", "web-x")
    late.expectations.doubt_deletion("default/web", "default/a", "uid-a")
    assert late.expectations.condemned("default/web") == {"uid-a"}
    assert late.expectations.take_unsure("default/web") == "web-x"
    assert late.expectations.take_unsure("default/web") is None
    late.expectations.forget_owner("default/web")
    assert late.expectations.condemned("default/web") == frozenset()


async def test_the_name_of_an_unanswered_creation_is_used_again_for_the_same_place_only() -> None:
    late = Late()
    late.expectations.doubt_creation("default/web", "web-a", "node-1")
    late.expectations.doubt_creation("default/web", "web-b", "node-2")
    assert late.expectations.take_unsure("default/web", "web-", "node-3") is None
    assert late.expectations.take_unsure("default/web", "web-", "node-2") == "web-b"
    assert late.expectations.take_unsure("default/web", "web-", "node-1") == "web-a"
