"""What is generated from the configuration's models: docs/configuration.md and the JSON schemas for editors.

`python -m couplet.configs.reference` writes them; `--check` only reports whether they are up to date.
"""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from couplet.configs.generated import with_generated, write_or_check
from couplet.configs.load import RECIPES, to_dict
from couplet.configs.markdown import markdown_table
from couplet.configs.mistakes import section_of
from couplet.configs.schema import AdaptConfig, RunConfig, Section, StageConfig

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
SCHEMAS: dict[type[Section], Path] = {
    RunConfig: RECIPES / "schema.json",
    AdaptConfig: RECIPES / "adapt_schema.json",
}


def page() -> str:
    """The whole page."""
    shared = [section for field in RunConfig.model_fields.values() if (section := section_of(field))]
    tables = (*_kind(RunConfig, "Keys of `train`", ()), *_kind(AdaptConfig, "Keys of `adapt`", shared))
    return with_generated(PAGE, "\n".join(tables))


def json_schema(kind: type[Section]) -> str:
    """The JSON schema of a recipe of `kind`, by which an editor completes and checks its keys."""
    schema = kind.model_json_schema(schema_generator=_Schema)
    base = {"type": "string", "description": "recipe this one starts from; a path relative to this file"}
    tree = {"$schema": _Schema.schema_dialect, **schema, "properties": {"base": base, **schema["properties"]}}
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


class _Schema(GenerateJsonSchema):
    """Without titles, which would repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _kind(kind: type[BaseModel], title: str, known: Sequence[type]) -> Iterator[str]:
    """The keys of a tree and of its sections; a section in `known` is only pointed to."""
    yield f"## {title}\n\n{_about(kind)}\n"
    heads = ("key", "type", "default", "meaning")
    yield markdown_table(heads, _rows(kind, "")) + "\n"
    for name, field in kind.model_fields.items():
        section = section_of(field)
        if section in known:
            yield f"`{name}`: see [the section of `train`](#{name}).\n"
        elif section is not None:
            prefix = f"{name}.N" if section is StageConfig else name
            yield f"### `{name}`\n\n{_about(section)}\n"
            yield markdown_table(heads, _rows(section, prefix)) + "\n"


def _rows(kind: type[BaseModel], prefix: str) -> list[list[str]]:
    """One row per key; a section that has no table of its own gives the rows of its keys."""
    rows = []
    for name, field in kind.model_fields.items():
        section = section_of(field)
        if not prefix and section:
            continue
        key = f"{prefix}.{name}" if prefix else name
        if section and issubclass(section, Section) and section.place() not in RunConfig.model_fields:
            rows += _rows(section, key)
        else:
            rows.append([f"`{key}`", _type(field.annotation), _default(field), field.description or ""])
    return rows


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, Section):  # what differs from the section's own defaults
        usual = to_dict(type(value)())
        value = {key: item for key, item in to_dict(value).items() if item != usual[key]}
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000)
    return f"`{text.removesuffix(chr(10)).removesuffix('...').strip()}`"


def _type(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _type(args[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join("null" if arg is type(None) else _type(arg) for arg in args)
    if origin is typing.Literal:
        return " | ".join(f"`{arg}`" for arg in args)
    if origin is tuple:
        inner = [_type(arg) for arg in args if arg is not Ellipsis]
        return f"[{', '.join(inner)}{', …' if Ellipsis in args else ''}]"
    if origin is dict:
        return f"{_type(args[0])}: {_type(args[1])}"
    if issubclass(hint, Section):
        return f"section like `{hint.place()}`"
    return {int: "whole number", float: "number", str: "text", bool: "true | false"}[hint]


def _about(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split())


def documents() -> dict[Path, str]:
    """Every generated file with its text."""
    return {PAGE: page()} | {path: json_schema(kind) for kind, path in SCHEMAS.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files; with --check only compare, 1 if one is out of date."""
    return write_or_check(documents(), argv, "couplet.configs.reference", __doc__)


if __name__ == "__main__":
    sys.exit(main())
