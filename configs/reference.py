"""docs/configuration.md: every key of the configuration with its type, default and meaning, read from configs/schema.py.

`python -m couplet.configs.reference` writes the page; `--check` only says whether it is up to date.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import io
import sys
import tokenize
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from couplet.configs.load import to_dict
from couplet.configs.schema import AdaptConfig, RunConfig, StageConfig

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
HEAD = """# Configuration

Made by `make docs` (`python -m couplet.configs.reference`) from `configs/schema.py`: change it there.

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


def _kind(kind: type, title: str, known: Sequence[type]) -> Iterator[str]:
    """The keys of a tree and of its sections; a section in `known` is only pointed to."""
    yield f"## {title}\n\n{_about(kind)}\n"
    yield _table(kind, "")
    for field in dataclasses.fields(kind):
        section = _section(kind, field.name)
        if section in known:
            yield f"`{field.name}`: see [the section of `train`](#{field.name}).\n"
        elif section is not None:
            many = section is StageConfig
            prefix = f"{field.name}.N" if many else field.name
            yield f"### `{field.name}`\n\n{_about(section)}\n"
            yield _table(section, prefix)


def _sections(kind: type) -> list[type]:
    return [section for field in dataclasses.fields(kind) if (section := _section(kind, field.name))]


def _section(kind: type, name: str) -> type | None:
    """The dataclass behind a key, also where it holds a list of them."""
    hint = typing.get_type_hints(kind)[name]
    inner = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
    return inner if dataclasses.is_dataclass(inner) and isinstance(inner, type) else None


def _table(kind: type, prefix: str) -> str:
    comments, hints = _comments(kind), typing.get_type_hints(kind)
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        if not prefix and _section(kind, field.name):
            continue
        key = f"{prefix}.{field.name}" if prefix else field.name
        default = _default(field)
        cells = [f"`{key}`", _type(hints[field.name]), default, comments.get(field.name, "")]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(field: dataclasses.Field[Any]) -> str:
    factory = field.default_factory
    value = field.default if factory is dataclasses.MISSING else factory()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):  # what differs from the section's own defaults
        usual = to_dict(type(value)())
        value = {key: item for key, item in to_dict(value).items() if item != usual[key]}
    plain = list(value) if isinstance(value, tuple) else value
    return f"`{yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix(chr(10)).removesuffix('...').strip()}`"


def _type(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " | ".join("null" if arg is type(None) else _type(arg) for arg in args)
    if origin is typing.Literal:
        return " | ".join(f"`{arg}`" for arg in args)
    if origin is tuple:
        inner = [_type(arg) for arg in args if arg is not Ellipsis]
        return f"[{', '.join(inner)}{', …' if Ellipsis in args else ''}]"
    if origin is dict:
        return f"{_type(args[0])}: {_type(args[1])}"
    if dataclasses.is_dataclass(hint):
        return f"section like `{typing.cast(type, hint).__name__.removesuffix('Config').lower()}`"
    return {int: "whole number", float: "number", str: "text", bool: "true | false"}[hint]


def _about(kind: type) -> str:
    text = inspect.cleandoc(kind.__doc__ or "")
    return " ".join(text.split())


def _comments(kind: type) -> dict[str, str]:
    """Field -> the comment behind it, else the line of comment above it."""
    source = inspect.getsource(kind)
    fields = {
        node.lineno: node.target.id
        for node in ast.parse(source).body[0].body  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    alone = {line: text for line, text in comments.items() if line not in fields}
    return {name: comments.get(line, alone.get(line - 1, "")) for line, name in fields.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; with --check only compare, 1 where it is out of date."""
    parser = argparse.ArgumentParser(prog="python -m couplet.configs.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the page is out of date")
    if parser.parse_args(argv).check:
        current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
        print(f"{PAGE}: {'up to date' if current else 'out of date; run make docs'}")
        return 0 if current else 1
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
