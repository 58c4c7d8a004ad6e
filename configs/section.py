"""`Section`: the base of every part of the configuration tree, and how its validation errors read.

A section is a frozen pydantic model that refuses unknown keys. Constraint, default and description of a key are in its
`Field`; rules that join several keys are in `Section.rules`. However a section is made, from a recipe, by keyword or by
`replace`, what cannot work is refused with a `ConfigError` that has one line per mistake.
"""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple, Self

from annotated_types import BaseMetadata, Ge, Gt, Le, Lt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from couplet.configs.errors import ConfigError, nearest

Key = tuple[str | int, ...]
"""Path to a value of the tree: `("stages", 0, "optimizer", "lr")`."""

SWITCH = {"on": True, "yes": True, "off": False, "no": False}

Switch = Annotated[bool, BeforeValidator(lambda value: SWITCH.get(value, value) if isinstance(value, str) else value)]
"""true or false; the words of YAML 1.1 (on, off, yes, no) are understood too."""

Texts = Annotated[tuple[str, ...], Strict(False)]
Floats = Annotated[tuple[float, ...], Strict(False)]

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


class Rule(NamedTuple):
    """A rule that joins keys. It is checked when each of its keys is valid by itself."""

    holds: bool
    keys: str  # separated by blanks; the first is the one to change
    remedy: str  # what is required of the first

    def paths(self) -> tuple[Key, ...]:
        """The keys as paths."""
        return tuple(
            tuple(int(part) if part.isdigit() else part for part in key.split(".")) for key in self.keys.split()
        )


class Section(BaseModel):
    """A frozen part of the configuration tree."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        """Raises `ConfigError` with one line per mistake in `values`."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError("\n".join(mistakes(type(self), values, error))) from None

    # A section inside another is validated by pydantic itself, so that the errors of all sections are gathered.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def rules(self) -> Iterator[Rule]:
        """The rules that join keys of this section."""
        yield from ()

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        broken = [rule for rule in self.rules() if not rule.holds]
        if broken:
            raise ValidationError.from_exception_data(type(self).__name__, [self._error(rule) for rule in broken])
        return self

    def _error(self, rule: Rule) -> InitErrorDetails:
        paths = rule.paths()
        kind = PydanticCustomError("rule", "{remedy}", {"remedy": rule.remedy, "paths": paths})
        value: Any = self
        for part in paths[0]:
            value = value[part] if isinstance(part, int) else getattr(value, part)
        return InitErrorDetails(type=kind, loc=paths[0], input=value)

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, validated. `ConfigError` as the constructor."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    @classmethod
    def place(cls) -> str:
        """The key of this kind of section in the tree of a run; empty for a whole tree."""
        return cls.__name__.removesuffix("Config").lower()

    @classmethod
    def section_of(cls, name: str) -> type[Section] | None:
        """The kind of section under key `name`, or of each entry if the key holds a list of them; None for a value."""
        hint = cls.model_fields[name].annotation
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
        return inner if isinstance(inner, type) and issubclass(inner, Section) else None


def mistakes(kind: type[Section], values: Mapping[str, Any], error: ValidationError | None) -> list[str]:
    """One line for each mistake in `values`, of which `error` is what validation said first.

    Rules are only checked on values that are valid by themselves. So what was refused is taken out and the rest is
    validated again, until nothing is refused; a rule that joins a refused key is left out.
    """
    tree = copy.deepcopy(dict(values))
    lines: list[str] = []
    refused: list[Key] = []
    while error is not None:
        found = [(item, _paths(item)) for item in error.errors(include_url=False)]
        inner = {item["loc"][:depth] for item, _ in found for depth in range(len(item["loc"]))}
        lines += [
            _line(kind, item) for item, paths in found if item["loc"] not in inner and not _joined(paths, refused)
        ]
        new = [path for _, paths in found for path in paths]
        refused += new
        taken_out = [_take_out(tree, path) for path in new]
        if not any(taken_out):
            break
        error = _validation_error(kind, tree)
    return list(dict.fromkeys(lines))


def _validation_error(kind: type[Section], tree: Mapping[str, Any]) -> ValidationError | None:
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
    section = loc[: len(loc) - len(item["ctx"]["paths"][0])]
    return [(*section, *path) for path in item["ctx"]["paths"]]


