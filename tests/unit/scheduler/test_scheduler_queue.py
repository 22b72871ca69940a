"""Who is looked at next, who waits, and who comes back when."""

from __future__ import annotations

import random
from typing import Any

import pytest

from scheduler.queue import FLUSH_SECONDS, SchedulingQueue
from scheduler.signature import Signature, Signatures


@pytest.fixture
def queue() -> SchedulingQueue:
    return SchedulingQueue()


SIGNATURES = Signatures()


def sized(cpu: str) -> Signature:
    return SIGNATURES.of({"metadata": {}, "spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}]}})


SMALL, LARGE = sized("1"), sized("9")


def add(queue: SchedulingQueue, *names: str, priority: int = 0, signature: Signature = SMALL, now: float = 0.0) -> None:
    for name in names:
        queue.add(name, f"uid-{name}", signature, priority, now)


def names(pods: list[Any]) -> list[str]:
    return [pod.key for pod in pods]


def park_all(queue: SchedulingQueue, now: float) -> None:
    for pod in queue.pop(1000, now):
        queue.park(pod, now)


def test_higher_priority_comes_first_then_who_came_first(queue: SchedulingQueue) -> None:
    add(queue, "a", "b")
    add(queue, "urgent", priority=100)
    add(queue, "c")
    add(queue, "idle", priority=-1)
    assert names(queue.pop(3, 0)) == ["urgent", "a", "b"]
    assert names(queue.pop(9, 0)) == ["c", "idle"]
    assert queue.pop(9, 0) == []


def test_a_pod_told_twice_waits_once(queue: SchedulingQueue) -> None:
    add(queue, "a", "a")
    assert names(queue.pop(9, 0)) == ["a"]
    assert len(queue) == 0


def test_a_removed_pod_is_not_handed_out_whatever_part_it_was_in(queue: SchedulingQueue) -> None:
    add(queue, "active", "parked", "failed")
    pods = {pod.key: pod for pod in queue.pop(9, 0)}
    queue.park(pods["parked"], 0)
    queue.retry(pods["failed"], 0)
    add(queue, "active")
    for key in ("active", "parked", "failed", "never-there"):
        queue.remove(key)
    assert queue.next_change(0) is None
    assert queue.wake(lambda _: 9, 0) == 0
    assert queue.pop(9, 1000) == []
    assert queue.sizes() == {"active": 0, "backoff": 0, "unschedulable": 0}


def test_an_unschedulable_pod_waits_for_a_change_that_could_help(queue: SchedulingQueue) -> None:
    add(queue, "small", signature=SMALL)
    add(queue, "large", signature=LARGE)
    park_all(queue, 0)
    assert queue.pop(9, 100) == []
    assert queue.wake(lambda pod: 0, 100) == 0
    assert queue.wake(lambda pod: 5 if pod.signature is SMALL else 0, 100) == 1
    assert names(queue.pop(9, 100)) == ["small"]


def test_only_as_many_come_back_as_there_may_be_room_for_the_most_important_first(queue: SchedulingQueue) -> None:
    for number in range(1000):
        add(queue, f"p{number:03}", priority=number % 10)
    park_all(queue, 0)
    assert queue.wake(lambda _: 3, 50) == 3
    assert names(queue.pop(9, 50)) == ["p009", "p019", "p029"]
    assert queue.sizes()["unschedulable"] == 997


def test_after_five_minutes_a_pod_comes_back_in_any_case(queue: SchedulingQueue) -> None:
    add(queue, "early")
    park_all(queue, 10)
    add(queue, "late")
    park_all(queue, 20)
    assert queue.next_change(20) == 10 + FLUSH_SECONDS
    assert queue.flush(9 + FLUSH_SECONDS) == 0
    assert queue.flush(10 + FLUSH_SECONDS) == 1
    assert names(queue.pop(9, 10 + FLUSH_SECONDS)) == ["early"]
    assert queue.next_change(0) == 20 + FLUSH_SECONDS


def test_a_pod_that_comes_back_at_once_gives_way_to_active_pods_but_does_not_wait_for_nothing(
    queue: SchedulingQueue,
) -> None:
    add(queue, "again", priority=5)
    park_all(queue, 0)
    queue.wake(lambda _: 1, 0.1)
    add(queue, "new")
    assert queue.sizes() == {"active": 1, "backoff": 1, "unschedulable": 0}
    assert names(queue.pop(1, 0.1)) == ["new"]
    assert queue.next_change(0.1) == 0.1
    assert names(queue.pop(1, 0.1)) == ["again"]


def test_a_pod_whose_binding_failed_waits_ever_longer_up_to_ten_seconds(queue: SchedulingQueue) -> None:
    add(queue, "p")
    waits = []
    now = 0.0
    for _ in range(6):
        (pod,) = queue.pop(1, now)
        queue.retry(pod, now)
        due = queue.next_change(now)
        assert due is not None
        assert queue.pop(1, due - 0.01) == []
        waits.append(due - now)
        now = due
    assert waits == [1, 2, 4, 8, 10, 10]


def test_a_pod_that_asks_for_less_is_looked_at_again(queue: SchedulingQueue) -> None:
    add(queue, "p", signature=LARGE)
    park_all(queue, 0)
    add(queue, "p", signature=LARGE, now=50)
    assert queue.pop(1, 50) == []
    add(queue, "p", signature=SMALL, now=50)
    (pod,) = queue.pop(1, 50)
    assert pod.signature is SMALL
    assert pod.attempts == 2


def test_a_pod_whose_binding_failed_waits_even_when_it_is_changed(queue: SchedulingQueue) -> None:
    add(queue, "p", signature=LARGE)
    (pod,) = queue.pop(1, 0)
    queue.retry(pod, 0)
    add(queue, "p", signature=SMALL, now=0.5)
    assert queue.pop(1, 0.9) == []
    (pod,) = queue.pop(1, 1)
    assert pod.signature is SMALL


def test_a_new_pod_of_the_same_name_starts_from_nothing(queue: SchedulingQueue) -> None:
    add(queue, "p")
    park_all(queue, 0)
    queue.add("p", "another-uid", SMALL, 0, 1)
    (pod,) = queue.pop(1, 1)
    assert (pod.uid, pod.attempts) == ("another-uid", 1)


def test_a_flood_of_unschedulable_pods_does_not_keep_a_new_pod_waiting(queue: SchedulingQueue) -> None:
    for number in range(5000):
        add(queue, f"flood{number}", signature=LARGE)
    park_all_in_batches(queue)
    queue.wake(lambda _: 5000, 0.5)
    add(queue, "new")
    assert names(queue.pop(1, 0.5)) == ["new"]


def park_all_in_batches(queue: SchedulingQueue) -> None:
    while batch := queue.pop(128, 0):
        for pod in batch:
            queue.park(pod, 0)


def test_memory_stays_within_the_pods_that_wait(queue: SchedulingQueue) -> None:
    add(queue, "first")
    for number in range(20_000):
        add(queue, f"p{number}")
        queue.remove(f"p{number}")
    assert len(queue._active._items) < 200


@pytest.mark.parametrize("seed", range(20))
def test_a_pod_is_in_one_part_and_never_lost(queue: SchedulingQueue, seed: int) -> None:
    rng = random.Random(seed)
    now = 0.0
    held: dict[str, Any] = {}
    present: set[str] = set()
    for _ in range(800):
        now += rng.random()
        key = f"p{rng.randrange(12)}"
        match rng.randrange(7):
            case 0 | 1 if key not in held:
                add(queue, key, priority=rng.randrange(3), signature=rng.choice([SMALL, LARGE]), now=now)
                present.add(key)
            case 2 if key not in held:
                queue.remove(key)
                present.discard(key)
            case 3:
                for pod in queue.pop(rng.randrange(1, 4), now):
                    assert pod.key in present
                    assert pod.key not in held
                    held[pod.key] = pod
            case 4 if held:
                queue.park(held.pop(rng.choice(sorted(held))), now)
            case 5 if held:
                queue.retry(held.pop(rng.choice(sorted(held))), now)
            case 6:
                queue.wake(lambda _: rng.randrange(3), now)
                queue.flush(now)
        assert sum(queue.sizes().values()) == len(queue) == len(present) - len(held)
    now += 10 * FLUSH_SECONDS
    queue.flush(now)
    assert set(names(queue.pop(100, now))) | set(held) == present
