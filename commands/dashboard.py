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
    from couplet.report.grafana import files

    out = Path(args.out).absolute()
    for name, text in files(out, Path(args.session).absolute()).items():
        write_text(out / name, text)
    print("\n".join(_instructions(out)))


def _instructions(out: Path) -> list[str]:
    from couplet.report.grafana import GRAFANA, PROMETHEUS

    folder = shlex.quote(str(out))
    return [
        f"written to {folder}: a Grafana dashboard, and the configuration of Prometheus and Grafana",
        "on the head node, start each in a terminal of its own:",
        f"  prometheus --config.file={folder}/prometheus.yml --storage.tsdb.path={folder}/prometheus-data "
        "--web.listen-address=127.0.0.1:9090",
        f"  grafana server --homepath /usr/share/grafana --config {folder}/grafana/grafana.ini",
        f"the dashboard: {GRAFANA}/d/couplet",
        "Ray's own dashboard shows its charts too if Ray is started with:",
        f"  export RAY_PROMETHEUS_HOST={PROMETHEUS} RAY_GRAFANA_HOST={GRAFANA} RAY_PROMETHEUS_NAME=Prometheus",
    ]
