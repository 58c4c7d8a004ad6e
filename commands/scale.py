"""`scale`: change the number of workers of a running job."""

from __future__ import annotations

import argparse

from couplet.commands import cli


def options(parser: argparse.ArgumentParser) -> None:
    """Options of `scale`."""
    parser.add_argument("targets", nargs="+", metavar="reward=N|rollout=N", help="numbers of workers")
    cli.add_job(parser)


def run(args: argparse.Namespace) -> None:
    """Set the numbers and wait until so many workers are in service."""
    from couplet.commands.job import scale_workers

    scale_workers(args.targets, args.run, args.address)
