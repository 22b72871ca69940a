"""Ports for servers of a test's own.

They are outside of the range from which the kernel takes the local ports of connections: a port of that range which is
free now may be the near end of somebody's connection when the server comes to bind it. And they are picked at random,
so that tests that run side by side hardly ever pick the same.
"""

from __future__ import annotations

import random
import socket

_FIRST, _LAST = 12_000, 29_999
"""Above what services of a machine use, below node ports (30000-32767) and local ports (32768-60999)."""
_random = random.SystemRandom()


def free_port(run: int = 1) -> int:
    """A port on which nobody listens, nor on the `run - 1` after it."""
    while True:
        port = _random.randint(_FIRST, _LAST + 1 - run)
        if all(_is_free(number) for number in range(port, port + run)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
