"""`train`: coupled-GRPO on a problem set."""

from __future__ import annotations

import argparse

from couplet.commands import cli

DEFAULT_RECIPE = "tiny.yaml"


def options(parser: argparse.ArgumentParser) -> None:
    """Options of `train`."""
    parser.epilog = "Every key, with type and default: docs/configuration.md; `--dry-run` checks them."
    parser.add_argument("config", nargs="?", default=DEFAULT_RECIPE, help="recipe (default: configs/tiny.yaml)")
    cli.add_overrides(parser, "e.g. seed=1 sampler.temperature=1.2")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of this run")
    parser.add_argument("--dry-run", action="store_true", help="validate, estimate memory and cost, start nothing")
    cli.add_tflops(parser)
    cli.add_local(parser)


def run(args: argparse.Namespace) -> None:
    """Train, or estimate what training would cost."""
    from couplet.configs.load import load
    from couplet.configs.schema import RunConfig

    recipe, overrides = args.config, args.overrides
    if "=" in recipe:  # the recipe is left out, this is the first setting
        recipe, overrides = DEFAULT_RECIPE, [recipe, *overrides]
    config = load(RunConfig, recipe, overrides)
    if args.dry_run:
        from couplet.commands.dry_run import describe

        print(describe(config, args.tflops, args.local))
    else:
        from couplet.commands.training_run import run_training

        run_training(config, resume=args.resume, local=args.local)
