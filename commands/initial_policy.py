"""The policy a run starts from: a folder, or the cached result of an adaptation recipe."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from couplet.commands.adapt import run_adaptation
from couplet.commands.display import Display
from couplet.configs.load import load, to_dict
from couplet.configs.schema import AdaptConfig, ConfigError, RunConfig, require
from couplet.learner.checkpoint import latest_checkpoint
from couplet.model.hub import find_policy, may_be_policy
from couplet.reward.functions import chosen


def resolve_start(config: RunConfig, display: Display) -> str:
    """Folder of the start policy; a recipe is carried out on first use and kept in the cache folder.

    Raises:
        ConfigError: neither or both of `model.path` and `model.recipe` are given, or the folder does not exist.
    """
    check_start(config)
    if config.model.path is not None:
        return find_policy(config.model.path, "model.path")
    recipe = load(AdaptConfig, str(config.model.recipe), [f"seed={config.seed}"])
    return str(cached_start(recipe, display))


def check_start(config: RunConfig) -> None:
    """`ConfigError` or `ValueError` unless exactly one start is named, can exist and has a mask token; trains nothing."""
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
        from couplet.model.tokens import read_token_names, resolve_token_ids

        fields = json.loads((Path(path) / "config.json").read_text())
        resolve_token_ids(fields, read_token_names(Path(path)), config.model.end_tokens, f"model.path = {path!r}")


def check_settings(config: RunConfig) -> None:
    """`check_start`, and whatever else of a training run can be seen to fail without reading problems or starting anything.

    Raises:
        ConfigError, ValueError: the first thing that cannot work.
    """
    check_start(config)
    sampler, rewards = config.sampler, config.reward.functions
    chance = sampler.temperature > 0 or sampler.order == "origin" or bool(sampler.alg_temp)
    require(
        chance, "sampler.temperature", 0.0, "all completions of a prompt would be equal, and nothing could be learned"
    )
    chosen(rewards)  # each name known
    longest, needed = _longest(config), config.problems.max_prompt_tokens + sampler.completion_length
    if longest is not None:
        where = "problems.max_prompt_tokens + sampler.completion_length"
        require(needed <= longest, where, needed, f"the model has positions for {longest} tokens")


def _longest(config: RunConfig) -> int | None:
    """Positions of the start, where they can be known without fetching it."""
    if config.model.recipe is not None:
        recipe = load(AdaptConfig, config.model.recipe)
        return recipe.shape.max_positions if recipe.start is None else None
    file = Path(str(config.model.path)) / "config.json"
    return json.loads(file.read_text()).get("max_position_embeddings") if file.is_file() else None


def cached_start(recipe: AdaptConfig, display: Display) -> Path:
    """The last stage of `recipe` from the cache; trained now where it is not there yet.

    Of several processes that need it at once one trains and the others wait; a training that was killed goes on.
    """
    folder = cache_folder() / f"{recipe.name}-{_fingerprint(recipe)}"
    policy, unfinished = folder / "policy", folder.with_name(f"{folder.name}.part")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_name(f".{folder.name}.lock"), display):
        if (policy / "config.json").is_file():
            display.say(f"start: {recipe.name}, from the cache ({policy})")
            return policy
        resume = latest_checkpoint(unfinished / "checkpoints") is not None
        if not resume:
            shutil.rmtree(unfinished, ignore_errors=True)
        verb = "Going on with" if resume else "Preparing"
        display.headline(f"{verb} the start: {recipe.name} (kept in {folder} for later runs)")
        run = replace(recipe, runs_dir=str(folder.parent), name=unfinished.name)
        trained = run_adaptation(run, display, resume=resume)
        folder.mkdir(exist_ok=True)
        shutil.copyfile(unfinished / "config.yaml", folder / "config.yaml")
        os.replace(trained, policy)
        shutil.rmtree(unfinished)
    return policy


@contextmanager
def _alone(path: Path, display: Display) -> Iterator[None]:
    """Hold a lock that ends with the process; wait for another holder, and say so."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            display.say(f"another process prepares this start; waiting for it ({path})")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cache_folder() -> Path:
    """COUPLET_CACHE, or `couplet` in the user's cache folder."""
    if "COUPLET_CACHE" in os.environ:
        return Path(os.environ["COUPLET_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "couplet"


def _fingerprint(recipe: AdaptConfig) -> str:
    """Changes with every setting that changes the result, and with the code that makes it."""
    from couplet.data import tokenizer
    from couplet.data.corpora import corpus, stream
    from couplet.data.katas import compositions as kata_compositions
    from couplet.data.katas import corpus as kata_corpus
    from couplet.data.katas import problems as katas
    from couplet.learner import adapt, engine, schedule, supervised, torch_engine
    from couplet.model import dream, logprob, policy, randomness

    tree = {k: v for k, v in to_dict(recipe).items() if k not in ("name", "runs_dir", "ray", "checkpoint")}
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode())
    trained_by = (adapt, engine, torch_engine, schedule, supervised, dream, logprob, policy, randomness)
    trained_on = (corpus, kata_compositions, kata_corpus, katas, stream, tokenizer)
    for module in (*trained_by, *trained_on):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:12]
