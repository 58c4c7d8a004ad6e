"""YAML recipes and `key=value` overrides into the validated configuration tree, and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from couplet.configs.schema import AdaptConfig, ConfigError, RunConfig, Section
from couplet.configs.yaml_core import read_yaml, write_yaml

Config = TypeVar("Config", bound=Section)

RECIPES = Path(__file__).parent


def load(kind: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of type `kind` that recipe `path` and `overrides` (`section.key=value`) describe.

    `path` is a file, or the name of a recipe that ships with the package (`tiny.yaml`). A recipe may start from another
    one by naming it under `base:` (a path relative to itself); its own values win.

    Raises:
        ConfigError: missing file, broken YAML, unknown key (with the nearest valid one) or a value out of range.
    """
    tree = read_recipe(path)
    own = kind.model_fields.keys()
    for command, other in (("train", RunConfig), ("adapt", AdaptConfig)):
        theirs = other.model_fields.keys()
        if tree.keys() & (theirs - own) and not tree.keys() & (own - theirs):
            raise ConfigError(f"{path}: is a recipe of `launch.py {command}`")
    return resolve(kind, tree, overrides)


def resolve(kind: type[Config], tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """The configuration of a plain tree and `overrides`; the tree is not changed. `ConfigError` as `load`."""
    changed = copy.deepcopy(dict(tree))
    for override in overrides:
        _set(changed, override)
    return from_dict(kind, changed)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The merged plain tree of a recipe file and its bases."""
    return _read(find_recipe(path), ())


def find_recipe(path: str | Path) -> Path:
    """`path` itself or the shipped recipe of that name; `ConfigError` if there is neither."""
    for candidate in (Path(path), RECIPES / path, RECIPES / Path(path).name):
        if candidate.is_file():
            return candidate
    shipped = sorted(str(recipe.relative_to(RECIPES)) for recipe in RECIPES.rglob("*.yaml"))
    raise ConfigError(f"config file {str(path)!r} does not exist; shipped recipes: {', '.join(shipped)}")


def from_dict(kind: type[Config], tree: Mapping[str, Any]) -> Config:
    """The configuration of type `kind` with the values of a plain tree. `ConfigError` with one line per mistake."""
    return kind(**{str(key): value for key, value in tree.items()})


def to_dict(config: Section) -> dict[str, Any]:
    """The plain tree of a configuration: `from_dict(type(config), to_dict(config)) == config`."""
    return config.model_dump(mode="json")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of a plain tree by their dotted names; lists are leaves."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def dump(config: Section) -> str:
    """The configuration as YAML, every default resolved."""
    return write_yaml(to_dict(config))


def _read(file: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The tree of `file`, which the recipes `above` are based on."""
    if file.resolve() in above:
        raise ConfigError(f"{file}: is its own base; remove `base:` from one of the recipes")
    try:
        text = file.read_text(encoding="utf-8")
        tree = read_yaml(text) or {}
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{file}: broken YAML: {line}{error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: broken YAML: {' '.join(str(error).split())}") from error
    if not text.strip():
        raise ConfigError(f"{file}: is empty, expected sections of `key: value`")
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: holds a {type(tree).__name__}, expected sections of `key: value`")
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{file}: base = {base!r}: expected the path of a recipe")
    return _merge(_read(find_recipe(file.parent / base), (*above, file.resolve())), tree)


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _set(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: write it as section.key=value")
    *sections, last = key.split(".")
    if "" in (*sections, last):
        raise ConfigError(f"override {override!r}: an empty name in {key!r}; write it as section.key=value")
    node: Any = tree
    for section in sections:
        if isinstance(node, list):
            node = _item(node, section, override)
            continue
        node = node.setdefault(section, {})
        if not isinstance(node, (dict, list)):
            raise ConfigError(f"override {override!r}: '{section}' is a value, not a section")
    try:
        value = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: {text!r} cannot be read as YAML; put it in quotes") from error
    if isinstance(node, list):
        raise ConfigError(f"override {override!r}: name a setting of the entry, as {key}.KEY=VALUE")
    node[last] = value


def _item(items: list[Any], index: str, override: str) -> Any:
    if not index.isdigit() or int(index) >= len(items):
        raise ConfigError(f"override {override!r}: '{index}' is not an index of a list of {len(items)}; the first is 0")
    return items[int(index)]
