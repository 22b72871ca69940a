"""A node that is to be killed, in namespaces of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.survival.node import SurvivalNode, namespaces, survival_node


@pytest.fixture
def apart() -> Iterator[None]:
    """This thread in namespaces of its own."""
    with namespaces():
        yield


@pytest.fixture
async def node(apart: None, tmp_path: Path) -> AsyncIterator[SurvivalNode]:
    async with survival_node(tmp_path) as made:
        yield made
