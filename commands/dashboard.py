"""`dashboard`: files for Prometheus and Grafana that show the metrics of runs on a Ray session."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

SESSION = "/tmp/ray/session_latest"


def options(parser: argparse.ArgumentParser) -> None:
    """Options of `dashboard`."""
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the files")
    parser.add_argument(
        "--session", default=SESSION, metavar="DIR", help=f"Ray's session folder on the head node (default: {SESSION})"
    )


def run(args: argparse.Namespace) -> None:
    """Write the files and print how to start both programs."""
    from couplet.data.files import write_text
    from couplet.report.grafana import GRAFANA, PROMETHEUS, files
    from couplet.report.render import template

    out = Path(args.out).absolute()
    for name, text in files(out, Path(args.session).absolute()).items():
        write_text(out / name, text)
    folder = shlex.quote(str(out))
    print(template("grafana_start.txt").render(folder=folder, grafana=GRAFANA, prometheus=PROMETHEUS))
