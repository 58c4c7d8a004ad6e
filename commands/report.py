"""`report`: one HTML page of a run."""

from __future__ import annotations

import argparse
from pathlib import Path


def options(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    parser.add_argument("run", help="run folder, e.g. runs/latest")
    parser.add_argument("--out", type=Path, metavar="FILE", help="HTML file (default: report.html in the run folder)")


def run(args: argparse.Namespace) -> None:
    """Write the page and print its path."""
    from couplet.report.page import write_report

    print(write_report(args.run, args.out))
