"""The settings that belong to a policy folder: those of its run, of its adaptation, or its own decoding defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from couplet.configs.errors import UserError
from couplet.configs.json_file import read_object
from couplet.configs.load import read_recipe, resolve
from couplet.configs.schema import ConfigError, RunConfig, SamplerConfig

GENERATION_FILE = "generation_config.json"
TOKEN_FIELDS = ("mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id")


def config_for(folder: Path, recipe: str | None, overrides: Sequence[str] = ()) -> RunConfig:
    """How to sample from the policy in `folder` and judge it: `recipe` if one is named, else `settings_tree`.

    Raises:
        ConfigError: an invalid recipe or override.
    """
    return resolve(RunConfig, settings_tree(folder) if recipe is None else read_recipe(recipe), overrides)


def settings_tree(folder: Path) -> dict[str, Any]:
    """A plain tree of `RunConfig`; empty if nothing is known about the folder.

    A policy of a `train` run has that run's settings; one of `adapt` the canvas of its last instruction stage, one
    token per step; any other folder the diffusion decoding defaults in its generation_config.json.
    """
    folder = folder.resolve()
    for place in _run_folders(folder):
        if (place / "config.yaml").exists():
            path = place / "config.yaml"
            tree = read_recipe(path)
            tree = _of_adaptation(tree, path) if "stages" in tree else tree
            try:
                resolve(RunConfig, tree)
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from error
            return tree
    return _of_generation(folder / GENERATION_FILE)


def _run_folders(folder: Path) -> list[Path]:
    """Folders that may contain the run's config, for RUN/policy, RUN/stages/NAME and RUN/checkpoints/STEP/policy."""
    found = [folder.parent]
    if folder.parent.name == "stages":
        found.append(folder.parents[1])
    if len(folder.parents) > 2 and folder.parents[1].name == "checkpoints":
        found.append(folder.parents[2])
    return found


def _of_adaptation(tree: Mapping[str, Any], path: Path) -> dict[str, Any]:
    try:
        canvases = [stage["canvas"] for stage in tree["stages"] if stage.get("objective") == "instruct"]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: its stages cannot be read ({error!r}); the settings of a run are its config.yaml"
        ) from error
    if not canvases:
        return {}
    return {"sampler": {"completion_length": canvases[-1], "steps": canvases[-1]}}


def _of_generation(path: Path) -> dict[str, Any]:
    """Only a file with a reveal order (`alg`) is about diffusion; those of autoregressive models are ignored."""
    fields = read_object(path, "delete it or fetch it again") if path.exists() else {}
    if "alg" not in fields:
        return {}
    sampler = {ours: fields[theirs] for ours, theirs in _NAMES.items() if fields.get(theirs) is not None}
    return {"sampler": sampler}


_NAMES = {
    "order": "alg",
    "steps": "steps",
    "completion_length": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "alg_temp": "alg_temp",
    "eps": "eps",
}


def generation_fields(sampler: SamplerConfig) -> dict[str, Any]:
    """The decoding defaults of generation_config.json, in the names of Dream's decoder; `_of_generation` reads them."""
    return {theirs: getattr(sampler, ours) for ours, theirs in _NAMES.items()}


def write_decoding(folder: Path, sampler: SamplerConfig) -> None:
    """Write the generation_config.json of the policy in `folder`: decoding defaults and the ids of special tokens."""
    fields = read_object(folder / "config.json")
    tree = generation_fields(sampler) | {name: fields[name] for name in TOKEN_FIELDS}
    (folder / GENERATION_FILE).write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
