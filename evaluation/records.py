"""Results that survive a kill: JSON lines appended problem by problem, a torn last line passed over."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from couplet.configs.schema import ConfigError
from couplet.data.files import write_json, write_text, writing


class Records:
    """One JSON line per problem, keyed by `problem_id`; opening a file that exists goes on behind its last whole line.

    Args:
        path: the JSON lines file; made with its folder where missing.

    Attributes:
        rows: the records by problem id, in file order.
        torn: characters of a half-written last line that was passed over (and cut off).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        self.torn = 0
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._read()
            self._file = path.open("a", encoding="utf-8")

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one record and hand it to the operating system; a problem that has one already is left alone."""
        key = row["problem_id"]
        if key in self.rows:
            return
        with writing(self.path):
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._file.flush()
        self.rows[key] = dict(row)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        self.torn = len(data) - whole
        lines = data[:whole].decode("utf-8").split("\n")[:-1]
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                self.rows[row["problem_id"]] = row
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.path}, line {number}: no record of a problem ({error!r}); delete the line or name another --out"
                ) from error
        if self.torn:
            with self.path.open("r+b") as file:
                file.truncate(whole)


def same_run(path: Path, facts: Mapping[str, Any], results: Sequence[Path] = ()) -> None:
    """Store `facts` as JSON at `path`, or check that what stands there is the same; see `check_run`."""
    check_run(path, facts, results)
    if not path.exists():
        write_json(path, facts)


def check_run(path: Path, facts: Mapping[str, Any], results: Sequence[Path] = ()) -> None:
    """Check that results may be added to those of `path`, where there are any; nothing is written.

    Args:
        path: where the facts of those results stand.
        facts: what identifies this run; JSON values.
        results: the files that the facts are about, where they are known.

    Raises:
        ConfigError: a fact differs, by name, or there are results without facts, so that those of two runs never mix.
    """
    there = [str(file) for file in results if file.exists()]
    mend = f"name another --out, or delete {' and '.join([str(path), *there])}"
    mend += "" if results else " and the results beside it"
    if not path.exists():
        if there:
            raise ConfigError(f"{there[0]} holds results, but {path}, which tells of what, is missing: {mend}")
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON ({error}); {mend}") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{path} is no JSON object; {mend}")
    old, new = _flat("", stored), _flat("", json.loads(json.dumps(facts)))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise ConfigError(
                f"{path} holds results with {name} = {old.get(name)!r}, this run has {new.get(name)!r}: {mend}"
            )


def _flat(prefix: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves of a JSON tree by their dotted names; lists are leaves."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _flat(f"{prefix}{name}.", value) if isinstance(value, dict) else {prefix + name: value}
    return found


KEPT = "## Discussion"


def write_page(path: Path, text: str) -> None:
    """Write a generated Markdown page; the `## Discussion` that a person has added to its end is kept."""
    kept = path.read_text(encoding="utf-8").partition(f"\n{KEPT}\n")[2] if path.is_file() else ""
    write_text(path, text.rstrip("\n") + "\n" + (f"\n{KEPT}\n{kept}" if kept else ""))
