"""`Section`: the base of every part of the configuration tree.

A section is a frozen pydantic model that refuses unknown keys. Constraint, default and description of a key are in its
`Field`; rules that join several keys are in `Section.rules`. However a section is made, from a recipe, by keyword or by
`replace`, what cannot work is refused with a `ConfigError` that has one line per mistake (`couplet.configs.mistakes`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, ValidationError, model_validator

from couplet.configs.errors import ConfigError
from couplet.configs.mistakes import mistakes, rule_error

SWITCH = {"on": True, "yes": True, "off": False, "no": False}

Switch = Annotated[bool, BeforeValidator(lambda value: SWITCH.get(value, value) if isinstance(value, str) else value)]
"""true or false; the words of YAML 1.1 (on, off, yes, no) are understood too."""

Texts = Annotated[tuple[str, ...], Strict(False)]
"""A list of texts; a list in a recipe becomes a tuple."""


class Rule(NamedTuple):
    """A rule that joins keys. It counts only if each of its keys is valid by itself."""

    holds: bool
    keys: str  # separated by blanks; the first is the one to change
    remedy: str  # what is required of the first


class Section(BaseModel):
    """A frozen part of the configuration tree."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        """Raises `ConfigError` with one line per mistake in `values`."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError("\n".join(mistakes(type(self), values, error, self.place()))) from None

    # A section inside another is validated by pydantic itself, so that the errors of all sections are gathered.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def rules(self) -> Iterator[Rule]:
        """The rules that join keys of this section."""
        yield from ()

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        broken = [rule_error(self, rule.keys, rule.remedy) for rule in self.rules() if not rule.holds]
        if broken:
            raise ValidationError.from_exception_data(type(self).__name__, broken)
        return self

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, validated. `ConfigError` as the constructor."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    @classmethod
    def place(cls) -> str:
        """The key of this kind of section in the tree of a run; empty for a whole tree."""
        return cls.__name__.removesuffix("Config").lower()


class Tree(Section):
    """A whole tree: what a recipe describes."""

    @classmethod
    def place(cls) -> str:
        return ""
