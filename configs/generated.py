"""Documentation that is generated: whole files, or the part of a page between two comments; the rest is written by hand."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

BEGIN = "<!-- What follows is generated: run `make docs`. -->\n"
END = "<!-- End of what is generated. -->\n"


def with_generated(page: Path, text: str, begin: str = BEGIN, end: str = END) -> str:
    """The text of `page` with `text` between the lines `begin` and `end`; without an `end`, up to the end of the page.

    Raises:
        ValueError: the page has no line `begin`.
    """
    before, begun, old = page.read_text(encoding="utf-8").partition(begin)
    if not begun:
        raise ValueError(f"{page} has no part {begin.strip()}")
    _, found, after = old.partition(end)
    return f"{before}{begin}\n{text}" + (f"\n{end}{after}" if found else "")


def write_or_check(documents: Mapping[Path, str], argv: Sequence[str] | None, prog: str, description: str) -> int:
    """Write the generated files; with --check only compare, 1 if one is out of date."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=description)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file is out of date")
    check, code = parser.parse_args(argv).check, 0
    for path, text in documents.items():
        if not check:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{path}: out of date; run make docs")
            code = 1
    return code
