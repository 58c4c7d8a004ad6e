"""JSON lines that are written row by row: a writer that was killed leaves at most one unfinished line, the last."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from couplet.configs.errors import UserError


class LineError(UserError):
    """A line that is not a JSON object; the message names file and line."""


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number (from 1) and object of every line; blank lines and an unfinished last line are skipped.

    Raises:
        LineError: any other line that is not a JSON object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deeply
                if not line.endswith(b"\n"):
                    return
                raise LineError(f"{path}, line {number}: not JSON ({error}); delete the line") from None
            if not isinstance(row, dict):
                raise LineError(f"{path}, line {number}: expected a JSON object, found {row!r:.60}; delete the line")
            yield number, row


def append_jsonl(file: TextIO, row: Mapping[str, Any]) -> None:
    """Write one row and hand it to the operating system, so that a kill of this process does not lose it."""
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()


def cut_unfinished_line(path: Path) -> int:
    """Remove what follows the last line break, before rows are appended; the number of bytes removed."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    return len(content) - whole
