"""The path study: supervised stages, then reinforcement learning, on one model that is measured after every stage.

`python -m couplet.studies.path` runs configs/tiny_path.yaml (`launch.py adapt`) and configs/tiny.yaml
(`launch.py train --local`: plain torch, staleness 0) with every seed, one process at a time, measures the policy
after each stage, and writes path.md, path.json and path.png. After a kill the same command resumes; finished parts are
read, not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from couplet.configs.load import load, to_dict
from couplet.configs.schema import AdaptConfig, ConfigError, RunConfig
from couplet.data.files import write_json
from couplet.evaluation.records import same_run
from couplet.studies.ablations import LAUNCHER, ROOT, numbers
from couplet.studies.path_measure import BEFORE_AND_AFTER, EVERY_STAGE, FORMS, Decoding, Form, measure_policy
from couplet.studies.path_report import RL_STAGE as RL
from couplet.studies.path_report import write_path_page

# The study does its own evaluation.
LEAST = (
    "evaluation.limit=1",
    "evaluation.samples=1",
    "evaluation.ar_ness_problems=1",
)
Launch = Callable[[Sequence[str], Path], None]
"""Carries out `launch.py` with these arguments; its output goes to the file."""

Measure = Callable[[Path, RunConfig, Sequence[Decoding], Form], list[dict[str, Any]]]


@dataclass(frozen=True)
class Plan:
    """What to run: recipes of the stages and of reinforcement learning, overrides of each, problems to measure on."""

    adapt_recipe: Path = ROOT / "configs" / "tiny_path.yaml"
    train_recipe: Path = ROOT / "configs" / "tiny.yaml"
    adapt_overrides: tuple[str, ...] = ()
    train_overrides: tuple[str, ...] = ()
    problems: int = 40

    def adapt_settings(self, seed: int, folder: Path) -> list[str]:
        """Overrides of the supervised stages."""
        return [*self.adapt_overrides, f"seed={seed}", f"runs_dir={folder}", "name=stages"]

    def train_settings(self, seed: int, folder: Path, start: Path) -> list[str]:
        """Overrides of reinforcement learning."""
        where = [f"model.path={start}", "model.recipe=null", f"seed={seed}", f"runs_dir={folder}", f"name={RL}"]
        return [*LEAST, *self.train_overrides, *where]

    @property
    def measured(self) -> RunConfig:
        """The configuration with which every policy is measured."""
        return load(RunConfig, self.train_recipe, [*self.train_overrides, f"evaluation.limit={self.problems}"])


def run_path(
    out: Path,
    runs: Path,
    plan: Plan,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    ablations: Path | None = None,
    launch: Launch | None = None,
    measure: Measure = measure_policy,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run and measure every seed and write `path.md`, `path.json`, `path.png` and `.svg` to `out` after each of them.

    Args:
        out: folder of the results, e.g. `docs`.
        runs: folder of the runs, one `seed<N>` each; it should contain nothing else.
        plan: recipes and problems.
        seeds: of everything that is trained; problems and sampling noise stay the same.
        ablations: `ablations.json` of an ablation study, for the claim about masks; None leaves it out.
        launch: runs `launch.py`; by default in its own process.
        measure: measures a policy folder.
        console: progress; None prints nothing.

    Raises:
        ConfigError: an invalid recipe, or `runs` contains the runs of another plan.
        RuntimeError: a run that failed, with the end of its output.
    """
    study: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        rows += run_seed(runs / f"seed{seed}", plan, seed, launch or launch_process, measure, console)
        facts = {"seeds": list(dict.fromkeys(row["seed"] for row in rows)), **_facts(plan, seeds)}
        study = write_path_page(rows, out, facts, ablations)
    return study


def run_seed(
    folder: Path, plan: Plan, seed: int, launch: Launch, measure: Measure, console: Console | None
) -> list[dict[str, Any]]:
    """Every stage of one seed: one row per stage and decoding, in order; the last stage is reinforcement learning."""
    stages = load(AdaptConfig, plan.adapt_recipe, plan.adapt_settings(seed, folder)).stages
    folders = {stage.name: folder / "stages" / "stages" / f"{i}-{stage.name}" for i, stage in enumerate(stages)}
    start = folders[stages[-1].name]
    train = load(RunConfig, plan.train_recipe, plan.train_settings(seed, folder, start))
    same_run(folder / "study.json", {"stages": [to_dict(s) for s in stages], "train": to_dict(train)})
    _once(
        launch,
        folder / "stages",
        "policy/config.json",
        ["adapt", str(plan.adapt_recipe)],
        plan.adapt_settings(seed, folder),
    )
    arguments = ["train", str(plan.train_recipe), "--local"]
    _once(launch, folder / RL, "summary.json", arguments, plan.train_settings(seed, folder, start))
    rows = []
    forms = {stage.name: FORMS[stage.objective] for stage in stages}
    for name, policy in {**folders, RL: folder / RL / "policy"}.items():
        decodings = BEFORE_AND_AFTER if name in (stages[-1].name, RL) else EVERY_STAGE
        form = forms.get(name, Form.CHAT)
        found = _measured(folder / "measures" / f"{name}.json", policy, plan.measured, decodings, form, measure)
        rows += [{"seed": seed, "stage": name, **row} for row in found]
        if console is not None:
            row = next(row for row in found if row["temperature"] == 1.0)
            console.print(f"seed {seed}, after {name}: pass@1 {row['pass@1']:.3f} at T = 1", highlight=False)
    return rows


