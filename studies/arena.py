"""The arena: likelihood estimators and objectives at equal counted FLOPs, from one start, paired by seed.

`python -m couplet.studies.arena --start POLICY` trains every entry as the ablations do (one process, staleness 0) for as
many steps as cost what `--steps` steps of the reference cost, measures the noise of every estimator's gradient on one
batch, and writes arena.md. Every run and every measurement is a cell of its own: after a kill the same command resumes,
and more seeds or entries can be added to the same folders.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from couplet.configs.errors import UserError
from couplet.configs.json_file import read_object
from couplet.configs.load import RECIPES, load, to_dict
from couplet.configs.schema import RunConfig
from couplet.data.files import write_json
from couplet.data.jsonl import read_jsonl
from couplet.model.cost import ModelSize
from couplet.model.folder import model_config, read_config
from couplet.studies.ablations import Job, Train, carry_out, result, train_in_process
from couplet.studies.arena_noise import measure_noise
from couplet.studies.arena_report import write_arena
from couplet.studies.cli import exit_code, options, policy_folder, words
from couplet.training.cost import group_flops, learn_flops

REFERENCE = "published"
ON_POLICY = ("objective.inner_updates=1", "objective.kl_weight=0.0")
TWO_UPDATES = ("objective.inner_updates=2", "objective.kl_weight=0.0")
ENTRIES: dict[str, tuple[str, ...]] = {
    REFERENCE: (
        *("estimator.name=coupled", "estimator.weighting=inverse_t", "objective.inner_updates=2"),
        *("objective.kl_weight=0.01", "objective.advantage=group_mean", "objective.zero_signal=keep"),
    ),
    "coupled": ("estimator.name=coupled", *ON_POLICY),
    "decoupled": ("estimator.name=decoupled", *ON_POLICY),
    "full_mask": ("estimator.name=full_mask", *ON_POLICY),
    "trace": ("estimator.name=trace", "estimator.slices=3", *ON_POLICY),
    "trace_exact": ("estimator.name=trace", "estimator.slices=512", *ON_POLICY),
    "elbo": ("estimator.name=elbo", "objective.ratio_level=sequence", *ON_POLICY),
    "spg": ("estimator.name=spg", *ON_POLICY),
    "left_to_right": ("estimator.name=left_to_right", *ON_POLICY),
    "trace_ppo": ("estimator.name=trace", "estimator.slices=3", *TWO_UPDATES),
    "trace_stable": (
        *("estimator.name=trace", "estimator.slices=3", "objective.clip=unconditional"),
        *("objective.self_normalise=true", *TWO_UPDATES),
    ),
    "trace_cispo": ("estimator.name=trace", "estimator.slices=3", "objective.clip=cispo", *TWO_UPDATES),
    "trace_signal": ("estimator.name=trace", "estimator.slices=3", "replay.select=signal", *ON_POLICY),
}
FINALISTS = (REFERENCE, "coupled", "trace")
NOISY = ("full_mask", "coupled", "decoupled", "elbo", "spg", "trace", "trace_exact")
ALWAYS = ("replay.max_staleness=0", "model.recipe=null")


def settings(entry: str, start: str, overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides of an entry's runs, but for steps and seed."""
    if entry not in ENTRIES:
        raise UserError(f"--entries: no entry {entry!r}; choose among {', '.join(ENTRIES)}")
    return (f"model.path={start}", *ALWAYS, *overrides, *ENTRIES[entry])


def step_flops(config: RunConfig, size: ModelSize) -> dict[str, float]:
    """Operations of one step: of its rollouts, and of the learner if no group is left out."""
    rollout = config.replay.groups_per_step * group_flops(config, size)
    return {"rollout": rollout, "learn": learn_flops(config, size)}


