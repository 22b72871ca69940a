"""What a loop knows of its own writes while its informer is late."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from controlplane.controllers.ownwrites import OwnWrites
from pyk.api.kinds import REPLICA_SET


class Late:
    """An informer that tells when the test lets it."""

    def __init__(self) -> None:
        self.kind = REPLICA_SET
        self.handlers: list[Any] = []

    def add_handler(self, handler: Any) -> None:
        self.handlers.append(handler)

    def tell(self, old: Any, new: Any) -> None:
        for handler in self.handlers:
            handler(old, new)


def replica_set(version: int, replicas: int, uid: str = "u") -> dict[str, Any]:
    metadata = {"namespace": "n", "name": "web", "uid": uid, "resourceVersion": str(version)}
    return {"kind": "ReplicaSet", "metadata": metadata, "spec": {"replicas": replicas}}


def made() -> SimpleNamespace:
    informer = Late()
    return SimpleNamespace(informer=informer, own=OwnWrites(informer))  # type: ignore[arg-type]


def test_a_write_counts_until_it_is_seen() -> None:
    world, seen = made(), replica_set(9, 3)
    assert world.own.newest([seen]) == [seen]
    written = replica_set(10, 5)
    world.own.note(written)
    assert world.own.newest([seen]) == [written]
    world.informer.tell(seen, replica_set(8, 2))  # older still, as text it would be newer
    assert world.own.newest([seen]) == [written]
    world.informer.tell(seen, written)
    assert (world.own.newest([written]), len(world.own)) == ([written], 0)


def test_what_others_wrote_later_counts_more() -> None:
    world = made()
    world.own.note(replica_set(10, 5))
    later = replica_set(11, 1)
    assert world.own.newest([later]) == [later]
    world.informer.tell(None, later)
    assert len(world.own) == 0


def test_another_object_of_the_name_and_one_that_is_gone_are_not_taken_for_it() -> None:
    world = made()
    world.own.note(replica_set(10, 5))
    anew = replica_set(9, 1, uid="v")
    assert world.own.newest([anew]) == [anew]
    world.informer.tell(replica_set(9, 3), None)
    assert len(world.own) == 0
    world.own.note({"kind": "Deployment", "metadata": {"name": "web", "namespace": "n"}})
    assert len(world.own) == 0
