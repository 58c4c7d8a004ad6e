"""The Parquet file that holds a set of problems; the same problems give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from couplet.configs.errors import UserError
from couplet.data.files import replacing
from couplet.data.formats.columns import Row, need, number, text, texts, unexpected
from couplet.data.problem import CallCase, Comparison, Problem, StdioCase, Suite

MARK = b"couplet.problems"  # key in the schema's metadata; its value is the version of the layout
VERSION = b"2"
OPTIONAL = ("entry_point", "canonical_solution")
TEXTS = (
    "problem_id",
    "question",
    "entry_point",
    "code_prefix",
    "suffix",
    "preamble",
    "test_setup",
    "canonical_solution",
    "source",
)


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
    """Plain columns; values of Python and nested fields as JSON text."""
    calls = [
        [encode_value(list(c.arguments)), encode_value(c.expected), encode_value(c.keywords)] for c in problem.calls
    ]
    return {
        **{name: getattr(problem, name) for name in TEXTS},
        "tests": list(problem.tests),
        "inputs": json.dumps([encode_value(item) for item in problem.inputs]),
        "atol": problem.atol,
        "calls": json.dumps(calls),
        "stdio": json.dumps([[case.input, case.output] for case in problem.stdio]),
        "comparison": json.dumps(asdict(problem.comparison), sort_keys=True),
        "suite": json.dumps(asdict(problem.suite), sort_keys=True) if problem.suite else None,
        "packages": list(problem.packages),
        "metadata": json.dumps(problem.metadata, sort_keys=True),
    }


def problem_from_row(row: Row) -> Problem:
    """The inverse of `problem_to_row`; columns may be missing if the problem has a default.

    The columns that hold JSON text may also hold its values (JSON lines). RowError if a column holds something else.
    """
    need(row, "a problem file", "problem_id", "question")
    calls = _part(row, "calls", list, lambda calls: tuple(map(_call, calls)))
    comparison = _part(row, "comparison", dict, lambda fields: Comparison(**fields)) or Comparison()
    return Problem(
        **{name: text(row, name, None if name in OPTIONAL else "") for name in TEXTS},
        tests=texts(row, "tests", ()),
        inputs=_part(row, "inputs", list, lambda values: tuple(map(decode_value, values))) or (),
        atol=number(row, "atol", 0.0),
        calls=calls or (),
        stdio=_part(row, "stdio", list, lambda cases: tuple(StdioCase(*case) for case in cases)) or (),
        comparison=comparison,
        suite=_part(row, "suite", dict, lambda fields: Suite(**fields)),
        packages=texts(row, "packages", ()),
        metadata=_part(row, "metadata", dict, dict) or {},
    )


def _call(parts: Any) -> CallCase:
    arguments, expected, keywords = map(decode_value, parts)
    return CallCase(tuple(arguments), expected, keywords)


def _part(row: Row, name: str, kind: type, read: Callable[[Any], Any]) -> Any:
    """A column that holds JSON text, or the list or object itself; None if it is missing."""
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
        if isinstance(parsed, kind):
            return read(parsed)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise unexpected(name, value, "a JSON object" if kind is dict else "a JSON list, as `prepare` writes it")


def write_parquet(problems: Sequence[Problem], path: str | Path) -> None:
    """Write problems to `path`, whole or not at all. `ConfigError` if the disk refuses."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    types = {"tests": pa.list_(pa.string()), "packages": pa.list_(pa.string()), "atol": pa.float64()}
    fields = [(name, types.get(name, pa.string())) for name in problem_to_row(Problem("", ""))]
    schema = pa.schema(fields, metadata={MARK: VERSION})
    table = pa.Table.from_pylist([problem_to_row(problem) for problem in problems], schema=schema)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=4096)
