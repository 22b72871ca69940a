"""filled below"""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.rules import WideFilter
from scheduler.signature import Signature
from scheduler.snapshot import Snapshot


def volume_filters(signature: Signature, snapshot: Snapshot) -> Iterator[WideFilter]:
    yield from ()
