"""YAML recipes and `key=value` overrides into the validated configuration tree, and back."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from couplet.configs.schema import AdaptConfig, ConfigError, RunConfig

Config = TypeVar("Config")

RECIPES = Path(__file__).parent


def load(kind: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of type `kind` that recipe `path` and `overrides` (`section.key=value`) describe.

    `path` is a file, or the name of a recipe that ships with the package (`tiny.yaml`). A recipe may start from another
    one by naming it under `base:` (a path relative to itself); its own values win.

    Raises:
        ConfigError: missing file, broken YAML, unknown key (with the nearest valid one) or a value out of range.
    """
    tree = read_recipe(path)
    for command, other in (("train", RunConfig), ("adapt", AdaptConfig)):
        keys = {field.name for field in dataclasses.fields(other)}
        if other is not kind and tree.keys() <= keys and not tree.keys() <= {f.name for f in dataclasses.fields(kind)}:  # type: ignore[arg-type]
            raise ConfigError(f"{path}: is a recipe of `launch.py {command}`")
    return resolve(kind, tree, overrides)


def resolve(kind: type[Config], tree: dict[str, Any], overrides: Sequence[str] = ()) -> Config:
    """The configuration of a plain tree and `overrides`; the tree is not changed. `ConfigError` as `load`."""
    tree = copy.deepcopy(tree)
    for override in overrides:
        _set(tree, override)
    return from_dict(kind, tree)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The merged plain tree of a recipe file and its bases."""
    return _read(find_recipe(path), ())


def _read(file: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The tree of `file`, which the recipes `above` are based on."""
    if file.resolve() in above:
        raise ConfigError(f"{file}: is its own base")
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), _Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: broken YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: holds a {type(tree).__name__}, expected sections of `key: value`")
    base = tree.pop("base", None)
    return tree if base is None else _merge(_read(find_recipe(file.parent / base), (*above, file.resolve())), tree)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice; YAML's own loader takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def find_recipe(path: str | Path) -> Path:
    """`path` itself or the shipped recipe of that name; `ConfigError` names both places where neither exists."""
    for candidate in (Path(path), RECIPES / path, RECIPES / Path(path).name):
        if candidate.is_file():
            return candidate
    shipped = sorted(str(p.relative_to(RECIPES)) for p in RECIPES.rglob("*.yaml"))
    raise ConfigError(f"config file {str(path)!r} does not exist; shipped recipes: {', '.join(shipped)}")


def from_dict(kind: type[Config], tree: Mapping[str, Any], where: str = "", base: Config | None = None) -> Config:
    """Build dataclass `kind` from a plain tree; `where` is the dotted path used in messages.

    What the tree leaves out comes from `base`, else from the defaults. A section that is given in part likewise keeps the
    rest of the section it would otherwise be: a stage's own optimizer, not the optimizer of a run.
    """
    hints = typing.get_type_hints(kind)
    defaults = {f.name: _default(f) if base is None else getattr(base, f.name) for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in tree:
        if key not in defaults:
            near = difflib.get_close_matches(str(key), list(defaults), n=1, cutoff=0.0)
            raise ConfigError(f"unknown key '{_join(where, key)}': did you mean '{_join(where, near[0])}'?")
    values = {key: _convert(value, hints[key], _join(where, key), defaults[key]) for key, value in tree.items()}
    return kind(**defaults | values)


def to_dict(config: Any) -> dict[str, Any]:
    """The plain tree of a configuration: `from_dict(type(config), to_dict(config)) == config`."""
    return _plain(dataclasses.asdict(config))


def dump(config: Any) -> str:
    """The configuration as YAML, every default resolved."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


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
    node: Any = tree
    for section in sections:
        if isinstance(node, list):
            node = _item(node, section, override)
            continue
        node = node.setdefault(section, {})
        if not isinstance(node, (dict, list)):
            raise ConfigError(f"override {override!r}: '{section}' is a value, not a section")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: {text!r} is no YAML value") from error
    if isinstance(node, list):
        raise ConfigError(f"override {override!r}: name a setting of the entry, as {key}.KEY=VALUE")
    node[last] = value


def _item(items: list[Any], index: str, override: str) -> Any:
    if not index.isdigit() or int(index) >= len(items):
        raise ConfigError(f"override {override!r}: '{index}' is no index into a list of {len(items)}")
    return items[int(index)]


def _default(field: dataclasses.Field[Any]) -> Any:
    """Every field of the schema has a default."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _convert(value: Any, hint: Any, where: str, default: Any = None) -> Any:
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(value, next(a for a in args if a is not type(None)), where)
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"{where} = {value!r}: choose one of {', '.join(map(str, args))}")
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} = {value!r}: expected a section of `key: value`")
        return from_dict(typing.cast(type, hint), value, where, default)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} = {value!r}: expected a list")
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(inner) != len(value):
            raise ConfigError(f"{where} = {value!r}: expected {len(inner)} values")
        return tuple(_convert(item, kind, f"{where}[{i}]") for i, (item, kind) in enumerate(zip(value, inner)))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} = {value!r}: expected a section of `key: value`")
        return {str(key): _convert(item, args[1], _join(where, key)) for key, item in value.items()}
    return _scalar(value, hint, where)


def _scalar(value: Any, hint: type, where: str) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-6 as text
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{where} = {value!r}: expected {hint.__name__}")
