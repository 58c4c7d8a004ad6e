"""The Parquet file that holds a set of problems; the same problems give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from couplet.configs.errors import UserError
from couplet.data.files import replacing
from couplet.data.problem import Problem

MARK = b"couplet.problems"  # key in the schema's metadata; its value is the version of the layout
VERSION = b"1"


class ProblemFileError(UserError):
    """A problem file that cannot be read or trusted; the message names file and line."""


def encode_value(value: Any) -> Any:
    """A Python value as JSON with tags for what JSON lacks: tuples, sets, complex numbers, dicts with other keys."""
    if isinstance(value, list):
        return [encode_value(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [encode_value(item) for item in value]}
    if isinstance(value, (set, frozenset)):
        return {"set": [encode_value(item) for item in sorted(value, key=repr)]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, dict):
        return {"dict": [[encode_value(key), encode_value(item)] for key, item in value.items()]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ProblemFileError(f"a value of type {type(value).__name__} cannot be stored in a problem file: {value!r}")


def decode_value(value: Any) -> Any:
    """The inverse of `encode_value`."""
    if isinstance(value, list):
        return [decode_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "complex":
        return complex(*content)
    if tag == "dict":
        return {decode_value(key): decode_value(item) for key, item in content}
    return {"tuple": tuple, "set": set}[tag](decode_value(item) for item in content)


def problem_to_row(problem: Problem) -> dict[str, Any]:
    """Plain columns; inputs and metadata as JSON text."""
    return {
        "problem_id": problem.problem_id,
        "question": problem.question,
        "tests": list(problem.tests),
        "entry_point": problem.entry_point,
        "code_prefix": problem.code_prefix,
        "test_setup": problem.test_setup,
        "canonical_solution": problem.canonical_solution,
        "inputs": json.dumps([encode_value(item) for item in problem.inputs]),
        "atol": problem.atol,
        "source": problem.source,
        "metadata": json.dumps(problem.metadata, sort_keys=True),
    }


def problem_from_row(row: dict[str, Any]) -> Problem:
    """The inverse of `problem_to_row`; columns may be missing where the problem has a default."""
    inputs, metadata = row.get("inputs") or "[]", row.get("metadata") or "{}"
    return Problem(
        problem_id=row["problem_id"],
        question=row["question"],
        tests=tuple(row.get("tests") or ()),
        entry_point=row.get("entry_point"),
        code_prefix=row.get("code_prefix") or "",
        test_setup=row.get("test_setup") or "",
        canonical_solution=row.get("canonical_solution"),
        inputs=tuple(decode_value(item) for item in (json.loads(inputs) if isinstance(inputs, str) else inputs)),
        atol=row.get("atol") or 0.0,
        source=row.get("source") or "",
        metadata=json.loads(metadata) if isinstance(metadata, str) else metadata,
    )


def write_parquet(problems: Sequence[Problem], path: str | Path) -> None:
    """Write problems to `path`, whole or not at all. `ConfigError` where the disk refuses."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, path = pa.string(), Path(path)
    fields = dict.fromkeys(problem_to_row(Problem("", "")), text) | {"tests": pa.list_(text), "atol": pa.float64()}
    schema = pa.schema(list(fields.items()), metadata={MARK: VERSION})
    table = pa.Table.from_pylist([problem_to_row(problem) for problem in problems], schema=schema)
    with replacing(path) as aside:
        pq.write_table(table, aside, compression="zstd", row_group_size=4096)


def read_parquet(path: str | Path) -> list[Problem]:
    """The problems `write_parquet` wrote. ProblemFileError where `path` is no such file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ProblemFileError(f"{path}: not a readable Parquet file: {error}") from error
    if (table.schema.metadata or {}).get(MARK) != VERSION:
        raise ProblemFileError(f"{path}: not a problem file of this program (columns {table.schema.names})")
    return [problem_from_row(row) for row in table.to_pylist()]
