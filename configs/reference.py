"""What is generated from the configuration's models: docs/configuration.md and the JSON schemas for editors.

`python -m couplet.configs.reference` writes them; `--check` only reports whether they are up to date.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from couplet.configs.load import RECIPES, to_dict
from couplet.configs.schema import AdaptConfig, RunConfig, Section, StageConfig

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
SCHEMAS: dict[type[Section], Path] = {
    RunConfig: RECIPES / "schema.json",
    AdaptConfig: RECIPES / "adapt_schema.json",
}
HEAD = """# Configuration

Made by `make docs` (`python -m couplet.configs.reference`) from the models in `configs/`: change it there.

A run is described by one tree: a YAML recipe, then `key=value` overrides from the command line. Keys of a section are
written `section.key`. What neither names has the default below. An unknown key, a wrong type or a value that cannot work
is refused before anything starts. The resolved tree of a run is `config.yaml` in its folder.

```sh
python launch.py train my.yaml steps=200 sampler.temperature=1.2 reward.functions='{code: 1.0}'
python launch.py adapt my_stages.yaml stages.0.steps=100      # an entry of a list by its number
python launch.py train my.yaml --dry-run                      # checks everything, starts nothing
```

**`base:`** A recipe may start from another one and state only what differs. The path is relative to the recipe itself;
where no such file exists, the shipped recipe of that name counts. Sections are merged key by key, at every depth; a list
is replaced as a whole. A base may have a base.

```yaml
base: tiny.yaml              # beside this recipe, else the shipped recipe of that name
name: my-run
sampler: {temperature: 1.2}  # the rest of the section stays
```

Types: a choice of words is written with bars, `[text, …]` is a list, `null` stands for "none".
"""


TAIL = """## Environment variables

| variable | meaning |
|---|---|
| `RAY_ADDRESS` | the Ray cluster to join where `ray.address` is null; without both a local Ray is started |
| `HF_HOME` | where models and data sets of the hub are kept (default `~/.cache/huggingface`) |
| `COUPLET_CACHE` | where tuned starts (`model.recipe`) are kept (default `couplet` in `XDG_CACHE_HOME`, else `~/.cache/couplet`) |
| `E2B_API_KEY` | key of E2B's cloud, for `sandbox.tier: e2b` only |
| `OPENAI_API_KEY` | key that `prepare rate --endpoint` sends, where there is one |

The trackers (`tracker: wandb`, `mlflow`) read variables of their own.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | a defect of Couplet, with its traceback |
| 2 | a mistake to mend (a setting, a file, an option, a missing package), told without a traceback |
| 130 | Ctrl-C; `train` and `adapt` go on with `--resume` |
| 141 | the reader of the output has gone, as in a pipe into `head` |
"""


def page() -> str:
    """The whole page."""
    tables = (*_kind(RunConfig, "Keys of `train`", ()), *_kind(AdaptConfig, "Keys of `adapt`", _sections(RunConfig)))
    parts = [HEAD, *tables, TAIL]
    return "\n".join(parts).rstrip() + "\n"


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


def _kind(kind: type[Section], title: str, known: Sequence[type]) -> Iterator[str]:
    """The keys of a tree and of its sections; a section in `known` is only pointed to."""
    yield f"## {title}\n\n{_about(kind)}\n"
    yield _table(kind, "")
    for name in kind.model_fields:
        section = kind.section_of(name)
        if section in known:
            yield f"`{name}`: see [the section of `train`](#{name}).\n"
        elif section is not None:
            prefix = f"{name}.N" if section is StageConfig else name
            yield f"### `{name}`\n\n{_about(section)}\n"
            yield _table(section, prefix)


def _sections(kind: type[Section]) -> list[type[Section]]:
    return [section for name in kind.model_fields if (section := kind.section_of(name))]


def _table(kind: type[Section], prefix: str) -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in kind.model_fields.items():
        if not prefix and kind.section_of(name):
            continue
        key = f"{prefix}.{name}" if prefix else name
        cells = [f"`{key}`", _type(field.annotation), _default(field), field.description or ""]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


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
    text = inspect.cleandoc(kind.__doc__ or "")
    return " ".join(text.split())


def documents() -> dict[Path, str]:
    """Every generated file with its text."""
    return {PAGE: page()} | {path: json_schema(kind) for kind, path in SCHEMAS.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files; with --check only compare, 1 if one is out of date."""
    parser = argparse.ArgumentParser(prog="python -m couplet.configs.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file is out of date")
    check, code = parser.parse_args(argv).check, 0
    for path, text in documents().items():
        if not check:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{path}: out of date; run make docs")
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
