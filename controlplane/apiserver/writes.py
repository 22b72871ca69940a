"""What one write carries with it on its way from a request to the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.request import WriteOptions
from pyk.api.kinds import Kind
from pyk.api.objects import Object


@dataclass(slots=True)
class Write:
    """Who writes what, and how. `name` is empty for a creation. Warnings for the client gather in `warnings`."""

    user: UserInfo
    kind: Kind
    namespace: str
    name: str = ""
    subresource: str = ""
    options: WriteOptions = field(default_factory=WriteOptions)
    warnings: list[str] = field(default_factory=list)
    give_back: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """What admission took for this write, to be undone when it certainly comes to nothing."""
    view: Kind | None = None
    """The kind that the client speaks, when it is a view of `kind`."""
    manager: str = "kube-apiserver"
    """Whose the written fields are in `managedFields`."""

    def warn(self, texts: Sequence[str]) -> None:
        self.warnings.extend(text for text in texts if text not in self.warnings)


class Allocation(Protocol):
    """What writes of a kind take from the cluster, such as addresses."""

    async def take(self, write: Write, obj: Object, old: Object | None) -> None:
        """Before a valid object is stored: give it what it needs (`write.give_back` undoes that). Raises `ApiError`."""

    async def settle(self, old: Object, new: Object | None) -> None:
        """After it was stored, or is gone (`new` None): take back what it has no longer."""


Compute = Callable[[Object], Awaitable[Object]]
"""From the present object (with its resourceVersion) to the new one; may change its argument. Raises `ApiError`."""
