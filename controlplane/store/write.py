"""One write as it waits for its group: the argument list of `create`, `update` and `delete` in one shape."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Write:
    """One compare-and-swap: `expected` None means that the key must not exist; `value` None deletes it."""

    key: str
    value: bytes | None
    expected: int | None
    lease: int = 0
