"""The templates of this package."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from couplet.report import charts

TEMPLATES = Path(__file__).parent / "templates"


def template(name: str) -> Template:
    """A template by file name; every value is escaped unless it is `Markup`."""
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals |= {name: getattr(charts, name) for name in ("WIDTH", "HEIGHT", "LEFT", "RIGHT", "BOTTOM", "WINDOW")}
    found.filters["percent"] = charts.percent
    return found
