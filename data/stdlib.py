"""The standard library of this Python as a corpus: its modules as text, its documented functions as pairs.

It is at hand wherever Python is, and under the PSF licence. Tests and what is installed beside it are left out.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = frozenset(("test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "__pycache__"))
LONGEST = 2000  # characters of a function


def modules() -> list[Path]:
    """Source files, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    return [path for path in sorted(root.rglob("*.py")) if not LEFT_OUT & set(path.relative_to(root).parts)]


def read(kind: str, skip: int) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, row) from row number `skip` on: `text` of each module, or `prompt` and `answer` of each function."""
    number = 0
    for path in modules():
        try:
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a few files in other encodings, for Python's own tests
            continue
        rows = [{"text": source}] if kind == "text" else pairs(source)
        for row in rows:
            number += 1
            if number > skip:
                yield str(path), row


def pairs(source: str) -> list[dict[str, str]]:
    """Question and answer of each documented function at the top level of a module; the answer has no docstring."""
    found = []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef) or node.decorator_list or len(node.body) < 2:
            continue
        text, words = ast.get_source_segment(source, node) or "", ast.get_docstring(node)
        if not words or len(text) > LONGEST:
            continue
        first = (node.body[0].end_lineno or 0) - node.lineno + 1
        start = node.body[0].lineno - node.lineno
        lines = text.splitlines()
        head, body = lines[:start], lines[first:]
        if not head or not body:  # all on one line
            continue
        signature = " ".join(line.strip() for line in head).removesuffix(":")
        about = " ".join(words.split("\n\n")[0].split())
        program = "\n".join((*head, *body))
        found.append(
            {"prompt": f"Write a Python function `{signature}`: {about}", "answer": f"```python\n{program}\n```"}
        )
    return found
