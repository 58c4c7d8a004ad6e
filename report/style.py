"""The look of the report page: one style sheet, light and dark, nothing loaded from elsewhere."""

from __future__ import annotations

from pygments.formatters import HtmlFormatter

PAGE = """
:root {
  --ground: #f6f7f9; --card: #ffffff; --ink: #1d2127; --soft: #5d6673; --line: #e1e5ea; --grid: #edf0f3;
  --c0: #0a6fb5; --c1: #cf5b0b; --c2: #0b8a62; --c3: #9a4f96; --good: #0b7a53; --bad: #b3372b; --mark: #eef4fa;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171b; --card: #1c2026; --ink: #e4e7ec; --soft: #98a2b0; --line: #2c323a; --grid: #262c33;
    --c0: #5aaeea; --c1: #ef9150; --c2: #4cc49a; --c3: #c990c6; --good: #52c69c; --bad: #ef8074; --mark: #202a34;
  }
}
* { box-sizing: border-box; }
html { color-scheme: light dark; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 72px; }
h1 { font-size: 27px; font-weight: 650; letter-spacing: -0.01em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; font-weight: 650; margin: 46px 0 14px; }
h3 { font-size: 14px; font-weight: 600; margin: 0 0 8px; }
.answer + h3 { margin-top: 26px; }
p { margin: 6px 0; max-width: 76ch; }
.soft, .meta { color: var(--soft); }
.meta { margin-top: 6px; overflow-wrap: anywhere; }
.badge { display: inline-block; border: 1px solid var(--line); border-radius: 999px; padding: 1px 10px; font-size: 12.5px;
  color: var(--soft); vertical-align: 5px; margin-left: 8px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; margin-top: 26px; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 12px 14px; }
.tile .name { color: var(--soft); font-size: 13px; }
.tile .value { font-size: 22px; font-weight: 620; font-variant-numeric: tabular-nums; letter-spacing: -0.01em; }
.tile .note { font-size: 12.5px; color: var(--soft); font-variant-numeric: tabular-nums; }
.up { color: var(--good); } .down { color: var(--bad); }
h2 + p { margin: -8px 0 14px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(460px, 100%), 1fr)); gap: 14px; }
.card { padding: 16px 18px; min-width: 0; }
svg.chart { display: block; width: 100%; height: auto; overflow: visible; }
svg.chart text { font-size: 11.5px; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg.chart .grid-line { stroke: var(--grid); stroke-width: 1; }
svg.chart .axis { stroke: var(--line); stroke-width: 1; }
svg.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg.chart .dot { opacity: 0.3; }
svg.chart .hit { fill: transparent; }
svg.chart .hit:hover { fill: var(--soft); fill-opacity: 0.09; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); } .s3 { stroke: var(--c3); }
.f0 { fill: var(--c0); } .f1 { fill: var(--c1); } .f2 { fill: var(--c2); } .f3 { fill: var(--c3); }
.b0 { background: var(--c0); } .b1 { background: var(--c1); } .b2 { background: var(--c2); } .b3 { background: var(--c3); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 12.5px; color: var(--soft); margin-top: 6px; }
.legend i { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 6px; vertical-align: 3px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 12.5px; }
th, td { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; padding-right: 18px; }
.scroll { overflow-x: auto; }
.ledger { display: flex; height: 16px; border-radius: 5px; overflow: hidden; margin: 4px 0 8px; background: var(--grid); }
.ledger span { min-width: 0; }
.ledger ~ p { max-width: none; }
.answer { margin-bottom: 14px; }
.answer header { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: baseline; margin-bottom: 8px; }
.answer .reward { font-weight: 650; font-variant-numeric: tabular-nums; }
.question { background: var(--mark); border-radius: 7px; padding: 7px 12px; white-space: pre-wrap; overflow-wrap: anywhere;
  margin-bottom: 8px; font-size: 14px; }
pre, code, .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 13px; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.45; tab-size: 4; }
.code { border-left: 3px solid var(--line); padding: 4px 0 4px 14px; }
.tests b { font-weight: 600; letter-spacing: 2px; }
details > summary { cursor: pointer; color: var(--soft); font-size: 13.5px; margin-top: 6px; }
details[open] > summary { margin-bottom: 8px; }
.settings { columns: 2 380px; column-gap: 14px; }
.settings .card { break-inside: avoid; margin-bottom: 14px; }
footer { color: var(--soft); font-size: 13px; margin-top: 56px; border-top: 1px solid var(--line); padding-top: 14px; }
"""


def style_sheet() -> str:
    """The page's style and that of highlighted Python, for light and dark."""
    light = HtmlFormatter(style="default", nobackground=True).get_style_defs(".code")
    dark = HtmlFormatter(style="monokai", nobackground=True).get_style_defs(".code")
    return f"{PAGE}\n{_plain(light)}\n@media (prefers-color-scheme: dark) {{\n{_plain(dark)}\n}}\n"


def _plain(css: str) -> str:
    """Only the token rules: no line numbers, no colours of the block itself."""
    rules = [line for line in css.splitlines() if line.startswith(".code .") and "linenos" not in line]
    return "\n".join(rule for rule in rules if not rule.startswith((".code .err", ".code .hll")))
