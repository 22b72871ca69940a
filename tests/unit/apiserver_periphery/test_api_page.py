"""docs/api.md tells of every kind as it is declared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pyk.api.kinds import TABLE

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_page_of_the_api_is_up_to_date() -> None:
    checked = subprocess.run([sys.executable, DOCS / "generate_api.py", "--check"], check=False)
    assert checked.returncode == 0, "run: python docs/generate_api.py"


def test_every_kind_has_its_row() -> None:
    rows = [line for line in (DOCS / "api.md").read_text().splitlines() if line.startswith("| `")]
    assert len(rows) == len(TABLE)
    for kind in TABLE:
        assert any(row.startswith(f"| `{kind.api_version}` | {kind.kind} | `{kind.plural}`") for row in rows)
