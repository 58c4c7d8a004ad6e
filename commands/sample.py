"""`sample`: type a prompt and watch the policy denoise its answer, or let it fill the gaps of a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args, get_type_hints

from couplet.commands import cli
from couplet.configs.schema import ConfigError, SamplerConfig

ORDERS = get_args(get_type_hints(SamplerConfig)["order"])
OWN = "(default: the policy's own, else that of sampler.* in docs/configuration.md)"


def options(parser: argparse.ArgumentParser) -> None:
    """Options of `sample`."""
    parser.add_argument("policy", help=cli.POLICY)
    once = "answer this and end; without a terminal only the text is printed"
    parser.add_argument("--once", metavar="PROMPT", help=once)
    gaps = "fill the gaps of a text file, marked <fill>, and print it; with --once it is the code of the answer"
    parser.add_argument("--infill", type=Path, metavar="FILE", help=gaps)
    parser.add_argument("--marker", metavar="TEXT", help="with --infill: what marks a gap (default: <fill>)")
    tried = "with --infill: tokens of each gap; of several the likeliest per token is taken (default: 4,8,16,32)"
    parser.add_argument("--gap", type=cli.counts, metavar="N,N", help=tried)
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
    """Answer one prompt, or prompts typed until an empty line; or fill the gaps of a file."""
    from couplet.commands.infill import LENGTHS, MARKER, read_parts, run_infill
    from couplet.commands.session import Sampling, run_sample
    from couplet.commands.subject import open_policy

    changes = {name: getattr(args, name) for name in ("order", "steps", "temperature", "top_p", "top_k")}
    changes["completion_length"] = args.length
    without, chosen = (
        ("gif", "svg", "length") if args.infill else ("marker", "gap"),
        "with" if args.infill else "without",
    )
    for name in without:
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name}: has no meaning {chosen} --infill; leave it out")
    parts = read_parts(args.infill, args.marker or MARKER) if args.infill else []
    folder, _ = open_policy(args.policy, None, ())
    sampling = Sampling.load(folder, changes, args.seed, args.device)
    if args.infill:
        run_infill(sampling, parts, lengths=args.gap or LENGTHS, question=args.once)
    else:
        run_sample(sampling, once=args.once, gif=args.gif, svg=args.svg)
