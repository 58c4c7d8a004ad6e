"""The ablation study: every recipe of a folder trained from one policy with several seeds, as a table and a figure.

`python -m couplet.studies.ablations --start POLICY` trains in one process per run (`launch.py train --local`, plain
torch, staleness 0) and writes ablations.md. After a kill the same command resumes; only the unfinished run is repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from couplet.configs.json_file import read_object
from couplet.configs.load import RECIPES, load, to_dict
from couplet.configs.schema import ConfigError, RunConfig
from couplet.data.files import writing
from couplet.data.jsonl import read_jsonl
from couplet.data.metric_table import is_learner_step
from couplet.studies.ablations_report import write_ablations
from couplet.studies.cli import RunFailed, exit_code, options, policy_folder, run_couplet, words

ABLATIONS = RECIPES / "ablations"


@dataclass(frozen=True)
class Job:
    """One training run: a recipe, a seed, and its folder `runs/name`."""

    recipe: Path
    seed: int
    runs: Path
    name: str
    overrides: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The folder of the run's files."""
        return self.runs / self.name

    @property
    def settings(self) -> tuple[str, ...]:
        """Every override of the run."""
        return (*self.overrides, f"seed={self.seed}", f"runs_dir={self.runs}", f"name={self.name}")

    @property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return load(RunConfig, self.recipe, self.settings)


Train = Callable[[Job], None]
"""Carries a job out, so that its folder holds summary.json and metrics.jsonl."""


@dataclass(frozen=True)
class Study:
    """What to run.

    Attributes:
        start: policy folder that every run starts from.
        seeds: of training; the initial policy and the evaluation stay the same.
        names: recipes of `ABLATIONS` to run (without .yaml), of which `coupled` is the baseline; None runs all.
        overrides: `section.key=value` for every run.
        workers: runs at a time.
    """

    start: str
    seeds: Sequence[int] = (0, 1, 2)
    names: Sequence[str] | None = None
    overrides: Sequence[str] = ()
    workers: int = 1

    @property
    def facts(self) -> dict[str, Any]:
        """What the page says of the study, and the command that repeats it."""
        chosen = f" --names {','.join(self.names)}" if self.names is not None else ""
        command = f"python -m couplet.studies.ablations --start POLICY --seeds {','.join(map(str, self.seeds))}{chosen}"
        return {
            "start": "/".join(Path(self.start).parts[-2:]),
            "seeds": list(self.seeds),
            "overrides": list(self.overrides),
            "command": " ".join([command, *self.overrides]),
        }


def run_ablations(
    study: Study, out: Path, runs: Path, train: Train | None = None, console: Console | None = None
) -> dict[str, Any]:
    """Train every recipe with every seed and write `ablations.md`, `.json`, `.png` and `.svg` to `out`.

    Recipes that resolve to the same configuration share their runs. Finished runs in `runs` are read, not
    repeated, so a killed study resumes; an unfinished run is repeated.

    Args:
        study: what to run.
        out: folder of the results, e.g. `docs`.
        runs: folder of the training runs; it should contain nothing else.
        train: runs one job; by default `launch.py train … --local` in its own process.
        console: progress; None prints nothing.

    Raises:
        ConfigError: no such recipe, or one that cannot be loaded.
        RunFailed: a run that failed, with the end of its output.
    """
    known = {path.stem: path for path in sorted(ABLATIONS.glob("*.yaml"))}
    for name in study.names or ():
        if name not in known:
            raise ConfigError(f"recipe {name!r}: choose among {', '.join(known)}")
    files = {name: path for name, path in known.items() if study.names is None or name in study.names}
    fixed = (f"model.path={study.start}", "model.recipe=null", *study.overrides)
    owners = _owners(files, fixed)
    jobs = [
        Job(files[owner], seed, runs, f"{owner}-seed{seed}", fixed)
        for owner in dict.fromkeys(owners.values())
        for seed in study.seeds
    ]
    carry_out(jobs, train or train_in_process, study.workers, console)
    results = {(job.recipe.stem, job.seed): result(job) for job in jobs}
    rows = [
        {"recipe": name, "runs_of": owners[name], "seed": seed, **results[owners[name], seed]}
        for name in files
        for seed in study.seeds
    ]
    configs = {job.recipe.stem: to_dict(job.config) for job in jobs}
    facts = study.facts | {"left_out": sorted(known.keys() - files.keys())}
    found = write_ablations(rows, {name: configs[owners[name]] for name in files}, out, facts)
    if console is not None:
        console.print(f"{len(jobs)} runs; table, figure and data in {out}", highlight=False)
    return found


