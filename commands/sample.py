"""`sample`: type a prompt and watch the policy denoise its answer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args, get_type_hints

from couplet.commands import cli
from couplet.configs.schema import SamplerConfig

ORDERS = get_args(get_type_hints(SamplerConfig)["order"])
OWN = "(default: the policy's own, else that of sampler.* in docs/configuration.md)"


def options(parser: argparse.ArgumentParser) -> None:
    """Options of `sample`."""
    parser.add_argument("policy", help=cli.POLICY)
    once = "answer this and end; without a terminal only the text is printed"
    parser.add_argument("--once", metavar="PROMPT", help=once)
    parser.add_argument("--order", choices=ORDERS, help=f"order of the reveals {OWN}")
    parser.add_argument("--steps", type=cli.positive, metavar="N", help=f"denoising steps {OWN}")
    parser.add_argument("--temperature", type=float, metavar="T", help=f"0 takes the likeliest token {OWN}")
    nucleus = f"draw from the likeliest tokens of total probability P {OWN}"
    parser.add_argument("--top-p", type=float, metavar="P", help=nucleus)
    parser.add_argument("--top-k", type=cli.positive, metavar="K", help=f"draw from the K likeliest tokens {OWN}")
    parser.add_argument("--length", type=cli.positive, metavar="N", help=f"tokens of the canvas {OWN}")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (default: 0)")
    parser.add_argument("--gif", type=Path, metavar="FILE", help="write the denoising as an animation")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="likewise, as SVG")
    parser.add_argument("--device", default="cpu", help="where the policy runs, e.g. cuda (default: cpu)")


def run(args: argparse.Namespace) -> None:
    """Answer one prompt, or prompts typed until an empty line."""
    from couplet.commands.session import run_sample
    from couplet.commands.subject import open_policy

    changes = {name: getattr(args, name) for name in ("order", "steps", "temperature", "top_p", "top_k")}
    changes["completion_length"] = args.length
    folder, _ = open_policy(args.policy, None, ())
    run_sample(folder, changes, once=args.once, seed=args.seed, gif=args.gif, svg=args.svg, device=args.device)
