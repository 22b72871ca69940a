"""The spawner's event loop: descriptors, timers, signals and children, on one thread.

Handlers must not block and must not raise: one that does ends the spawner, which is restarted and adopts what runs. At
rest nothing wakes up.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import signal
import socket

from agent.runtime import clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[int], None]

READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT
_BROKEN = select.EPOLLHUP | select.EPOLLERR


class Loop:
    """`on_child` is called with pid and wait status of every child that has ended, orphans included; `on_hangup`, which
    whoever has the loop may set, when SIGHUP comes."""

    def __init__(self, on_child: Callable[[int, int], None]) -> None:
        self._on_child = on_child
        self.on_hangup: Callable[[], None] = lambda: None
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._running = True
        self._wake, wakeup = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._wakeup = wakeup
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.watch(self._wake.fileno(), self._on_signal)

    def watch(self, fd: int, handler: Handler, events: int = READABLE) -> None:
        """Call `handler(events)` while the descriptor is ready; change the events or handler of one that is watched."""
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; call this before closing it. One that is not watched is fine."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (clock.monotonic() + seconds, next(self._order), action))

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        """Until `stop` or SIGTERM."""
        self._reap()
        while self._running:
            timeout = -1.0
            if self._timers:
                timeout = max(0.0, self._timers[0][0] - clock.monotonic())
            for fd, events in self._epoll.poll(timeout):
                if handler := self._handlers.get(fd):  # an earlier handler of this round may have removed it
                    handler(events)
            while self._timers and self._timers[0][0] <= clock.monotonic():
                heapq.heappop(self._timers)[2]()

    def _on_signal(self, _events: int) -> None:
        numbers = self._wake.recv(4096)
        if signal.SIGCHLD in numbers:
            self._reap()
        if signal.SIGHUP in numbers:
            self.on_hangup()
        if signal.SIGTERM in numbers:
            self.stop()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._on_child(pid, status)


def is_broken(events: int) -> bool:
    """Whether the other end of the descriptor is gone."""
    return bool(events & _BROKEN)
