"""A request on its way through the server: what was read of it and who sent it."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.request import Query, RequestInfo
from pyk.api.status import bad_request


@dataclass(slots=True)
class Call:
    """One request on its way."""

    request: web.Request
    info: RequestInfo
    query: Query
    user: UserInfo

    @property
    def accept(self) -> str:
        return self.request.headers.get("Accept", "")

    @property
    def include(self) -> str:
        """What a Table row holds of its object: None, Metadata or Object. Raises 400."""
        values = self.query.get("includeObject")
        wanted = values[0] if values and values[0] else "Metadata"
        if wanted not in ("None", "Metadata", "Object"):
            raise bad_request(f'includeObject: Invalid value: "{wanted}": must be Metadata, Object, None, or empty')
        return wanted
