"""The node's wall clock was set: told as it happens, by how many seconds.

What the agent waits for is noted in seconds since the epoch, because containers, statuses and the API tell times that
way. When somebody sets the clock, everything that is noted has to be moved by as much: a back-off of ten seconds
stays one of ten seconds, whether the clock is put back by an hour or forward. The kernel tells of it on a timer of
the wall clock (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`), so nothing polls. Slewing, as time daemons do, is no
jump.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import Callable

from agent.runtime import syscalls
from pyk.reconcile.clock import Clock

_CLOCK_REALTIME = 0
_ABSOLUTE_AND_CANCELLED_ON_SET = 1 | 2
_NEVER = struct.pack("=4q", 0, 0, (1 << 40), 0)
"""Of a `struct itimerspec`: no interval, and an expiry in thirty thousand years."""
LEAST_SECONDS = 0.5


async def follow_jumps(clock: Clock, jumped: Callable[[float], None]) -> None:
    """Call `jumped(seconds)` whenever the wall clock was set by at least half a second, until cancelled.

    Raises OSError when the kernel has no such timer.
    """
    fd = syscalls.call("timerfd_create", _CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
    loop = asyncio.get_running_loop()
    offset = clock.time() - clock.monotonic()

    def on_readable() -> None:
        nonlocal offset
        try:
            os.read(fd, 8)
        except OSError as error:
            if error.errno not in (errno.ECANCELED, errno.EAGAIN):
                raise
        syscalls.call("timerfd_settime", fd, _ABSOLUTE_AND_CANCELLED_ON_SET, _NEVER, None)
        before, offset = offset, clock.time() - clock.monotonic()
        if abs(offset - before) >= LEAST_SECONDS:
            jumped(offset - before)

    try:
        syscalls.call("timerfd_settime", fd, _ABSOLUTE_AND_CANCELLED_ON_SET, _NEVER, None)
        loop.add_reader(fd, on_readable)
        await loop.create_future()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
