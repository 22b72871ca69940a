"""The admission chain: what a plugin sees, and the order in which plugins see it.

A plugin takes a `Review`, may change `review.object` and add `review.warnings`, and refuses by raising `ApiError`.
The order matters: a later plugin sees what an earlier one changed. Each plugin is a module of its own;
`admission.py` is the list.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from controlplane.apiserver.authentication import UserInfo
from pyk.api.kinds import POD, Kind
from pyk.api.objects import Object
from pyk.api.status import ApiError, forbidden


@dataclass(slots=True)
class Review:
    """One write. `object` is the new state (None for a DELETE), `old` the present one (None for a CREATE)."""

    operation: Literal["CREATE", "UPDATE", "DELETE"]
    user: UserInfo
    kind: Kind
    namespace: str
    name: str
    subresource: str
    object: Object | None
    old: Object | None
    dry_run: bool
    warnings: list[str] = field(default_factory=list)
    give_back: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """What to undo when the write comes to nothing after all; the chain's caller does so."""

    @property
    def new_pod(self) -> Object | None:
        """The pod that is being created, if that is what happens."""
        if self.kind is POD and self.operation == "CREATE" and not self.subresource:
            return self.object
        return None

    def refusal(self, message: str) -> ApiError:
        """403, as every plugin refuses."""
        return forbidden(self.kind.group, self.kind.plural, self.name, message)


Plugin = Callable[[Review], Awaitable[None]]


class Admission:
    """The chain."""

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self._plugins = tuple(plugins)

    async def review(self, review: Review) -> None:
        """Let every plugin see it. Raises what a plugin refuses with."""
        for plugin in self._plugins:
            await plugin(review)