def train_in_process(job: Job) -> None:
    """`couplet train RECIPE … --local`; its output goes to `<run>.log` beside the run folder."""
    run_couplet(["train", str(job.recipe), *job.settings, "--local"], job.runs / f"{job.name}.log")


def _owners(files: dict[str, Path], overrides: Sequence[str]) -> dict[str, str]:
    """Recipe -> the first recipe with the same configuration (except for the name), `coupled` first."""
    found: dict[str, str] = {}
    first: dict[str, str] = {}
    for name in sorted(files, key=lambda name: (name != "coupled", name)):
        tree = to_dict(load(RunConfig, files[name], [*overrides, "name=any"]))
        found[name] = first.setdefault(json.dumps(tree, sort_keys=True), name)
    return found


def carry_out(jobs: Sequence[Job], train: Train, workers: int, console: Console | None) -> None:
    """Run the unfinished jobs."""
    started = time.monotonic()
    left = [job for job in jobs if not _finished(job)]
    for job in left:
        with writing(job.folder):
            shutil.rmtree(job.folder, ignore_errors=True)
            job.runs.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting = [(job, pool.submit(train, job)) for job in left]
        try:
            for number, (job, future) in enumerate(waiting, start=1):
                future.result()
                if console is not None:
                    minutes = (time.monotonic() - started) / 60
                    console.print(f"{number} of {len(left)}: {job.name}, {minutes:.1f} min", highlight=False)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _finished(job: Job) -> bool:
    """Whether the folder holds a finished run of exactly this configuration."""
    summary, config = job.folder / "summary.json", job.folder / "config.yaml"
    if not summary.is_file() or not config.is_file():
        return False
    stored = yaml.safe_load(config.read_text())
    return bool(stored == to_dict(job.config))


def result(job: Job) -> dict[str, Any]:
    """A run's part in the study: the flat numbers of its summary, AR-ness, and reward per step."""
    path = job.folder / "summary.json"
    if not path.is_file():
        raise RunFailed(f"run {job.name} left no {path}: see {job.runs / (job.name + '.log')}")
    summary = read_object(path)
    metrics = [row for _, row in read_jsonl(job.folder / "metrics.jsonl") if is_learner_step(row)]
    flat = {key: value for key, value in summary.items() if isinstance(value, (int, float)) and key != "seed"}
    return {
        **flat,
        "ar_ness": summary.get("ar_ness") or {},
        "reward": [row.get("reward_mean") for row in metrics],
        "step_seconds": [row.get("step_seconds") for row in metrics],
    }


def parser() -> argparse.ArgumentParser:
    """The options of `python -m couplet.studies.ablations`."""
    found = options("ablations", __doc__)
    found.add_argument("overrides", nargs="*", metavar="key=value", help="for every run, e.g. evaluation.limit=60")
    found.add_argument("--start", required=True, metavar="POLICY", help="policy folder that every run starts from")
    found.add_argument("--steps", type=int, metavar="N", help="learner steps of every run (default: the recipe's)")
    found.add_argument("--names", type=words, metavar="NAME,…", help="recipes of configs/ablations/ (default: all)")
    runs = Path("runs") / "ablations"
    found.add_argument("--runs", type=Path, default=runs, help=f"folder of the runs (default: {runs})")
    found.add_argument("--workers", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; see `exit_code`."""
    args = parser().parse_intermixed_args(argv)
    steps = () if args.steps is None else (f"steps={args.steps}",)
    overrides = (*steps, *args.overrides)

    def run() -> None:
        start = str(policy_folder(args.start, "--start"))
        study = Study(start, args.seeds, args.names, overrides, args.workers)
        run_ablations(study, args.out, args.runs.absolute(), console=Console())

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
