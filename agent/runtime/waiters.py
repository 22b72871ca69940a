"""Requests of clients that wait for something to become of a container."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.server import OperationFailed, Request


class Waiters:
    """Who waits for one step of each container that is taking it. To tell them ends it; to tell nobody is nothing."""

    def __init__(self) -> None:
        self._of: dict[str, list[Request]] = {}

    def __contains__(self, identifier: str) -> bool:
        return identifier in self._of

    def add(self, identifier: str, request: Request) -> None:
        self._of.setdefault(identifier, []).append(request)

    def answer(self, identifier: str, value: dict[str, Any]) -> None:
        for request in self._of.pop(identifier, ()):
            request.reply(value)

    def fail(self, identifier: str, error: OperationFailed) -> None:
        for request in self._of.pop(identifier, ()):
            request.fail(error)
