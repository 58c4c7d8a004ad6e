"""Typed columns of a row: what is missing, or of another type than it should be, is a `RowError` that names the column.

Every function takes the row and the column's name; dots lead into nested columns (``reward_model.ground_truth``,
``prompt.0.content``), also through JSON text. With a `default`, a column that is missing or null has that value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from couplet.configs.errors import UserError
from couplet.data.syntax import NotPython, parse

Row = dict[str, Any]
_NEEDED: Any = object()


class RowError(UserError):
    """A row that lacks something or holds something else; the reader adds file, line and problem."""


class UnjudgeableRow(RowError):
    """A well-formed row of a problem that nothing here can judge, e.g. an interactive one. `prepare` leaves it out."""


def column(row: Row, name: str) -> Any:
    """The content of a column, None if it is missing."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return None
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, (list, tuple)) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _value(row: Row, name: str, default: Any) -> Any:
    value = column(row, name)
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


def need(row: Row, format_name: str, *columns: str) -> None:
    """RowError that names all missing columns of a format at once."""
    missing = [name for name in columns if column(row, name) is None]
    if missing:
        raise RowError(f"missing column {', '.join(map(repr, missing))} of {format_name} (found {', '.join(row)})")


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


def chat(row: Row, name: str) -> tuple[str, str | None]:
    """(question, system message): a text, or chat messages ``[{"role", "content"}]`` of which one is the user's."""
    value = _value(row, name, _NEEDED)
    if isinstance(value, str):
        return value, None
    expected = "text, or messages: at most one of role system, then one of role user"
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, Mapping) for item in value):
        raise unexpected(name, value, expected)
    found = [(message.get("role"), message.get("content")) for message in value]
    if not all(isinstance(content, str) for _, content in found):
        raise unexpected(name, value, f"{expected}, each with text as content")
    match found:
        case [("user", question)]:
            return question, None
        case [("system", system), ("user", question)]:
            return question, system
    raise unexpected(name, value, expected)


def parsed(name: str, source: str) -> str:
    """`source`, given that it is Python."""
    try:
        parse(source, limit=len(source))
    except NotPython as error:
        raise unexpected(name, source, f"Python ({error})") from error
    return source
