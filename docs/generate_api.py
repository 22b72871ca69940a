"""Writes the table of kinds in docs/api.md from their declarations: `python docs/generate_api.py`.

Only what stands between the two marks is made here; the rest of the page is written by hand. With `--check` nothing is
written, and the exit status is 1 when the table is not up to date.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from controlplane.apiserver.discovery import resource_verbs, subresources_of  # noqa: E402
from pyk.api.kind import ALL_VERBS, Kind  # noqa: E402
from pyk.api.kinds import TABLE  # noqa: E402

PAGE = Path(__file__).with_name("api.md")
BEGIN, END = "<!-- kinds: made by docs/generate_api.py -->", "<!-- end of kinds -->"
_HEAD = ("API version", "Kind", "Resource", "Scope", "Verbs", "Subresources", "Field selectors")


def table() -> str:
    """The table of kinds, in the order of their groups and names."""
    rows = [_HEAD, tuple("---" for _ in _HEAD)]
    for kind in sorted(TABLE, key=lambda each: (each.group, each.version, each.kind)):
        rows.append(_row(kind))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(kind: Kind) -> tuple[str, ...]:
    verbs = resource_verbs(kind)
    names = ", ".join(f"`{name}`" for name in (kind.plural, *kind.short_names))
    return (
        f"`{kind.api_version}`",
        kind.kind,
        names,
        "namespace" if kind.namespaced else "cluster",
        "all" if set(verbs) == set(ALL_VERBS) else _verbs(verbs),
        ", ".join(f"`{name}`" for name, *_ in subresources_of(kind)) or "-",
        ", ".join(f"`{name}`" for name in kind.rules.fields) or "-",
    )


def _verbs(verbs: tuple[str, ...]) -> str:
    missing = [verb for verb in ALL_VERBS if verb not in verbs]
    return f"all but {', '.join(missing)}" if len(missing) <= 2 else ", ".join(verbs)


def page(present: str) -> str:
    """The page with the table as it should be."""
    before, _, rest = present.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main(arguments: list[str]) -> int:
    present = PAGE.read_text()
    wanted = page(present)
    if "--check" in arguments:
        return int(present != wanted)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
