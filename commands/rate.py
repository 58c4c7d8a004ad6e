"""`prepare rate`: how often a model solves each problem; a level of difficulty and pass@k follow from it."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from couplet.commands import cli
from couplet.data.levels import LEVELS


def options(parser: argparse.ArgumentParser) -> None:
    """Options of `prepare rate`."""
    parser.add_argument("problems", help=cli.PROBLEMS)
    cli.add_overrides(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="Parquet file of the chosen level")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--policy", metavar="FOLDER", help="our own policy, on rollout actors")
    model.add_argument("--endpoint", metavar="URL", help="a running server, e.g. http://127.0.0.1:8000/v1")
    model.add_argument("--vllm", metavar="MODEL", help="start `vllm serve MODEL` and stop it afterwards")
    _options_of_served_model(parser)
    cli.add_samples(parser)
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="of the samples (default: 0.8)")
    parser.add_argument("--level", choices=LEVELS, default="hard", help="which problems to keep (default: hard)")
    cli.add_subset(parser)
    cli.add_local(parser)


def _options_of_served_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="name at the endpoint (default: its first)")
    parser.add_argument("--base", action="store_true", help="no chat model: let it continue the problem's code")
    parser.add_argument("--vllm-python", dest="python", metavar="PATH", help="interpreter of vLLM's own environment")
    gpus = "GPUs of the server (default: 1; CPU: 0)"
    parser.add_argument("--vllm-gpus", dest="gpus", type=float, default=1.0, metavar="N", help=gpus)
    text = "further options of vllm serve, in quotes"
    parser.add_argument("--vllm-options", dest="options", type=shlex.split, default=[], metavar="TEXT", help=text)
    ready = "seconds until it must be ready (default: 1200)"
    parser.add_argument("--vllm-timeout", dest="ready_seconds", type=float, default=1200.0, metavar="S", help=ready)
    parser.add_argument("--top-p", type=float, default=0.95, metavar="P", help="of a served model (default: 0.95)")
    under_way = "requests to a served model at a time (default: 32)"
    parser.add_argument("--concurrency", type=cli.positive, default=32, metavar="N", help=under_way)
    limit = "seconds that a request may take; a slower one is tried again (default: 600)"
    parser.add_argument("--request-timeout", dest="request_seconds", type=float, default=600.0, metavar="S", help=limit)
    answer = "of a served model's answer (default: 1024)"
    parser.add_argument("--max-tokens", type=cli.positive, default=1024, metavar="N", help=answer)


def run(args: argparse.Namespace) -> None:
    """Rate with a policy or a served model."""
    from couplet.commands.display import open_console
    from couplet.commands.rating import run_rating
    from couplet.commands.served import Served
    from couplet.commands.subject import Subject
    from couplet.serving.completions import Sampling

    served = Served.of(args) if args.policy is None else None
    sampling = Sampling(args.samples, args.max_tokens, args.temperature, args.top_p, seed=args.seed)
    run_rating(Subject.of(args), served, sampling, args.level, open_console())
