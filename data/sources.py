"""Where examples come from: shards of rows that can be read from any row on.

A source is a string: `katas:SPLIT`, `arithmetic:SPLIT`, a JSONL or Parquet file (JSONL also gzipped), a text file, a
folder of records or of text files, `hub:NAME[@CONFIG][:SPLIT]` for a data set of the Hugging Face hub, or several of
these joined by `+`. Every row is a dict of columns; a row of a text file has the single column `text`.
"""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from couplet.configs.errors import UserError

Row = dict[str, Any]
RECORD_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
TEXT_SUFFIXES = (".py", ".txt", ".md", ".rst")  # of a single file; a folder of text may hold any
LIST, OBJECT_LIST = re.compile(r"\s*\["), re.compile(r"\s*\[\s*\{")  # how a JSON file of one list begins
ABOUT = ("readme", "license", "dataset_info", "_success")  # files so named are about the records beside them
TEXTS_PER_SHARD = 64
UNREADABLE = (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error)
log = logging.getLogger(__name__)


class SourceError(UserError):
    """A source that cannot be read; the message names the file and the line, if there is one."""


@dataclass(frozen=True)
class Shard:
    """One independently readable part of a source.

    `read(skip)` yields (place, row) from row number `skip` on; `place` names file and line for error messages.
    """

    name: str
    read: Callable[[int], Iterator[tuple[str, Row]]]


def open_source(source: str) -> list[Shard]:
    """The shards of a source, in a fixed order. SourceError if there is nothing to read."""
    if "+" in source and not Path(source).exists():
        return [shard for part in source.split("+") for shard in open_source(part)]
    scheme, _, rest = source.partition(":")
    if scheme in ("katas", "routines", "arithmetic"):
        return [Shard(source, partial(_read_generated, scheme, rest))]
    if scheme == "hub":
        return [Shard(source, partial(read_hub, rest))]
    path = Path(source)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise SourceError(f"{source}: no such file or folder (or use katas:SPLIT, arithmetic:SPLIT, hub:NAME)")
    if path.name.lower().endswith(TEXT_SUFFIXES):
        return [Shard(str(path), partial(_read_text, path))]
    return [Shard(str(path), partial(read_records, path))]


def _open_folder(folder: Path) -> list[Shard]:
    """One shard per file of records, or one per `TEXTS_PER_SHARD` text files. SourceError if there are both kinds."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path, folder))
    if not files:
        raise SourceError(f"{folder}: the folder holds no file")
    records = [path for path in files if path.name.lower().endswith(RECORD_SUFFIXES)]
    if not records:
        found = _Texts(folder)
        parts = [files[start : start + TEXTS_PER_SHARD] for start in range(0, len(files), TEXTS_PER_SHARD)]
        return [Shard(str(part[0]), partial(found.read, part)) for part in parts]
    others = [path for path in files if path not in set(records) and not path.name.lower().startswith(ABOUT)]
    if others:
        first, other = records[0].relative_to(folder), others[0].relative_to(folder)
        raise SourceError(
            f"{folder}: holds {len(records)} JSONL or Parquet files (first {first}) beside {len(others)} other files "
            f"(first {other}), so records and text cannot be distinguished: leave files of one kind there"
        )
    return [Shard(str(path), partial(read_records, path)) for path in records]


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


@dataclass
class _Texts:
    """The text files of a folder, one row each; a file that is not UTF-8 is skipped and counted."""

    folder: Path
    skipped: dict[Path, None] = field(default_factory=dict)

    def read(self, files: list[Path], skip: int) -> Iterator[tuple[str, Row]]:
        """Rows of some of the files; `skip` counts rows, so the files before them are looked at again."""
        number = 0
        for path in files:
            try:
                text = path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError:
                self._note_skipped(path)
                continue
            number += 1
            if number > skip:
                yield str(path), {"text": text}

    def _note_skipped(self, path: Path) -> None:
        """Warns of the first, the tenth, the hundredth such file, and so on."""
        if path in self.skipped:
            return
        self.skipped[path] = None
        count = len(self.skipped)
        if str(count).strip("0") == "1":
            first = next(iter(self.skipped))
            log.warning("%s: skipped what is not UTF-8 text: %d so far, first %s", self.folder, count, first)


def _read_text(path: Path, skip: int) -> Iterator[tuple[str, Row]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not UTF-8 text: {error}") from error
    if not skip:
        yield str(path), {"text": text}


def read_records(path: Path, skip: int = 0, any_name: bool = False) -> Iterator[tuple[str, Row]]:
    """Rows of one JSONL(.gz), JSON or Parquet file from row `skip` on, each with its place.

    `any_name`: read a file of another suffix as JSON lines.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        yield from _read_parquet(path, skip)
    elif not any_name and not name.endswith((".jsonl", ".jsonl.gz", ".json", ".json.gz")):
        raise SourceError(f"{path}: not a JSONL(.gz), JSON or Parquet file by its name")
    elif holds_one_list(path):
        yield from itertools.islice(_read_json_list(path), skip, None)
    else:
        yield from _read_jsonl(path, skip)


