"""A node with a native runtime of its own, on the real kernel: own state directory, own cgroups, removed afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.runtime.runtime_node import Node


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    try:
        await made.runtime.start()
        yield made
    finally:
        try:
            await made.clean_up()
        finally:
            made.cgroups.remove(made.group)
