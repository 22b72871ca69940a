"""Prometheus' text format, for samples whose labels and times are not known beforehand."""

from __future__ import annotations

from collections.abc import Mapping


class Families:
    """Metrics by name, in the order in which they were first told, as Prometheus' text form."""

    def __init__(self) -> None:
        self._rows: dict[str, list[str]] = {}
        self._heads: dict[str, str] = {}

    def add(
        self, name: str, kind: str, told: str, labels: Mapping[str, str], value: float, at: int | None = None
    ) -> None:
        """A sample; `at` is its time in milliseconds since the epoch, where it has one."""
        if name not in self._rows:
            self._rows[name] = []
            self._heads[name] = f"# HELP {name} {told}\n# TYPE {name} {kind}\n"
        shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        number = repr(value) if isinstance(value, float) else str(value)
        stamp = "" if at is None else f" {at}"
        self._rows[name].append(f"{name}{{{shown}}} {number}{stamp}\n" if shown else f"{name} {number}{stamp}\n")

    def text(self) -> bytes:
        return "".join(self._heads[name] + "".join(rows) for name, rows in self._rows.items()).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
