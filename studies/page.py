"""What a study leaves behind: a Markdown page with its discussion, a figure, and the data as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from couplet.data.files import write_json, write_text, writing
from couplet.evaluation.figures import write_both
from couplet.report.render import template
from couplet.studies.claims import claim_table

KEPT = "## Discussion"
TEMPLATES = Path(__file__).with_name("templates")
ONE_PROCESS = (
    "Every run is `launch.py train --local`: one process, plain torch, strictly on-policy (staleness 0), so this study "
    "says nothing about asynchrony."
)


def page(name: str, study: Mapping[str, Any], **parts: Any) -> str:
    """The Markdown of a study, by its template: the values of `study`, and `parts` that are text already."""
    shared = {"one_process": ONE_PROCESS, "claim_table": claim_table}
    return template(f"{name}.jinja", TEMPLATES).render({**study, **shared, **parts})


def write_study(out: Path, name: str, study: Mapping[str, Any], page: str, figure: Figure) -> None:
    """Write `name`.md, `.json`, `.png` and `.svg` to `out`. `ConfigError` if that is impossible."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_both(figure, out / name)
    write_json(out / f"{name}.json", _finite(study))
    write_page(out / f"{name}.md", page)


def write_page(path: Path, text: str) -> None:
    """Write a generated page; the `## Discussion` that a person has added to its end is kept."""
    kept = path.read_text(encoding="utf-8").partition(f"\n{KEPT}\n")[2] if path.is_file() else ""
    write_text(path, text.rstrip("\n") + "\n" + (f"\n{KEPT}\n{kept}" if kept else ""))


def _finite(tree: Any) -> Any:
    """`tree` with NaN as null, which every JSON reader accepts."""
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
