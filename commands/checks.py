"""Checks of a training run before anything is read or started."""

from __future__ import annotations

from pathlib import Path

from couplet.configs.load import load
from couplet.configs.schema import AdaptConfig, ConfigError, ModelConfig, RunConfig, require
from couplet.model.hub import may_be_policy
from couplet.reward.functions import chosen


def check_start(config: RunConfig) -> None:
    """`ConfigError` or `ValueError` unless exactly one initial policy is named, may exist and has a mask token."""
    path, recipe = config.model.path, config.model.recipe
    if (path is None) == (recipe is None):
        raise ConfigError(
            f"model.path = {path!r}, model.recipe = {recipe!r}: give exactly one of them, and null for the other"
        )
    if recipe is not None:
        load(AdaptConfig, recipe)
    elif path is not None and not may_be_policy(path):
        raise ConfigError(f"model.path = {path!r}: no such model folder (a folder with config.json is expected)")
    elif path is not None and Path(path).is_dir():
        check_policy_folder(Path(path), config.model, f"model.path = {path!r}")


def check_policy_folder(folder: Path, model: ModelConfig, where: str) -> None:
    """`ModelFolderError` unless the files of `folder` describe a diffusion policy with weights; loads none of them."""
    from couplet.model.folder import folder_token_ids, weight_files

    folder_token_ids(folder, model.end_tokens, where, model.mask_token)
    weight_files(folder)


def check_settings(config: RunConfig) -> None:
    """`check_start`, and all other checks that neither read problems nor start anything.

    Raises:
        ConfigError, ValueError: the first that cannot work.
    """
    check_start(config)
    sampler, rewards = config.sampler, config.reward.functions
    chance = sampler.temperature > 0 or sampler.order == "origin" or bool(sampler.alg_temp)
    require(
        chance, "sampler.temperature", 0.0, "all completions of a prompt would be equal, and nothing could be learned"
    )
    chosen(rewards)  # each name known
    longest = _longest(config)
    if longest is None:
        return
    prompts = {
        "problems.max_prompt_tokens": config.problems.max_prompt_tokens,
        "evaluation.max_prompt_tokens": config.evaluation.max_prompt_tokens or 0,
    }
    for name, tokens in prompts.items():
        needed = tokens + sampler.completion_length
        where, remedy = f"{name} + sampler.completion_length", f"the model has positions for {longest} tokens"
        require(needed <= longest, where, needed, remedy)


def _longest(config: RunConfig) -> int | None:
    """Positions of the initial policy, if known without downloading it."""
    if config.model.recipe is not None:
        recipe = load(AdaptConfig, config.model.recipe)
        return recipe.shape.max_positions if recipe.start is None else None
    folder = Path(str(config.model.path))
    if not (folder / "config.json").is_file():
        return None
    from couplet.model.folder import read_config

    return read_config(folder).get("max_position_embeddings")
