"""The initial policy of a run: a folder, or the cached result of an adaptation recipe."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from couplet.commands.adapt import run_adaptation
from couplet.commands.checks import check_start
from couplet.commands.display import Display
from couplet.configs.load import load, to_dict
from couplet.configs.schema import AdaptConfig, RunConfig
from couplet.data.fingerprint import fingerprint
from couplet.learner.checkpoint import latest_checkpoint
from couplet.model.hub import find_policy


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


def cached_start(recipe: AdaptConfig, display: Display) -> Path:
    """The last stage of `recipe` from the cache; trained now if it is not there yet.

    If several processes need it, one trains it and the others wait; a killed training resumes.
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
        verb = "Resuming" if resume else "Preparing"
        display.headline(f"{verb} the start: {recipe.name} (kept in {folder} for later runs)")
        run = recipe.replace(runs_dir=str(folder.parent), name=unfinished.name)
        trained = run_adaptation(run, display, resume=resume)
        folder.mkdir(exist_ok=True)
        shutil.copyfile(unfinished / "config.yaml", folder / "config.yaml")
        os.replace(trained, policy)
        shutil.rmtree(unfinished)
    return policy


@contextmanager
def _alone(path: Path, display: Display) -> Iterator[None]:
    """Hold a lock that ends with the process; wait for another holder, and say so."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        display.say(f"another process prepares this start; waiting for it ({path})")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def cache_folder() -> Path:
    """COUPLET_CACHE, or `couplet` in the user's cache folder."""
    if "COUPLET_CACHE" in os.environ:
        return Path(os.environ["COUPLET_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "couplet"


def _fingerprint(recipe: AdaptConfig) -> str:
    """Changes with every setting that changes the result, and with the code that makes it."""
    from couplet.data import infilling, tokenizer
    from couplet.data.corpora import corpus, stream
    from couplet.data.katas import compositions as kata_compositions
    from couplet.data.katas import corpus as kata_corpus
    from couplet.data.katas import problems as katas
    from couplet.data.katas import routines
    from couplet.learner import adapt, engine, schedule, supervised, torch_engine
    from couplet.model import families, logprob, policy, randomness, transformer

    tree = {k: v for k, v in to_dict(recipe).items() if k not in ("name", "runs_dir", "ray", "checkpoint")}
    trained_by = (adapt, engine, torch_engine, schedule, supervised, families, logprob, policy, randomness, transformer)
    trained_on = (corpus, infilling, kata_compositions, kata_corpus, katas, routines, stream, tokenizer)
    files = [Path(str(module.__file__)) for module in (*trained_by, *trained_on)]
    files.append(Path(str(kata_compositions.__file__)).with_name("primitives.yaml"))
    return fingerprint((json.dumps(tree, sort_keys=True), *(file.read_bytes() for file in files)), size=6)
