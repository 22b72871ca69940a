"""Answers as they were sent, so that a question that comes again costs a look-up and not a message taken apart.

Most questions are the same few: names of Services, and names of the outside world tried with each search domain. An
answer is kept under the whole question but its ID, and goes out again with the new ID. All are forgotten with the first
change of what the cluster's names are made of (`version`), so no answer outlives a change; those of other servers after
a second, because their times to live run down. Not kept: answers with several records of one kind, whose order is drawn
anew each time, and failures. Bound: `MOST_KEPT` answers; when it is reached all are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable

MOST_KEPT = 8192
LONGEST_QUESTION = 512
_ID_BYTES = 2


class KeptAnswers:
    """Keeps answers by their questions. `version` counts changes, `now` is a monotonic clock in seconds."""

    def __init__(self, version: Callable[[], int], now: Callable[[], float]) -> None:
        self._version = version
        self._now = now
        self._of = version()
        self._answers: dict[bytes, tuple[float, bytes]] = {}

    def get(self, question: bytes) -> bytes | None:
        """The answer to a question that came before, with this question's ID."""
        if self._version() != self._of:
            self._forget()
            return None
        found = self._answers.get(question[_ID_BYTES:])
        if found is None or self._now() >= found[0]:
            return None
        return question[:_ID_BYTES] + found[1]

    def keep(self, question: bytes, answer: bytes, version: int, seconds: float) -> None:
        """Keep an answer that was made when the count of changes was `version`, for so long."""
        if len(question) > LONGEST_QUESTION or version != self._version() or seconds <= 0:
            return
        if version != self._of or len(self._answers) >= MOST_KEPT:
            self._forget()
        self._answers[question[_ID_BYTES:]] = self._now() + seconds, answer[_ID_BYTES:]

    def _forget(self) -> None:
        self._answers.clear()
        self._of = self._version()
