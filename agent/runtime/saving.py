"""Records that could not be written: kept in mind, told of once, and written as soon as the disk takes them.

What the spawner knows is right whether it is on disk or not; only the next spawner has to find it there. So an end of a
container that cannot be noted, because the disk is read-only or broken, is no reason to end the one who knows of it.
"""

from __future__ import annotations

from agent.runtime.telling import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.runtime.loop import Loop

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds


class Saver:
    """Writes records, now or later; one write at a time waits for each."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: dict[str, Callable[[], None]] = {}
        self._pause = _FIRST_PAUSE

    def save(self, name: str, write: Callable[[], None]) -> None:
        """Call `write` now, and when that fails again and again until it has succeeded."""
        self._waiting.pop(name, None)
        try:
            write()
        except OSError as error:
            tell(f"the record of {name} cannot be written: {error}; it is tried again")
            if not self._waiting:
                self._pause = _FIRST_PAUSE
                self._loop.later(self._pause, self._retry)
            self._waiting[name] = write

    def forget(self, name: str) -> None:
        """There is nothing to write of it any more."""
        self._waiting.pop(name, None)

    def _retry(self) -> None:
        for name, write in list(self._waiting.items()):
            try:
                write()
            except FileNotFoundError:
                del self._waiting[name]
            except OSError:
                continue
            else:
                del self._waiting[name]
                tell(f"the record of {name} is written")
        if self._waiting:
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._loop.later(self._pause, self._retry)