def read_apps_folder(folder: Path) -> Iterator[tuple[str, Row]]:
    """APPS as published: a folder per problem with question.txt, input_output.json, solutions.json, starter_code.py."""
    files = {"question": "question.txt", "input_output": "input_output.json", "solutions": "solutions.json"}
    for problem in sorted(path.parent for path in folder.glob("*/question.txt")):
        row: Row = {"id": problem.name, "input_output": ""}
        for column, name in {**files, "starter_code": "starter_code.py"}.items():
            if (problem / name).is_file():
                ((_, content),) = _read_text(problem / name, 0)
                row[column] = content["text"]
        yield str(problem), row


def _open_text(path: Path) -> Any:
    """The file as text; without a byte-order mark at its start."""
    encoding = "utf-8-sig"
    return gzip.open(path, "rt", encoding=encoding) if path.name.endswith(".gz") else path.open(encoding=encoding)


def holds_one_list(path: Path) -> bool:
    """Whether a JSON file holds one list of rows; a .jsonl file only if it begins with a list of objects."""
    is_lines = not path.name.lower().endswith((".json", ".json.gz"))
    try:
        with _open_text(path) as lines:
            return (OBJECT_LIST if is_lines else LIST).match(lines.read(256)) is not None
    except UNREADABLE as error:
        if is_lines:
            return False  # its reader names the line
        raise _unreadable(str(path), error) from error


def _unreadable(place: str, error: Exception) -> SourceError:
    return SourceError(f"{place}: not readable as text: {error}")


def _read_jsonl(path: Path, skip: int) -> Iterator[tuple[str, Row]]:
    """Blank lines do not count; skipped lines are not parsed."""
    number, row_number = 0, 0
    try:
        with _open_text(path) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row_number += 1
                if row_number > skip:
                    yield f"{path}:{number}", _parse_row(path, number, line)
    except UNREADABLE as error:
        raise _unreadable(f"{path}:{number + 1}", error) from error


def _parse_row(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SourceError(f"{path}:{number}: broken JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # too many digits, or brackets
        raise SourceError(f"{path}:{number}: JSON that cannot be read: {error}") from error
    if not isinstance(row, dict):
        raise SourceError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
    return row


def _read_json_list(path: Path) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(read_json(path), start=1):
        if not isinstance(row, dict):
            raise SourceError(f"{path}: item {number}: expected a JSON object, found {type(row).__name__}")
        yield f"{path}: item {number}", row


def read_json(path: Path) -> Any:
    """The one value of a JSON file, also gzipped. SourceError if it cannot be read."""
    try:
        with _open_text(path) as file:
            return json.load(file)
    except json.JSONDecodeError as error:
        raise SourceError(f"{path}:{error.lineno}: broken JSON: {error.msg} at column {error.colno}") from error
    except UNREADABLE as error:
        raise _unreadable(str(path), error) from error
    except (ValueError, RecursionError) as error:  # too many digits, or brackets
        raise SourceError(f"{path}: JSON that cannot be read: {error}") from error


def _read_parquet(path: Path, skip: int) -> Iterator[tuple[str, Row]]:
    """Whole row groups are skipped by their metadata."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            begin = 0
            for group in range(file.num_row_groups):
                if begin + file.metadata.row_group(group).num_rows <= skip:
                    begin += file.metadata.row_group(group).num_rows
                    continue
                for batch in file.iter_batches(batch_size=256, row_groups=[group]):
                    passed = min(max(0, skip - begin), batch.num_rows)
                    for number, row in enumerate(batch.slice(passed).to_pylist(), start=begin + passed + 1):
                        yield f"{path}: row {number}", row
                    begin += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"{path}: not a readable Parquet file: {error}") from error


def _read_generated(family: str, split: str, skip: int) -> Iterator[tuple[str, Row]]:
    from couplet.data import arithmetic
    from couplet.data.katas import corpus as kata_corpus
    from couplet.data.katas import routines

    families = {
        "katas": kata_corpus.corpus_pairs,
        "routines": routines.corpus_pairs,
        "arithmetic": arithmetic.corpus_pairs,
    }
    pairs = families[family](split)
    for number, (prompt, answer) in enumerate(itertools.islice(pairs, skip, None), start=skip + 1):
        row = {"prompt": prompt, "answer": answer, "text": f"{prompt}\n{answer}"}
        yield f"{family}:{split}: example {number}", row


def read_hub(rest: str, skip: int = 0) -> Iterator[tuple[str, Row]]:
    """Rows of a data set of the Hugging Face hub, `NAME[@CONFIG][:SPLIT]` (default train), streamed."""
    head, _, split = rest.partition(":")
    name, _, config = (head, "", "") if Path(head).exists() else head.partition("@")
    try:
        import datasets
    except ImportError as error:
        raise SourceError(
            f"hub:{rest}: needs the package datasets (pip install -c constraints.txt -e '.[hub]')"
        ) from error
    number = None
    try:
        rows = datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
        number = skip
        for row in rows.skip(skip) if skip else rows:
            number += 1
            yield f"hub:{rest}: row {number}", dict(row)
    except Exception as error:  # network, name, configuration and permission faults come in many classes
        failed = "cannot be opened" if number is None else f"cannot be read after row {number}"
        reason = " ".join(str(error).split())
        raise SourceError(f"hub:{rest}: the data set {failed} (hub:NAME@CONFIG:SPLIT): {reason}") from error
