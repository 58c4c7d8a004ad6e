"""A completion as HTML: prose escaped, its first fenced block highlighted as Python."""

from __future__ import annotations

from markupsafe import Markup, escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from couplet.data.answers import ANY_FENCE

MOST_CHARACTERS = 6000  # of one text


def highlighted(text: str) -> Markup:
    """The text, cut after `MOST_CHARACTERS`. Pygments escapes the code, `escape` the prose around it."""
    shown = text[:MOST_CHARACTERS]
    fence = ANY_FENCE.search(shown)
    if fence is None:
        return escape(shown)
    start, end = fence.span(1)
    code = highlight(shown[start:end], PythonLexer(stripnl=False), HtmlFormatter(nowrap=True))
    return escape(shown[:start]) + Markup(code) + escape(shown[end:])


def token_rules() -> Markup:
    """The style sheet of highlighted tokens, for light and dark."""
    light = _rules(HtmlFormatter(style="default", nobackground=True))
    dark = _rules(HtmlFormatter(style="monokai", nobackground=True))
    return Markup(f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}")


def _rules(formatter: HtmlFormatter[str]) -> str:
    """Only the rules of tokens: no line numbers, no colours of the block itself."""
    rules = [line for line in formatter.get_style_defs(".code").splitlines() if line.startswith(".code .")]
    left_out = (".code .err", ".code .hll")
    return "\n".join(rule for rule in rules if "linenos" not in rule and not rule.startswith(left_out))
