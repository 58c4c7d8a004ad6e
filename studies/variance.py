"""The variance study of a policy folder.

`python -m couplet.studies.variance --policy POLICY` writes variance.md. A killed study starts over.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from couplet.configs.load import load
from couplet.configs.schema import RunConfig
from couplet.data.problem_sets import load_problems
from couplet.data.prompts import encode_prompts
from couplet.data.tokenizer import load_tokenizer
from couplet.model.policy import DiffusionPolicy
from couplet.studies.cli import exit_code, options, policy_folder
from couplet.studies.variance_measure import Budget, cases_by_sampling
from couplet.studies.variance_report import run_variance_study


def parser() -> argparse.ArgumentParser:
    """The options of `python -m couplet.studies.variance`."""
    found = options("variance", __doc__)
    found.add_argument("--policy", required=True, help="policy folder whose estimates are studied")
    found.add_argument(
        "--recipe", default="tiny_planted.yaml", help="decoder and range of t (default: tiny_planted.yaml)"
    )
    text = "the study uses one completion per problem and seed"
    found.add_argument("--problems", default="katas:heldout", help=text)
    found.add_argument("--limit", type=int, default=24, metavar="N", help="problems (default: 24)")
    found.add_argument("--draws", type=int, default=256, metavar="N", help="mask draws of each (default: 256)")
    return found


def study_policy(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run the study on completions that are decoded as in the rollouts."""
    folder = policy_folder(args.policy, "--policy")
    config = load(RunConfig, args.recipe)
    policy = DiffusionPolicy.from_pretrained(str(folder), end_tokens=config.model.end_tokens).eval()
    tokenizer = load_tokenizer(folder)
    problems = load_problems(args.problems, seed=config.problems.seed, limit=args.limit)
    prompts = encode_prompts(problems, tokenizer.chat_prompt, config.problems, policy.token_ids.mask).prompts
    asked = [prompt.tolist() for prompt in prompts]
    cases = [case for seed in args.seeds for case in cases_by_sampling(policy, asked, config.sampler, seed)]
    facts = {"command": _command(args), "problems": args.problems, "temperature": config.sampler.temperature}
    t_range = (config.estimator.t_min, config.estimator.t_max)
    budget = Budget(draws=args.draws)
    return run_variance_study(policy, cases, args.out, budget=budget, t_range=t_range, facts=facts, console=console)


def _command(args: argparse.Namespace) -> str:
    """The command that runs this study."""
    return (
        f"python -m couplet.studies.variance --policy POLICY --problems {args.problems} --limit {args.limit} "
        f"--draws {args.draws} --seeds {','.join(map(str, args.seeds))}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; see `exit_code`."""
    args = parser().parse_args(argv)
    return exit_code(lambda: study_policy(args, Console()))


if __name__ == "__main__":
    sys.exit(main())