def run_arena(
    out: Path,
    runs: Path,
    *,
    start: str,
    args: argparse.Namespace,
    train: Train = train_in_process,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train and measure what is not there yet; write `arena.md`, `.json`, `.png` and `.svg` to `out`.

    Args:
        out: folder of the results.
        runs: folder of the cells.
        start: policy folder that every run starts from.
        args: `recipe`, `entries`, `steps` (of the reference), `seeds`, `overrides`, `workers`, `noise_draws`,
            `noise_groups`.
        train: runs one job.
        console: progress; None prints nothing.
    """
    size = ModelSize.of(model_config(read_config(Path(start)), start))
    recipe = RECIPES / args.recipe
    cost = {
        entry: step_flops(load(RunConfig, recipe, settings(entry, start, args.overrides)), size)
        for entry in dict.fromkeys((REFERENCE, *args.entries))
    }
    budget = args.steps * sum(cost[REFERENCE].values())
    entries = args.entries if args.steps else ()
    steps = {entry: max(1, round(budget / sum(cost[entry].values()))) for entry in entries}
    noise = _noise(runs, recipe, start, args, console) if args.noise_draws else []
    jobs = [
        Job(
            recipe,
            seed,
            runs,
            f"{entry}-seed{seed}",
            (*settings(entry, start, args.overrides), f"steps={steps[entry]}"),
        )
        for seed in args.seeds
        for entry in entries
    ]
    carry_out(jobs, train, args.workers, console)
    rows = [_row(job, steps, cost) for job in jobs]
    study = {
        "command": _command(args),
        "start": "/".join(Path(start).parts[-2:]),
        "recipe": args.recipe,
        "reference": REFERENCE,
        "seeds": list(args.seeds),
        "gflops": budget / 1e9,
        "overrides": list(args.overrides),
        "entries": {
            entry: {"overrides": list(ENTRIES[entry]), "steps": steps[entry], **cost[entry]} for entry in entries
        },
        "noise": noise,
        "noise_draws": args.noise_draws,
        "noise_groups": args.noise_groups,
        "runs": rows,
    }
    write_arena(study, out)
    return study


def _row(job: Job, steps: Mapping[str, int], cost: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """A finished run: its summary, and held-out rates against operations and seconds."""
    entry = job.name.rpartition("-seed")[0]
    found = result(job)
    lines = [row for _, row in read_jsonl(job.folder / "metrics.jsonl")]
    evaluated = [row for row in lines if "eval/pass_at_1_t1" in row]
    kept = [1.0 - row["zero_signal_share"] for row in lines if "zero_signal_share" in row]
    learn = [cost[entry]["learn"] * (share if job.config.objective.zero_signal == "drop" else 1.0) for share in kept]
    spent = [0.0]
    for one in learn:
        spent.append(spent[-1] + cost[entry]["rollout"] + one)
    start = evaluated[0]["time"] if evaluated else 0.0
    return {
        "entry": entry,
        "seed": job.seed,
        **found,
        "gflops": spent[-1] / 1e9,
        "zero_signal_share": 1.0 - sum(kept) / len(kept) if kept else 0.0,
        "curve": [
            {
                "gflops": spent[min(row["step"], len(spent) - 1)] / 1e9,
                "seconds": row["time"] - start,
                "pass_at_1_t1": row["eval/pass_at_1_t1"],
            }
            for row in evaluated
        ],
    }


def _noise(
    runs: Path, recipe: Path, start: str, args: argparse.Namespace, console: Console | None
) -> list[dict[str, Any]]:
    """Gradient noise of every estimator, for the batch of every seed; a measurement that exists is read."""
    rows = []
    for seed in args.seeds:
        for entry in NOISY:
            path = runs / f"noise-{entry}-seed{seed}.json"
            own = (*settings(entry, start, args.overrides), f"seed={seed}")
            config = load(RunConfig, recipe, (*own, f"replay.groups_per_step={args.noise_groups}"))
            facts = {"draws": args.noise_draws, "groups": args.noise_groups, "config": to_dict(config)}
            if not path.is_file() or (stored := read_object(path)).get("facts") != facts:
                stored = {
                    "facts": facts,
                    "entry": entry,
                    "seed": seed,
                    **measure_noise(config, start, args.noise_draws),
                }
                runs.mkdir(parents=True, exist_ok=True)
                write_json(path, stored)
                if console is not None:
                    console.print(f"gradient noise: {entry}, seed {seed}", highlight=False)
            rows.append({key: value for key, value in stored.items() if key != "facts"})
    return rows


def _command(args: argparse.Namespace) -> str:
    """The command that runs this study."""
    return " ".join(
        [
            f"python -m couplet.studies.arena --start POLICY --recipe {args.recipe} --entries {','.join(args.entries)}",
            f"--steps {args.steps} --seeds {','.join(map(str, args.seeds))} --noise-draws {args.noise_draws}",
            f"--noise-groups {args.noise_groups}",
            *args.overrides,
        ]
    )


def parser() -> argparse.ArgumentParser:
    """The options of `python -m couplet.studies.arena`."""
    found = options("arena", __doc__)
    found.add_argument("overrides", nargs="*", metavar="key=value", help="for every run, e.g. evaluation.limit=60")
    found.add_argument("--start", required=True, metavar="POLICY", help="policy folder that every run starts from")
    found.add_argument("--recipe", default="tiny.yaml", help="recipe of configs/ that the entries change")
    text = f"of {', '.join(ENTRIES)} (default: {','.join(FINALISTS)})"
    found.add_argument("--entries", type=words, default=FINALISTS, metavar="NAME,…", help=text)
    found.add_argument(
        "--steps",
        type=int,
        default=40,
        metavar="N",
        help=f"learner steps of {REFERENCE}; 0 trains nothing (default: 40)",
    )
    runs = Path("runs") / "arena"
    found.add_argument("--runs", type=Path, default=runs, help=f"folder of the cells (default: {runs})")
    found.add_argument("--workers", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    text = "draws of the large estimate of a gradient; 0 measures no noise (default: 64)"
    found.add_argument("--noise-draws", type=int, default=64, metavar="N", help=text)
    found.add_argument(
        "--noise-groups", type=int, default=4, metavar="N", help="prompt groups of its batch (default: 4)"
    )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; see `exit_code`."""
    args = parser().parse_intermixed_args(argv)

    def study() -> object:
        start = str(policy_folder(args.start, "--start"))
        return run_arena(args.out, args.runs.absolute(), start=start, args=args, console=Console())

    return exit_code(study)


if __name__ == "__main__":
    sys.exit(main())
