"""The completions of the report: the best and the worst of the last steps, highlighted, each with its order of reveal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from couplet.data.answers import ANY_FENCE
from couplet.data.trajectory import answer_length
from couplet.data.verdict import Outcome
from couplet.report.charts import number, percent
from couplet.report.run_data import Run
from couplet.report.trace import step_colour

SHOWN = 4  # of the best, and of the worst
MOST_CHARACTERS = 6000  # of one text
CHAT_QUESTION = re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", re.DOTALL)


def answers_section(run: Run) -> str:
    """The section; says so where the run kept no completions."""
    judged = [row for row in run.completions if Outcome(row["outcome"]).is_verdict]
    if not judged:
        return '<h2>Completions</h2><p class="soft">This folder holds no judged completions (trajectories/).</p>'
    first, last = min(row["step"] for row in judged), max(row["step"] for row in judged)
    best = choose(judged, highest=True)
    taken = {(row["step"], row["problem_id"], row["completion"]) for row in best}
    rest = [row for row in judged if (row["step"], row["problem_id"], row["completion"]) not in taken]
    worst = choose(rest, highest=False)
    parts = [f'<h2>Completions</h2><p class="soft">From learner steps {first} to {last}.</p>']
    for title, rows in (("Highest reward", best), ("Lowest reward", worst)):
        if rows:
            parts.append(f"<h3>{title}</h3>" + "".join(_answer(row, run) for row in rows))
    return "".join(parts)


def choose(rows: Sequence[Mapping[str, Any]], highest: bool, count: int = SHOWN) -> list[Mapping[str, Any]]:
    """The completions of highest (lowest) reward, newest first among equals, no two of one problem."""
    sign = -1.0 if highest else 1.0
    ranked = sorted(rows, key=lambda row: (sign * row["reward"], -row["step"], row["problem_id"], row["completion"]))
    chosen: dict[str, Mapping[str, Any]] = {}
    for row in ranked:
        if len(chosen) < count and not math.isnan(row["reward"]):
            chosen.setdefault(row["problem_id"], row)
    return list(chosen.values())


def _answer(row: Mapping[str, Any], run: Run) -> str:
    tests = row["tests_passed"] or []
    marks = "".join('<b class="up">✓</b>' if passed else '<b class="down">✗</b>' for passed in tests)
    outcome = Outcome(row["outcome"])
    tone = "up" if outcome is Outcome.PASSED else "down"
    head = [
        f'<span class="reward">{number(row["reward"])}</span>',
        f'<span class="{tone}">{escape(outcome.value.replace("_", " "))}</span>',
        f'<span class="mono">{escape(row["problem_id"])}</span>',
        f'<span class="soft">step {row["step"]}, version {row["version"]}</span>',
    ]
    if tests:
        head.append(f'<span class="tests">{marks} <span class="soft">{percent(row["pass_rate"])}</span></span>')
    if row["reason"]:
        head.append(f'<span class="soft">{escape(row["reason"].replace("_", " "))}</span>')
    return (
        f'<div class="card answer"><header>{"".join(head)}</header>'
        f"{_question(row, run)}{highlighted(row['text'])}{_reveal(row, run)}</div>"
    )


def highlighted(text: str) -> str:
    """A completion as HTML: prose escaped, the first fenced block as Python."""
    cut = text[:MOST_CHARACTERS]
    note = '<p class="soft">cut here</p>' if len(text) > len(cut) else ""
    fence = ANY_FENCE.search(cut)
    if not cut.strip():
        return '<p class="soft">an empty answer</p>'
    if fence is None:
        return f'<div class="code"><pre>{escape(cut)}</pre></div>{note}'
    start, end = fence.span(1)
    code = highlight(cut[start:end], PythonLexer(stripnl=False), HtmlFormatter(nowrap=True))
    return f'<div class="code"><pre>{escape(cut[:start])}{code}{escape(cut[end:])}</pre></div>{note}'


def _question(row: Mapping[str, Any], run: Run) -> str:
    if run.tokenizer is None:
        return ""
    text = run.tokenizer.decode(row["prompt_tokens"], skip_special=False)
    asked = CHAT_QUESTION.findall(text)
    return f'<div class="question">{escape((asked[-1] if asked else text).strip())}</div>'


def _reveal(row: Mapping[str, Any], run: Run) -> str:
    """The tokens of the answer, coloured by the step that revealed them, with the step as tooltip."""
    if run.tokenizer is None:
        return ""
    steps = int((run.config.get("sampler") or {}).get("steps", max(row["reveal_step"]) + 1))
    special = run.tokenizer.special
    names = (run.config.get("model") or {}).get("end_tokens") or []
    length = answer_length(row["tokens"], [special[name] for name in names if name in special])
    pieces = []
    for token, step in zip(row["tokens"][:length], row["reveal_step"][:length]):
        piece = escape(run.tokenizer.decode([token], skip_special=False))
        pieces.append(f'<span style="color:{step_colour(step, steps)}" title="step {step}">{piece}</span>')
    return f"<details><summary>order of reveal, blue first, orange last</summary><pre>{''.join(pieces)}</pre></details>"
