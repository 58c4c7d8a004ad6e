"""The variance study of a policy folder.

`python -m couplet.studies.variance --policy POLICY` writes variance.md. A killed study starts over.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from couplet.configs.load import load
from couplet.configs.schema import ConfigError, RunConfig
from couplet.data.problem_sets import load_problems
from couplet.data.prompts import encode_prompts
from couplet.data.tokenizer import load_tokenizer
from couplet.model.policy import DiffusionPolicy
from couplet.studies.ablations import numbers
from couplet.studies.variance_measure import Budget, cases_by_sampling
from couplet.studies.variance_report import run_variance_study


def parser() -> argparse.ArgumentParser:
    """The options of `python -m couplet.studies.variance`."""
    options = argparse.ArgumentParser(prog="python -m couplet.studies.variance", description=__doc__)
    options.add_argument("--policy", required=True, help="policy folder whose estimates are studied")
    options.add_argument("--recipe", default="tiny.yaml", help="decoder and range of t (default: tiny.yaml)")
    options.add_argument(
        "--problems", default="katas:heldout", help="the study uses one completion per problem and seed"
    )
    options.add_argument("--limit", type=int, default=24, metavar="N", help="problems (default: 24)")
    options.add_argument("--draws", type=int, default=256, metavar="N", help="mask draws of each (default: 256)")
    options.add_argument("--seeds", type=numbers, default=(0, 1, 2), metavar="N,N,…", help="default: 0,1,2")
    options.add_argument(
        "--out", type=Path, default=Path("docs"), help="folder of the page, figure and data (default: docs)"
    )
    return options


def study_policy(args: argparse.Namespace, command: str, console: Console) -> dict[str, Any]:
    """Run the study on completions that are decoded as in the rollouts."""
    folder = Path(args.policy)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"--policy {folder}: not a policy folder (it has no config.json)")
    config = load(RunConfig, args.recipe)
    policy = DiffusionPolicy.from_pretrained(str(folder), end_tokens=config.model.end_tokens).eval()
    tokenizer = load_tokenizer(folder)
    problems = load_problems(args.problems, seed=config.problems.seed, limit=args.limit)
    prompts = encode_prompts(problems, tokenizer.chat_prompt, config.problems, policy.token_ids.mask).prompts
    asked = [prompt.tolist() for prompt in prompts]
    cases = [case for seed in args.seeds for case in cases_by_sampling(policy, asked, config.sampler, seed)]
    facts = {"command": command, "problems": args.problems, "temperature": config.sampler.temperature}
    t_range = (config.estimator.t_min, config.estimator.t_max)
    budget = Budget(draws=args.draws)
    return run_variance_study(policy, cases, args.out, budget=budget, t_range=t_range, facts=facts, console=console)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; 2 for a mistake in the input."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(words)
    seeds = ",".join(map(str, args.seeds))
    spoken = [
        f"{name} {value}" for name, value in (("--limit", args.limit), ("--draws", args.draws), ("--seeds", seeds))
    ]
    command = f"python -m couplet.studies.variance --policy POLICY --problems {args.problems} {' '.join(spoken)}"
    try:
        study_policy(args, command, Console())
    except (ConfigError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