def _joined(paths: Iterable[Key], refused: Iterable[Key]) -> bool:
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


def _line(kind: type[Section], item: ErrorDetails) -> str:
    """`key = value: what would be accepted`."""
    loc, value, error = item["loc"], item["input"], item["type"]
    if error == "missing":  # an entry of a list of fixed length; no key of the tree is required
        loc = loc[:-1]
    loc = loc[: loc.index("[key]")] if "[key]" in loc else loc
    key = _dotted(kind, loc)
    if error in ("extra_forbidden", "invalid_key"):
        return f"unknown key '{key}'{_did_you_mean(kind, loc)}"
    field = _field(kind, loc)
    if field and isinstance(loc[-1], int) and typing.get_origin(field.annotation) is tuple:
        key = f"{_dotted(kind, loc[:-1])}[{loc[-1]}]"
    return f"{key} = {value!r}: {_accepted(item, field)}"


def _accepted(item: ErrorDetails, field: FieldInfo | None) -> str:
    error, context = item["type"], item.get("ctx", {})
    if error in ("rule", "value"):
        return item["msg"]
    if error == "literal_error":
        return f"choose one of {', '.join(map(str, typing.get_args(field and _not_none(field.annotation))))}"
    if error in EXPECTED:
        text = EXPECTED[error]
    elif error in ("missing", "too_long") and field:
        text = f"expected {len(typing.get_args(field.annotation))} values"
    elif error == "too_short":
        text = f"needs at least {context['min_length']} entry"
    else:
        text = _range([*(field.metadata if field else []), *_bounds(context)]) or item["msg"]
    return f"{text} ({field.description})" if field and field.description else text


def _bounds(context: Mapping[str, Any]) -> list[BaseMetadata]:
    kinds = {"gt": Gt, "ge": Ge, "lt": Lt, "le": Le}
    return [kinds[name](bound) for name, bound in context.items() if name in kinds]


def _range(metadata: Iterable[Any]) -> str:
    """The values that bounds allow, in words."""
    low = next((bound for bound in metadata if isinstance(bound, (Gt, Ge))), None)
    high = next((bound for bound in metadata if isinstance(bound, (Lt, Le))), None)
    if low and high:
        left = f"({low.gt:g}" if isinstance(low, Gt) else f"[{low.ge:g}"
        right = f"{high.lt:g})" if isinstance(high, Lt) else f"{high.le:g}]"
        return f"must lie in {left}, {right}"
    if low:
        return f"must be greater than {low.gt:g}" if isinstance(low, Gt) else f"must be at least {low.ge:g}"
    if high:
        return f"must be below {high.lt:g}" if isinstance(high, Lt) else f"must be at most {high.le:g}"
    return ""


def _not_none(hint: Any) -> Any:
    """The other type of `X | None`."""
    kinds = [arg for arg in typing.get_args(hint) if arg is not type(None)]
    return kinds[0] if type(None) in typing.get_args(hint) else hint


def _dotted(kind: type[Section], loc: Key) -> str:
    """The key as an override writes it."""
    return ".".join(str(part) for part in (kind.place(), *loc) if part != "")


def _did_you_mean(kind: type[Section], loc: Key) -> str:
    """Names the nearest key of the same section, or the sections that have the key by exactly this name."""
    *above, last = loc
    section = kind
    for part in above:
        if isinstance(part, str):
            section = section.section_of(part) or section
    elsewhere = [name for name in kind.model_fields if last in getattr(kind.section_of(name), "model_fields", ())]
    if elsewhere:
        return f": did you mean {' or '.join(repr(f'{name}.{last}') for name in elsewhere)}?"
    return f": did you mean '{_dotted(kind, (*above, nearest(str(last), section.model_fields) or ''))}'?"


def _field(kind: type[Section], loc: Key) -> FieldInfo | None:
    """The field that the value at `loc` belongs to; None outside the schema."""
    field = None
    current: type[Section] | None = kind
    for part in loc:
        if isinstance(part, str):
            if current is None or part not in current.model_fields:
                return field
            field, current = current.model_fields[part], current.section_of(part)
    return field
