"""Where examples come from: shards of rows that can be read from any row on.

A source is a string: `katas:SPLIT`, `arithmetic:SPLIT`, a JSONL or Parquet file (JSONL also gzipped), a folder of
either or of text files, `hub:NAME` or `hub:NAME:SPLIT` for a data set of the Hugging Face hub, or several of these
joined by `+`. Every row is a dict of columns; a row of a text file has the single column `text`.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

Row = dict[str, Any]
RECORD_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


class SourceError(ValueError):
    """A source that cannot be read; the message names the file and, where there is one, the line."""


@dataclass(frozen=True)
class Shard:
    """One independently readable part of a source.

    `read(skip)` yields (place, row) from row number `skip` on; `place` names file and line for error messages.
    """

    name: str
    read: Callable[[int], Iterator[tuple[str, Row]]]


def open_source(source: str) -> list[Shard]:
    """The shards of a source, in a fixed order. SourceError where there is nothing to read."""
    if "+" in source and not Path(source).exists():
        return [shard for part in source.split("+") for shard in open_source(part)]
    scheme, _, rest = source.partition(":")
    if scheme in ("katas", "arithmetic"):
        return [Shard(source, partial(_read_generated, scheme, rest))]
    if scheme == "hub":
        return [Shard(source, partial(read_hub, rest))]
    path = Path(source)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise SourceError(f"{source}: no such file or folder (or use katas:SPLIT, arithmetic:SPLIT, hub:NAME)")
    return [Shard(str(path), partial(read_records, path))]


def _open_folder(folder: Path) -> list[Shard]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    records = [path for path in files if path.name.endswith(RECORD_SUFFIXES)]
    if records:
        return [Shard(str(path), partial(read_records, path)) for path in records]
    if not files:
        raise SourceError(f"{folder}: the folder holds no file")
    return [Shard(str(folder), partial(_read_texts, files))]


def read_records(path: Path, skip: int = 0) -> Iterator[tuple[str, Row]]:
    """Rows of one JSONL(.gz), JSON or Parquet file from row `skip` on, each with its place."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        yield from _read_parquet(path, skip)
    elif name.endswith((".json", ".json.gz")) and _starts_with(path, "["):
        yield from itertools.islice(_read_json_list(path), skip, None)
    elif name.endswith((".jsonl", ".jsonl.gz", ".json", ".json.gz")):
        yield from _read_jsonl(path, skip)
    else:
        raise SourceError(f"{path}: not a JSONL(.gz), JSON or Parquet file by its name")


def _open_text(path: Path) -> Any:
    return gzip.open(path, "rt", encoding="utf-8") if path.name.endswith(".gz") else path.open(encoding="utf-8")


def _starts_with(path: Path, character: str) -> bool:
    with _open_text(path) as lines:
        return str(lines.read(256)).lstrip().startswith(character)


def _read_jsonl(path: Path, skip: int) -> Iterator[tuple[str, Row]]:
    """Blank lines are passed over; skipped lines are not parsed."""
    number, row_number = 0, 0
    try:
        with _open_text(path) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row_number += 1
                if row_number > skip:
                    yield f"{path}:{number}", _parse_row(path, number, line)
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise SourceError(f"{path}:{number + 1}: not readable as text: {error}") from error


def _parse_row(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SourceError(f"{path}:{number}: broken JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(row, dict):
        raise SourceError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
    return row


def _read_json_list(path: Path) -> Iterator[tuple[str, Row]]:
    with _open_text(path) as file:
        try:
            rows = json.load(file)
        except json.JSONDecodeError as error:
            raise SourceError(f"{path}:{error.lineno}: broken JSON: {error.msg} at column {error.colno}") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise SourceError(f"{path}: item {number}: expected a JSON object, found {type(row).__name__}")
        yield f"{path}: item {number}", row


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
    except pyarrow.ArrowInvalid as error:
        raise SourceError(f"{path}: not a readable Parquet file: {error}") from error


def _read_texts(files: list[Path], skip: int) -> Iterator[tuple[str, Row]]:
    for path in files[skip:]:
        try:
            yield str(path), {"text": path.read_text(encoding="utf-8")}
        except UnicodeDecodeError as error:
            raise SourceError(f"{path}: not UTF-8 text: {error}") from error


def _read_generated(family: str, split: str, skip: int) -> Iterator[tuple[str, Row]]:
    from data import arithmetic, kata_corpus

    pairs = {"katas": kata_corpus.corpus_pairs, "arithmetic": arithmetic.corpus_pairs}[family](split)
    for number, (prompt, answer) in enumerate(itertools.islice(pairs, skip, None), start=skip + 1):
        row = {"prompt": prompt, "answer": answer, "text": f"{prompt}\n{answer}"}
        yield f"{family}:{split}: example {number}", row


def read_hub(rest: str, skip: int = 0) -> Iterator[tuple[str, Row]]:
    """Rows of a data set of the Hugging Face hub, `NAME` or `NAME:SPLIT` (default train), streamed."""
    name, _, split = rest.partition(":")
    try:
        import datasets
    except ImportError as error:
        raise SourceError(f"hub:{rest}: needs the package datasets: pip install 'couplet[hub]'") from error
    try:
        rows = datasets.load_dataset(name, split=split or "train", streaming=True)
    except Exception as error:  # network, name, configuration and permission faults come in many classes
        raise SourceError(f"hub:{rest}: the data set cannot be opened: {error}") from error
    for number, row in enumerate(rows.skip(skip) if skip else rows, start=skip + 1):
        yield f"hub:{rest}: row {number}", dict(row)
