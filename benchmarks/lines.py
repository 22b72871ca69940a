"""Lines of code by folder, without blank lines, comments and docstrings, against the budgets of the architecture."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

BUDGETS = {"pyk": 5000, "controlplane": 8000, "scheduler": 2500, "agent": 8000}
SKIPPED = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def code_lines(source: str) -> int:
    """How many lines of the module hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SKIPPED:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
            and node.end_lineno is not None
        ):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def main() -> None:
    root = Path(__file__).parent.parent
    for folder, budget in BUDGETS.items():
        counts = {path: code_lines(path.read_text()) for path in sorted((root / folder).rglob("*.py"))}
        total = sum(counts.values())
        print(f"{folder:<24} {total:6} lines of code, {len(counts)} files (budget {budget})")
        for part in sorted(
            {path.relative_to(root).parts[1] for path in counts if len(path.relative_to(root).parts) > 2}
        ):
            inside = sum(count for path, count in counts.items() if path.relative_to(root).parts[1] == part)
            print(f"  {folder}/{part:<20} {inside:6}")


if __name__ == "__main__":
    main()
