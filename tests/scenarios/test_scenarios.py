"""Every scenario file plays as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.story import play, read_blocks

SCENARIOS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_the_story_goes_as_it_is_written(path: Path) -> None:
    blocks = read_blocks(path.read_text())
    for block, answer in zip(blocks, play(blocks), strict=True):
        assert answer == block.expected, "\n".join(block.commands)
