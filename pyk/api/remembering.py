"""Not working out twice what was worked out a moment ago: pods of one template differ in little but their names.

A function of a document that has no side effect can be asked by the document's JSON text instead, and its last
results be kept. What comes out of the memory is shared by all who ask: nobody may change it. Only texts of at most
`LONGEST` bytes are remembered, `ENTRIES` of them a function, so a memory holds at most 4 MiB of texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, wraps
from typing import Any, TypeVar

import orjson

from pyk.api.status import FieldError

ENTRIES = 256
LONGEST = 16 << 10

Result = TypeVar("Result")
Check = Callable[[dict[str, Any], str], Iterable[FieldError]]


def text_of(document: object) -> bytes | None:
    """The JSON text by which a document is remembered; None when it is too long, or JSON cannot say it."""
    try:
        text = orjson.dumps(document)
    except orjson.JSONEncodeError:
        return None
    return text if len(text) <= LONGEST else None


def remembered(check: Check) -> Callable[[dict[str, Any], str], Iterator[FieldError]]:
    """A check of a document at a path that remembers what it found; `check` must depend on nothing else."""

    @lru_cache(maxsize=ENTRIES)
    def found(text: bytes, path: str) -> tuple[FieldError, ...]:
        return tuple(check(orjson.loads(text), path))

    @wraps(check)
    def remembering(document: dict[str, Any], path: str) -> Iterator[FieldError]:
        text = text_of(document)
        yield from check(document, path) if text is None else found(text, path)

    return remembering
