"""What happened, event by event, with a digest that says in one word whether two runs were the same."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

KEPT_LINES = 200_000


@dataclass(frozen=True, slots=True)
class Line:
    """One event: at which second of the run, whose, and what."""

    at: float
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.at:10.4f}  {self.who:<14} {self.what}"


class Log:
    """All events of a run; the last `KEPT_LINES` are kept, the digest is of all."""

    def __init__(self) -> None:
        self.lines: deque[Line] = deque(maxlen=KEPT_LINES)
        self.count = 0
        self._hash = hashlib.sha256()

    def add(self, who: str, what: str) -> None:
        line = Line(asyncio.get_running_loop().time(), who, what)
        self.count += 1
        self.lines.append(line)
        self._hash.update(f"{line.at!r} {who} {what}\n".encode())

    @property
    def digest(self) -> str:
        """The same for two runs exactly when every event was."""
        return self._hash.hexdigest()[:16]

    def about(self, words: Iterable[str], most: int) -> list[Line]:
        """The last lines that name one of the words."""
        wanted = tuple(words)
        found = [line for line in self.lines if any(word in line.what for word in wanted)]
        return found[-most:]
