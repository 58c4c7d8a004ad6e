"""`launch.py report`: one HTML page of a run, complete in itself: no network, one script of its own."""

from __future__ import annotations

import base64
import hashlib
import time
from pathlib import Path

from markupsafe import Markup

from couplet.data.files import write_text
from couplet.report.answers import answers
from couplet.report.curves import curves
from couplet.report.heldout import held_out
from couplet.report.highlight import token_rules
from couplet.report.overview import header, ledger, settings, tiles
from couplet.report.render import TEMPLATES, template
from couplet.report.run_data import Run, read_run


def write_report(run_folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run and return its path.

    Args:
        run_folder: config.yaml is needed, and at least one learner step or evaluation; the rest is used if present.
        out: the HTML file; default `report.html` in the run folder.

    Raises:
        UserError: no run folder, nothing in it yet, or a broken file, by name.
        ConfigError: a file that cannot be written.
    """
    run = read_run(Path(run_folder))
    path = Path(out) if out is not None else run.root / "report.html"
    write_text(path, page(run))
    return path


def page(run: Run) -> str:
    """The whole page."""
    script = Markup((TEMPLATES / "player.js").read_text(encoding="utf-8"))
    html = template("page.html").render(
        header=header(run),
        tiles=tiles(run),
        held_out=held_out(run),
        curves=curves(run),
        answers=answers(run),
        ledger=ledger(run),
        settings=settings(run),
        token_rules=token_rules(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        written=time.strftime("%Y-%m-%d %H:%M"),
    )
    return html.encode("utf-8", "replace").decode("utf-8")  # a completion may hold a lone surrogate
