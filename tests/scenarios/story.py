"""Plays a scenario file: a story of one or more loops, told as commands and the exact text that follows.

A scenario is a text file of blocks, separated by empty lines. A block is one or more commands, a line `----`, and what
the loops answer. Commands change a small world of objects in memory, move its time, or let a loop decide once; every
decision is printed as one line an action and carried out in that world. `#` starts a comment. The commands are the
methods `do_...` of the classes in `actors`.

`python -m tests.scenarios.story FILE...` writes the answers that the loops give now into the files, for review.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tests.scenarios.actors import Actors


@dataclass(frozen=True, slots=True)
class Block:
    """Commands (with the comments among them) and the answer that is expected."""

    commands: list[str]
    expected: list[str]


def read_blocks(text: str) -> list[Block]:
    blocks = []
    for paragraph in text.strip().split("\n\n"):
        before, _, after = paragraph.partition("\n----")
        blocks.append(Block(before.strip().splitlines(), after.strip().splitlines()))
    return blocks


def play(blocks: list[Block]) -> list[list[str]]:
    """What the loops answer to each block, in one world."""
    actors = Actors()
    answers = []
    for block in blocks:
        answer: list[str] = []
        for command in block.commands:
            if not command.startswith("#"):
                answer += actors.perform(command)
        answers.append(answer)
    return answers


def _rewrite(path: Path) -> None:
    blocks = read_blocks(path.read_text())
    parts = []
    for block, answer in zip(blocks, play(blocks), strict=True):
        is_prose = all(line.startswith("#") for line in block.commands)
        parts.append("\n".join(block.commands if is_prose else [*block.commands, "----", *answer]))
    path.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        _rewrite(Path(argument))
