"""Templates: the page of a run is HTML and SVG, and what other packages write is Markdown."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

from couplet.configs.markdown import markdown_table
from couplet.report import charts

TEMPLATES = Path(__file__).parent / "templates"


def template(name: str, folder: Path = TEMPLATES) -> Template:
    """The template `name` of a folder. In HTML and SVG every value is escaped unless it is `Markup`."""
    return _environment(folder).get_template(name)


@cache
def _environment(folder: Path) -> Environment:
    found = Environment(
        loader=FileSystemLoader(folder),
        keep_trailing_newline=folder != TEMPLATES,  # of a file; the parts of the page are joined without
        autoescape=select_autoescape(("html", "svg")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals |= {name: getattr(charts, name) for name in ("WIDTH", "HEIGHT", "LEFT", "RIGHT", "BOTTOM", "WINDOW")}
    found.globals["markdown_table"] = markdown_table
    found.filters["percent"] = charts.percent
    return found
