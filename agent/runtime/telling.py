"""What the spawner has to say: a line in its log, or nothing when the disk does not take it."""

from __future__ import annotations

import os

from agent.runtime import clock

_STDERR = 2


def tell(text: str) -> None:
    """Write a line with the time to stderr, which is the spawner's log."""
    try:
        os.write(_STDERR, f"{clock.now():.3f} {text}\n".encode())
    except OSError:  # a full disk is told of where somebody can hear it, and is no reason to end
        return
