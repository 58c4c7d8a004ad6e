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
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from couplet.configs.load import RECIPES, to_dict
from couplet.configs.markdown import markdown_table
from couplet.configs.mistakes import section_of
from couplet.configs.schema import AdaptConfig, RunConfig, Section, StageConfig

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
SCHEMAS: dict[type[Section], Path] = {
    RunConfig: RECIPES / "schema.json",
    AdaptConfig: RECIPES / "adapt_schema.json",
}
HEAD = """# Configuration

Made by `make docs` (`python -m couplet.configs.reference`) from the models in `configs/`: change it there.

A run is described by one tree: a YAML recipe, then `key=value` overrides from the command line. Keys of a section are
written `section.key`. A key that neither of them names has the default below. An unknown key, a wrong type or a value that
cannot work is refused before anything starts; all mistakes of a recipe are reported at once, one line each. The resolved
tree of a run is `config.yaml` in its folder.

```sh
python launch.py train my.yaml steps=200 sampler.temperature=1.2 reward.functions='{code: 1.0}'
python launch.py adapt my_stages.yaml stages.0.steps=100      # an entry of a list by its index
python launch.py train my.yaml --dry-run                      # checks everything, starts nothing
```

**`base:`** A recipe may start from another one and name only what differs. The path is relative to the recipe itself; if
there is no such file, the shipped recipe of that name is used. Sections are merged key by key, at every depth; a list is
replaced as a whole. A base may have a base.

```yaml
# yaml-language-server: $schema=../configs/schema.json
base: tiny.yaml              # next to this recipe, else the shipped recipe of that name
name: my-run
sampler: {temperature: 1.2}  # the other keys of the section keep their values
```

**Editors.** The first line above names the JSON schema of the recipe, `configs/schema.json` for `train` and
`configs/adapt_schema.json` for `adapt`. An editor with a YAML language server (VS Code with the YAML extension, for one)
then completes keys, shows their meaning and marks mistakes. The path is relative to the recipe, or absolute.

Types: alternatives are separated by bars, `[text, …]` is a list, `null` stands for "none". Plain values are read by YAML
1.2: `1e-6` is a number, `off` is text. Only a key of type `true | false` also understands `on`, `off`, `yes` and `no`.
"""


TAIL = """## Environment variables

| variable | meaning |
|---|---|
| `RAY_ADDRESS` | the Ray cluster to join if `ray.address` is null; without both a local Ray is started |
| `HF_HOME` | cache of the models and data sets of the hub (default `~/.cache/huggingface`) |
| `COUPLET_CACHE` | cache of the policies that `model.recipe` makes (default `couplet` in `XDG_CACHE_HOME`, else `~/.cache/couplet`) |
| `COUPLET_GRACE_SECONDS` | how long a run that gets SIGTERM or SIGHUP may take to finish its step (default 20; batch systems often kill after 30) |
| `E2B_API_KEY` | key of E2B's cloud, for `sandbox.tier: e2b` only |
| `OPENAI_API_KEY` | key that `prepare rate --endpoint` sends, if it is set |

The trackers (`tracker: wandb`, `mlflow`) read variables of their own.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | a defect of Couplet, with its traceback |
| 2 | a mistake of the user (a setting, a file, an option, a missing package), reported without a traceback |
| 130 | Ctrl-C; `train` and `adapt` resume with `--resume` |
| 143, 129 | SIGTERM, SIGHUP: `train` finishes its step and saves; a step that takes longer than `COUPLET_GRACE_SECONDS` is abandoned, and the last checkpoint stays |
| 141 | the reader of the output has ended, as in a pipe into `head` |
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


def _kind(kind: type[BaseModel], title: str, known: Sequence[type]) -> Iterator[str]:
    """The keys of a tree and of its sections; a section in `known` is only pointed to."""
    yield f"## {title}\n\n{_about(kind)}\n"
    yield _table(kind, "")
    for name, field in kind.model_fields.items():
        section = section_of(field)
        if section in known:
            yield f"`{name}`: see [the section of `train`](#{name}).\n"
        elif section is not None:
            prefix = f"{name}.N" if section is StageConfig else name
            yield f"### `{name}`\n\n{_about(section)}\n"
            yield _table(section, prefix)


def _sections(kind: type[BaseModel]) -> list[type[BaseModel]]:
    return [section for field in kind.model_fields.values() if (section := section_of(field))]


def _table(kind: type[BaseModel], prefix: str) -> str:
    return markdown_table(("key", "type", "default", "meaning"), _rows(kind, prefix)) + "\n"


def _rows(kind: type[BaseModel], prefix: str) -> list[list[str]]:
    """One row per key; a section that has no table of its own gives the rows of its keys."""
    rows = []
    for name, field in kind.model_fields.items():
        section = section_of(field)
        if not prefix and section:
            continue
        key = f"{prefix}.{name}" if prefix else name
        if section and issubclass(section, Section) and section.place() == key:
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
