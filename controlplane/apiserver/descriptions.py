"""What the OpenAPI documents, and so `kubectl explain`, say of kinds and fields: the sentences of `descriptions.txt`.

A line is `Model` or `Model.field`, a space and the text; `*` stands for every model that has no line of its own for the
field.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files


def description_of(model: str, field: str) -> str:
    """The text for a field of a model; empty when nobody wrote one."""
    found = texts()
    return found.get(f"{model}.{field}") or found.get(f"*.{field}", "")


def description_of_model(model: str) -> str:
    """The text for a kind or struct; empty when nobody wrote one."""
    return texts().get(model, "")


@cache
def texts() -> dict[str, str]:
    """All lines, by `Model` or `Model.field`."""
    lines = files("controlplane.apiserver").joinpath("descriptions.txt").read_text().splitlines()
    pairs = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return {name: text for name, _, text in pairs}
