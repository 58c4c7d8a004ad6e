"""What pydantic refuses, as one line per mistake: `key = value: what would be accepted`."""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from couplet.configs.errors import nearest

Key = tuple[str | int, ...]
"""Path to a value of the tree: `("stages", 0, "optimizer", "lr")`."""

EXPECTED = {
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_type": "expected text; put it in quotes",
    "tuple_type": "expected a list",
    "dict_type": "expected a section of `key: value`",
    "model_type": "expected a section of `key: value`",
    "finite_number": "must be a finite number",
}
"""Error type of pydantic -> what would be accepted."""


def mistakes(
    kind: type[BaseModel], values: Mapping[str, Any], error: ValidationError | None, place: str = ""
) -> list[str]:
    """One line for each mistake in the `values` of a section `kind`, whose key is `place`.

    `error` is what the first validation said. Rules are only checked on values that are valid by themselves, so what
    was refused is taken out and the rest validated again, until nothing is refused; rules that join a refused key are
    left out.
    """
    tree = copy.deepcopy(dict(values))
    lines: list[str] = []
    refused: list[Key] = []
    while error is not None:
        found = [(item, _paths(item)) for item in error.errors(include_url=False)]
        outer = {item["loc"][:depth] for item, _ in found for depth in range(len(item["loc"]))}
        for item, paths in found:
            if item["loc"] not in outer and not _touch(paths, refused):
                lines.append(_line(kind, item, place))
        new = [path for _, paths in found for path in paths]
        taken_out = [_take_out(tree, path) for path in new]
        refused += new
        error = _validate(kind, tree) if any(taken_out) else None
    return list(dict.fromkeys(lines))


def rule_error(section: BaseModel, keys: str, remedy: str) -> InitErrorDetails:
    """The error of a rule of `section` that joins `keys`, at the first of them."""
    paths = [tuple(int(part) if part.isdigit() else part for part in key.split(".")) for key in keys.split()]
    value: Any = section
    for part in paths[0]:
        value = value[part] if isinstance(part, int) else getattr(value, part)
    kind = PydanticCustomError("rule", "{remedy}", {"remedy": remedy, "paths": paths})
    return InitErrorDetails(type=kind, loc=paths[0], input=value)


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The kind of section that a field holds, alone or in a list; None for a value."""
    hint = field.annotation
    inner = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def _validate(kind: type[BaseModel], tree: Mapping[str, Any]) -> ValidationError | None:
    try:
        kind.model_validate(tree)
    except ValidationError as error:
        return error
    return None


def _paths(item: ErrorDetails) -> list[Key]:
    """The keys an error is about."""
    loc = item["loc"]
    if item["type"] != "rule":
        return [loc]
    paths = item["ctx"]["paths"]
    section = loc[: len(loc) - len(paths[0])]
    return [(*section, *path) for path in paths]


def _touch(paths: Iterable[Key], refused: Iterable[Key]) -> bool:
    """True if one of the paths contains, or lies within, one that was refused before."""
    return any(path[: len(other)] == other[: len(path)] for path in paths for other in refused)


def _take_out(tree: Any, path: Key) -> bool:
    """Remove the value at `path`, or the nearest key above it that can be removed; False if there is none."""
    owner, last, node = None, None, tree
    for part in path:
        if isinstance(node, dict) and part in node:
            owner, last, node = node, part, node[part]
        elif isinstance(node, (list, tuple)) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            break
    if owner is not None:
        del owner[last]
    return owner is not None


def _line(kind: type[BaseModel], item: ErrorDetails, place: str) -> str:
    loc, error = item["loc"], item["type"]
    if error == "missing":  # an entry of a list of fixed length: every key of the tree has a default
        loc = loc[:-1]
    loc = loc[: loc.index("[key]")] if "[key]" in loc else loc
    section, field = _find(kind, loc)
    if error in ("extra_forbidden", "invalid_key"):
        return f"unknown key '{_dotted(place, loc)}': did you mean {_guess(kind, section, loc, place)}?"
    in_list = field and isinstance(loc[-1], int) and typing.get_origin(field.annotation) is tuple
    key = f"{_dotted(place, loc[:-1])}[{loc[-1]}]" if in_list else _dotted(place, loc)
    return f"{key} = {item['input']!r}: {_accepted(item, field)}"


def _find(kind: type[BaseModel], loc: Key) -> tuple[type[BaseModel], FieldInfo | None]:
    """The section that has the last key of `loc`, and the field of it; the field is None for an unknown key."""
    section, field = kind, None
    for part in loc:
        if isinstance(part, str) and (field is None or section_of(field)):
            section = (section_of(field) if field else None) or section
            field = section.model_fields.get(part)
    return section, field


def _dotted(place: str, loc: Key) -> str:
    """The key as an override writes it."""
    return ".".join(str(part) for part in (place, *loc) if part != "")


def _guess(kind: type[BaseModel], section: type[BaseModel], loc: Key, place: str) -> str:
    """The sections that have the last key by exactly this name, else the nearest key of its own section."""
    last = str(loc[-1])
    inner = {name: section_of(field) for name, field in kind.model_fields.items()}
    guesses: list[Key] = [(name, last) for name, other in inner.items() if other and last in other.model_fields]
    guesses = guesses or [(*map(str, loc[:-1]), nearest(last, section.model_fields) or "")]
    return " or ".join(f"'{_dotted(place, guess)}'" for guess in guesses)


def _accepted(item: ErrorDetails, field: FieldInfo | None) -> str:
    """What would be accepted, with the meaning of the key if that is not said."""
    error, context = item["type"], item.get("ctx", {})
    if error in ("rule", "value") or field is None:
        return item["msg"]
    if error == "literal_error":
        return f"choose one of {context['expected'].replace(' or ', ', ')}".replace("'", "")
    if error in EXPECTED:
        text = EXPECTED[error]
    elif error in ("missing", "too_long"):
        text = f"expected {len(typing.get_args(field.annotation))} values"
    elif error == "too_short":
        text = f"needs at least {context['min_length']} entry"
    else:
        kinds = {"gt": Gt, "ge": Ge, "lt": Lt, "le": Le}
        text = _range([*field.metadata, *(kinds[name](bound) for name, bound in context.items() if name in kinds)])
    return f"{text or item['msg']} ({field.description})" if field.description else text or item["msg"]


def _range(bounds: Iterable[Any]) -> str:
    """The values that bounds allow, in words."""
    low = next((bound for bound in bounds if isinstance(bound, (Gt, Ge))), None)
    high = next((bound for bound in bounds if isinstance(bound, (Lt, Le))), None)
    if low and high:
        left = f"({low.gt:g}" if isinstance(low, Gt) else f"[{low.ge:g}"
        right = f"{high.lt:g})" if isinstance(high, Lt) else f"{high.le:g}]"
        return f"must lie in {left}, {right}"
    if low:
        return f"must be greater than {low.gt:g}" if isinstance(low, Gt) else f"must be at least {low.ge:g}"
    if high:
        return f"must be below {high.lt:g}" if isinstance(high, Lt) else f"must be at most {high.le:g}"
    return ""