def launch_process(arguments: Sequence[str], log: Path) -> None:
    """`launch.py ARGUMENTS` in its own process, with one thread per worker; its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        done = subprocess.run(
            [sys.executable, str(LAUNCHER), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": "1", **os.environ},
            check=False,
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(
            f"launch.py {arguments[0]} ended with code {done.returncode}; the last lines of {log}:\n{tail}"
        )


def _once(launch: Launch, folder: Path, mark: str, command: Sequence[str], settings: Sequence[str]) -> None:
    """Run `command` unless its folder contains `mark`; resume from its newest checkpoint if it has one."""
    if (folder / mark).is_file():
        return
    resume = any((folder / "checkpoints").glob("step-*"))
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    launch([*command, *settings, *(["--resume"] if resume else [])], folder.with_name(folder.name + ".log"))
    if not (folder / mark).is_file():
        raise RuntimeError(f"launch.py {command[0]} left no {folder / mark}: see {folder}.log")


def _measured(
    path: Path, policy: Path, config: RunConfig, decodings: Sequence[Decoding], form: Form, measure: Measure
) -> list[dict[str, Any]]:
    """One row per decoding; those in `path` with the same number of problems are not measured again."""
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known = stored["rows"] if stored.get("problems") == config.evaluation.limit else []
    found = {(row["temperature"], row["pace"], row["samples"]): row for row in known}
    wanted = {(d.temperature, d.pace, d.samples): d for d in decodings}
    missing = [decoding for key, decoding in wanted.items() if key not in found]
    if missing:
        measured = measure(policy, config, missing, form)
        found |= {(row["temperature"], row["pace"], row["samples"]): row for row in measured}
        write_json(path, {"problems": config.evaluation.limit, "rows": list(found.values())})
    return [found[key] for key in wanted]


def _facts(plan: Plan, seeds: Sequence[int]) -> dict[str, Any]:
    command = f"python -m couplet.studies.path --seeds {','.join(map(str, seeds))} --problems {plan.problems}"
    for option, recipe, usual in (
        ("--adapt", plan.adapt_recipe, Plan.adapt_recipe),
        ("--train", plan.train_recipe, Plan.train_recipe),
    ):
        command += f" {option} {recipe}" if recipe != usual else ""
    stages = load(AdaptConfig, plan.adapt_recipe, plan.adapt_overrides).stages
    train = load(RunConfig, plan.train_recipe, plan.train_overrides)
    return {
        "command": " ".join([command, *plan.train_overrides]),
        "stages": [{"name": s.name, "steps": s.steps, "objective": s.objective, "corpus": s.corpus} for s in stages],
        "train_steps": train.steps,
        "steps": train.sampler.steps,
        "problems": plan.problems,
        "problem_set": train.problems.evaluate,
        "adapt_overrides": list(plan.adapt_overrides),
        "train_overrides": list(plan.train_overrides),
        "recipes": [plan.adapt_recipe.name, plan.train_recipe.name],
    }


def parser() -> argparse.ArgumentParser:
    """The options of `python -m couplet.studies.path`."""
    options = argparse.ArgumentParser(prog="python -m couplet.studies.path", description=__doc__)
    options.add_argument("overrides", nargs="*", metavar="key=value", help="of reinforcement learning, e.g. steps=20")
    options.add_argument("--seeds", type=numbers, default=(0, 1, 2), metavar="N,N,…", help="default: 0,1,2")
    options.add_argument("--problems", type=int, default=40, metavar="N", help="held-out problems (default: 40)")
    options.add_argument("--adapt", type=Path, default=Plan.adapt_recipe, metavar="RECIPE", help="supervised stages")
    options.add_argument(
        "--train", type=Path, default=Plan.train_recipe, metavar="RECIPE", help="reinforcement learning"
    )
    text = "an ablation study, for the claim about masks (default: docs/ablations.json; left out if that is missing)"
    options.add_argument("--ablations", type=Path, default=ROOT / "docs" / "ablations.json", metavar="JSON", help=text)
    options.add_argument(
        "--runs", type=Path, default=ROOT / "runs" / "path", help="folder of the runs (default: runs/path)"
    )
    options.add_argument(
        "--out", type=Path, default=ROOT / "docs", help="folder of the page, figure and data (default: docs)"
    )
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; 2 for a mistake in the input, 1 for a failed run."""
    args = parser().parse_intermixed_args(argv)
    plan = Plan(args.adapt, args.train, train_overrides=tuple(args.overrides), problems=args.problems)
    console, began = Console(), time.monotonic()
    try:
        run_path(args.out, args.runs.absolute(), plan, seeds=args.seeds, ablations=args.ablations, console=console)
    except (ConfigError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2
    console.print(f"{(time.monotonic() - began) / 60:.1f} min; page, figure and data in {args.out}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
