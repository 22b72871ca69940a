"""How much longer everything may take than on a quiet machine of its own: `PYK_TEST_PATIENCE`, 1 when it is not set.

It stretches the limits of all waits, never what is waited for.
"""

from __future__ import annotations

import os
import re

PATIENCE = float(os.environ.get("PYK_TEST_PATIENCE", "1"))
_TIMEOUT = re.compile(r"--timeout=(\d+)s")


def patient(seconds: float) -> float:
    """A limit for this machine, from the one for a quiet machine."""
    return seconds * PATIENCE


def patient_word(word: str) -> str:
    """A word of a kubectl command; `--timeout=SECONDSs` is stretched."""
    return _TIMEOUT.sub(lambda found: f"--timeout={patient(int(found[1])):.0f}s", word)
