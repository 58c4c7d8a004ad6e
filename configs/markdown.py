"""The one writer of Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

RULES = {"l": "---", "r": "---:"}


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], align: str = "l") -> str:
    """A table without a final line break.

    Args:
        heads: one per column.
        rows: cells; a bar or line break in one is escaped.
        align: `l` or `r` for each column; the last letter holds for the columns that are left.
    """
    letters = align + align[-1] * (len(heads) - len(align))
    lines = [_line(heads), _line([RULES[letter] for letter in letters[: len(heads)]])]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
