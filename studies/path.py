"""The path study: supervised stages, then reinforcement learning, on one model that is measured after every stage.

`python -m couplet.studies.path` runs configs/tiny_path.yaml (`launch.py adapt`) and configs/tiny_planted.yaml
(`launch.py train --local`: plain torch, staleness 0) with every seed, one process at a time, measures the policy
after each stage, and writes path.md, path.json and path.png. After a kill the same command resumes; finished parts are
read, not repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from couplet.configs.load import RECIPES, load, to_dict
from couplet.configs.schema import AdaptConfig, RunConfig
from couplet.data.files import write_json
from couplet.evaluation.records import same_run
from couplet.studies.cli import RunFailed, exit_code, options, run_couplet
from couplet.studies.path_claims import RL_STAGE as RL
from couplet.studies.path_measure import BEFORE_AND_AFTER, EVERY_STAGE, FORMS, Decoding, Form, measure_policy
from couplet.studies.path_report import write_path_page

# The study does its own evaluation.
LEAST = (
    "evaluation.limit=1",
    "evaluation.samples=1",
    "evaluation.ar_ness_problems=1",
)
Launch = Callable[[Sequence[str], Path], None]
"""Runs `couplet` with these arguments; its output goes to the file."""

Measure = Callable[[Path, RunConfig, Sequence[Decoding], Form], list[dict[str, Any]]]


@dataclass(frozen=True)
class Plan:
    """What to run: recipes of the stages and of reinforcement learning, overrides of each, problems to measure on."""

    adapt_recipe: Path = RECIPES / "tiny_path.yaml"
    train_recipe: Path = RECIPES / "tiny_planted.yaml"
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
        RunFailed: a run that failed, with the end of its output.
    """
    study: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        rows += run_seed(runs / f"seed{seed}", plan, seed, launch or run_couplet, measure, console)
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


def _once(launch: Launch, folder: Path, mark: str, command: Sequence[str], settings: Sequence[str]) -> None:
    """Run `command` unless its folder contains `mark`; resume from its newest checkpoint if it has one."""
    if (folder / mark).is_file():
        return
    resume = any((folder / "checkpoints").glob("step-*"))
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    launch([*command, *settings, *(["--resume"] if resume else [])], folder.with_name(folder.name + ".log"))
    if not (folder / mark).is_file():
        raise RunFailed(f"{command[0]} left no {folder / mark}: see {folder}.log")


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
    found = options("path", __doc__)
    found.add_argument("overrides", nargs="*", metavar="key=value", help="of reinforcement learning, e.g. steps=20")
    found.add_argument("--problems", type=int, default=40, metavar="N", help="held-out problems (default: 40)")
    found.add_argument("--adapt", type=Path, default=Plan.adapt_recipe, metavar="RECIPE", help="supervised stages")
    text = "reinforcement learning"
    found.add_argument("--train", type=Path, default=Plan.train_recipe, metavar="RECIPE", help=text)
    text = "data of the ablation study, for the claim about masks (default: ablations.json in --out, if it is there)"
    found.add_argument("--ablations", type=Path, metavar="JSON", help=text)
    runs = Path("runs") / "path"
    found.add_argument("--runs", type=Path, default=runs, help=f"folder of the runs (default: {runs})")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; see `exit_code`."""
    args = parser().parse_intermixed_args(argv)
    plan = Plan(args.adapt, args.train, train_overrides=tuple(args.overrides), problems=args.problems)
    ablations = args.ablations or args.out / "ablations.json"

    def study() -> None:
        console, began = Console(), time.monotonic()
        run_path(args.out, args.runs.absolute(), plan, seeds=args.seeds, ablations=ablations, console=console)
        minutes = (time.monotonic() - began) / 60
        console.print(f"{minutes:.1f} min; page, figure and data in {args.out}", highlight=False)

    return exit_code(study)


if __name__ == "__main__":
    sys.exit(main())
