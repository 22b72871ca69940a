"""ComponentStatus: how `kubectl get` shows it."""

from __future__ import annotations

from collections.abc import Callable

from pyk.api.kind import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import NAME

_STATES = {"True": "Healthy", "False": "Unhealthy"}


def _told(field: str) -> Callable[[Object, float], str]:
    def told(obj: Object, now: float) -> str:
        for condition in obj.get("conditions") or ():
            if condition["type"] == "Healthy":
                return str(condition.get(field) or "")
        return ""

    return told


RULES = Rules(
    columns=(
        NAME,
        Column("Status", lambda obj, now: _STATES.get(_told("status")(obj, now), "Unknown")),
        Column("Message", _told("message")),
        Column("Error", _told("error")),
    )
)
