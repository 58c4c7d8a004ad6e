"""`status`: workers, groups and rates of a running job."""

from __future__ import annotations

import argparse

from couplet.commands import cli


def options(parser: argparse.ArgumentParser) -> None:
    """Options of `status`."""
    parser.add_argument("--json", action="store_true", help="for scripts")
    cli.add_job(parser)


def run(args: argparse.Namespace) -> None:
    """Print what the job's replay queue reports."""
    from couplet.commands.job import show_status

    show_status(args.run, args.address, as_json=args.json)
