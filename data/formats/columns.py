"""Typed columns of a row: what is missing, or of another type than it should be, is a `RowError` that names the column.

Every function takes the row and the column's name. With a `default`, a column that is missing or null has that value.
"""

from __future__ import annotations

import ast
import json
import math
import warnings
from typing import Any

from couplet.configs.errors import UserError

Row = dict[str, Any]
_NEEDED: Any = object()


class RowError(UserError):
    """A row that lacks something or holds something else; the reader adds file and line."""


def _value(row: Row, name: str, default: Any) -> Any:
    value = row.get(name)
    if value is not None:
        return value
    if default is _NEEDED:
        raise RowError(f"missing column {name!r} (found {', '.join(map(str, row)) or 'none'})")
    return default


def unexpected(name: str, value: Any, expected: str) -> RowError:
    """The error for a column of another type."""
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    kind = type(value).__name__
    return RowError(f"a column holds something unexpected: {name!r} is {kind} {shown}, expected {expected}")


def text(row: Row, name: str, default: Any = _NEEDED) -> Any:
    """A text."""
    value = _value(row, name, default)
    if value is not default and not isinstance(value, str):
        raise unexpected(name, value, "text")
    return value


def texts(row: Row, name: str, default: Any = _NEEDED) -> tuple[str, ...]:
    """A list of texts."""
    value = _value(row, name, default)
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise unexpected(name, value, "a list of texts")
    return tuple(value)


def number(row: Row, name: str, default: Any = _NEEDED) -> float:
    """A finite number."""
    value = _value(row, name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise unexpected(name, value, "a finite number")
    return float(value)


def identifier(row: Row, name: str, default: Any = _NEEDED) -> str:
    """A text or a whole number, as text."""
    value = _value(row, name, default)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise unexpected(name, value, "text or a whole number")
    return str(value)


def items(row: Row, name: str, kind: type, expected: str, default: Any = _NEEDED) -> list[Any]:
    """A list whose members are all of `kind`."""
    value = _value(row, name, default)
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, kind) for item in value):
        raise unexpected(name, value, expected)
    return list(value)


def statements(row: Row, name: str, default: Any = _NEEDED) -> tuple[str, ...]:
    """Test statements: a list of texts, such a list as JSON text, or one source text; blank ones are left out.

    RowError also where one of them is no Python.
    """
    value = _value(row, name, default)
    if isinstance(value, str):
        value = _listed(value)
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise unexpected(name, value, "text or a list of texts")
    return tuple(parsed(name, item) for item in value if item.strip())


def _listed(source: str) -> Any:
    try:
        value = json.loads(source)
    except ValueError:
        return [source]
    return value if isinstance(value, list) else [source]


def parsed(name: str, source: str) -> str:
    """`source`, given that it is Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise unexpected(name, source, f"Python ({reason})") from error
    return source
