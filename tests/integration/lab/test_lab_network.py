"""The lab's network on the kernel, when who makes it is killed at any step: the next one completes it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from pyk.lab import network
from pyk.lab.layout import Layout, Options
from pyk.netlink import Netlink
from tests.integration.survival.node import namespaces

pytestmark = pytest.mark.root


class Killed(BaseException):
    """Nobody catches it, and nobody is to clean up for it."""


class Steps:
    """What `Netlink` does, one request after the other, up to the last of so many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.seen = -1, 0
        original = Netlink.execute

        def execute(link: Netlink, *requests: Any) -> None:
            for request in requests:
                self.seen += 1
                self.left -= 1
                if not self.left:
                    raise Killed
                original(link, request)

        monkeypatch.setattr(Netlink, "execute", execute)


@pytest.fixture
def layout() -> Iterator[Layout]:
    """Of two nodes, in namespaces of the test's own but for the folder of network namespaces."""
    made = Layout(Options(name=f"lab{uuid.uuid4().hex[:6]}", nodes=2, subnet=7, segments=2))
    with namespaces():
        try:
            yield made
        finally:
            network.remove_all(made)


def make(layout: Layout) -> None:
    network.make_segment(layout)
    for node in ("node-1", "node-2"):
        network.add_node(layout, node)


def seen(layout: Layout) -> dict[str, set[str]]:
    """Addresses and routes by namespace."""
    found = {}
    for path in ("", layout.router_namespace, layout.namespace("node-1"), layout.namespace("node-2")):
        with Netlink(path) if path else Netlink() as link:
            names = {one.index: one.name for one in link.links()}
            addresses = {f"{names[index]} {address}" for index, address in link.addresses() if address.version == 4}
            routes = {f"{one.destination} {one.gateway}" for one in link.routes() if one.destination.version == 4}
        found[os.path.basename(path)] = addresses | routes
    return found


def test_who_is_killed_at_any_step_leaves_what_the_next_one_completes(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    make(layout)
    count, wanted = steps.seen, seen(layout)
    assert len(wanted[os.path.basename(layout.namespace("node-1"))]) > 2
    for step in range(1, count + 1):
        network.remove_all(layout)
        steps.left = step
        with pytest.raises(Killed):
            make(layout)
        make(layout)
        assert seen(layout) == wanted, f"killed at step {step} of {count}"
