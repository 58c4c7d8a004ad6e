"""The report page: complete in itself, escaped, honest about what is missing, clear about what is broken."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from couplet.configs.errors import UserError
from couplet.report.page import write_report
from couplet.report.run_data import RunFolderError
from tests.report.folders import EVIL, finish, write_evaluation, write_run

VOID = {"meta", "br", "input"}


class Checker(HTMLParser):
    """Every element that opens closes in order; collects tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):  # type: ignore[no-untyped-def]
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src", "srcset", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):  # type: ignore[no-untyped-def]
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):  # type: ignore[no-untyped-def]
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "run <b>")


def page_of(root: Path) -> str:
    return write_report(root).read_text()


def text_of(html: str) -> str:
    """What is shown, without style and script."""
    body = html[html.index("<body>") : html.rindex("<script>")]
    return unescape(re.sub(r"<[^>]*>", " ", body))


def test_the_page_is_well_formed_and_loads_nothing(run) -> None:
    html = page_of(finish(run))
    checker = Checker()
    checker.feed(html)
    assert checker.open == [] and checker.links == []
    assert not {"img", "link", "iframe", "object"} & set(checker.tags) and checker.tags.count("script") == 1
    assert "url(" not in html and "@import" not in html and "http" not in html.replace("http-equiv", "")


def test_only_the_script_of_the_page_may_run(run) -> None:
    """Content security policy: nothing is loaded, and of scripts only the one whose hash is named."""
    html = page_of(finish(run))
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in html


def test_everything_from_the_run_is_escaped(run) -> None:
    """Problem ids, questions, answers, settings and the name of the folder all hold markup."""
    html = page_of(finish(run))
    assert "<script>alert" not in html and "<img" not in html and "onerror=alert(1)>" not in html
    assert EVIL in text_of(html).replace("< /", "</") and "run &lt;b&gt;" in html and "&lt;b&gt;please" in html


def test_text_that_is_not_unicode_is_replaced(run) -> None:
    finish(run)
    path = run / "evaluations" / "after.json"
    path.write_text(path.read_text().replace('"answer": "', '"answer": "\\ud800', 1).replace("4, 3", "4, 4"))
    assert "?```python" in text_of(page_of(run))


def test_a_finished_run_shows_before_and_after_and_a_ledger_that_adds_up(run) -> None:
    text = " ".join(text_of(page_of(finish(run))).split())
    assert "finished" in text and "before 25.0% +25.0" in text and "2 min 5 s" in text
    assert "64 issued = 60 trained + 3 filtered + 1 quarantined + 0 in flight" in text and "adds up" in text
    assert "T = 0.2: 0.75 local, 0.5 global" in text and "62.5% [52.5, 72.5]" in text
    assert text.index(" before ") < text.index(" after ")
    assert "level 2 (4): pass@1" in text and "31.2% pass@8 62.5%" in text


def test_problems_are_compared_and_the_most_changed_ones_come_with_both_answers(run) -> None:
    html = page_of(finish(run))
    text = " ".join(text_of(html).split())
    assert "2 improved · 1 the same · 1 worsened" in text
    improved = text[text.index("Most improved") : text.index("Most worsened")]
    assert improved.index("+75 b 25.0% → 100.0%") < improved.index("+50 a 25.0% → 75.0%")
    assert "-25 bad/" in text[text.index("Most worsened") :]
    assert html.count('<details class="card problem">') == 3 and html.count("after: passed") == 3


def test_a_run_that_is_not_finished_shows_its_evaluations_and_says_so(run) -> None:
    write_evaluation(run, "before", 0, {"a": 1, "b": 1})
    text = text_of(page_of(run))
    assert "still running or was stopped" in text and "before training" in text and "Most improved" not in text
    write_evaluation(run, "step-000004", 4, {"a": 2, "b": 1})
    write_evaluation(run, "step-000008", 8, {"a": 4, "b": 4})
    text = " ".join(text_of(page_of(run)).split())
    assert "at step 8 of 12" in text and "before 25.0% +75.0" in text and "2 improved" in text
    assert "64 issued = 56 trained + 8 filtered" in text
    assert "Evaluations" in text  # a chart over learner steps


def test_a_run_killed_before_its_first_step_shows_the_evaluation_it_has(run) -> None:
    (run / "metrics.jsonl").unlink()
    write_evaluation(run, "before", 0, {"a": 1})
    text = text_of(page_of(run))
    assert "at step 0 of 12" in text and "No learner step is done yet" in text and "25.0%" in text


def test_evaluations_without_single_problems_say_so(run) -> None:
    finish(run)
    for path in (run / "evaluations").iterdir():
        result = json.loads(path.read_text())
        del result["problems"], result["intervals"]
        path.write_text(json.dumps(result))
    assert "kept no results of single problems" in page_of(run)


def test_a_ledger_that_does_not_add_up_says_so(run) -> None:
    finish(run)
    summary = json.loads((run / "summary.json").read_text())
    summary["ledger"]["trained"] = 59
    (run / "summary.json").write_text(json.dumps(summary))
    assert "does not add up" in page_of(run)


def test_curves_settings_and_highlighted_code_are_there(run) -> None:
    html = page_of(run)
    for title in ("Reward", "Idle share of each phase", "Settings", "Highest reward", "Lowest reward", "At random"):
        assert title in html
    assert "KL to the reference" not in html  # only NaN was recorded
    assert '<span class="k">def</span>' in html and "max_staleness" in html


def test_a_metric_that_never_changes_is_a_line_of_text(run) -> None:
    html = page_of(run)
    assert "mean 0.5, largest 1" in text_of(html) and 'aria-label="Staleness' not in html


def test_samples_without_a_verdict_are_not_shown(run) -> None:
    assert "infra" not in text_of(page_of(run))


def test_every_answer_has_a_player_with_the_step_of_each_token(run) -> None:
    html = page_of(run)
    assert html.count('class="player"') == html.count('class="card answer"') > 3
    canvas = html[html.index('<pre class="canvas">') :]
    assert re.search(r'<span data-step="0" style="--hue:216" title="step 1">', canvas)
    assert "step 1</span>" in canvas and "■" in canvas


def test_without_a_policy_there_are_completions_but_no_players(tmp_path) -> None:
    html = page_of(write_run(tmp_path / "run", tokenizer=False))
    assert 'class="card answer"' in html and 'class="player"' not in html


def test_the_tokenizer_of_a_checkpoint_serves_a_run_without_a_kept_policy(run) -> None:
    (run / "checkpoints" / "step-000004").mkdir(parents=True)
    (run / "policy").rename(run / "checkpoints" / "step-000004" / "policy")
    assert 'class="player"' in page_of(run)


def test_a_torn_last_line_is_skipped_and_a_broken_one_is_an_error(run) -> None:
    path = run / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 9, "rew')
    assert "at step 8 of 12" in page_of(run)
    for broken in ('{"ste', "[]", '{"reward_mean": 1}', '{"step": "x"}'):
        path.write_text(f'{{"step": 1}}\n{broken}\n{whole}')
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: .*delete the line"):
            write_report(run)


def test_a_step_that_was_repeated_after_a_kill_is_drawn_once(run) -> None:
    path = run / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 8, "reward_mean": 2.0, "time": 0.0}\n')
    html = page_of(run)
    assert "step 8\nmean reward: 2<" in html and html.count("step 8\nmean reward") == 1


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl"])
def test_what_a_report_cannot_do_without_is_named(run, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(RunFolderError, match=name):
        write_report(run)


@pytest.mark.parametrize(
    "name", ["summary.json", "run.json", "trajectories/step-000008.parquet", "config.yaml", "evaluations/before.json"]
)
def test_a_broken_file_is_named(run, name: str) -> None:
    finish(run)
    for broken in (b"{: broken", b"\xff\xfe", b"[1"):
        (run / name).write_bytes(broken)
        with pytest.raises(UserError, match=Path(name).name):
            write_report(run)


def test_a_missing_folder_is_named(tmp_path) -> None:
    with pytest.raises(RunFolderError, match="does not exist"):
        write_report(tmp_path / "nothing")


def test_a_run_without_trajectories_says_so(run) -> None:
    for path in (run / "trajectories").iterdir():
        path.unlink()
    assert "holds no judged completions" in page_of(run)


def test_a_step_without_a_measured_duration_has_no_speed_up(run) -> None:
    rows = [
        {"step": s, "step_seconds": 2.0 if s > 1 else 1e-9, "speedup_reached": 1.5 + s if s > 1 else 3e9}
        for s in (1, 2, 3)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = page_of(run)
    assert "Speed-up by overlap" in html and "3.0e+09" not in html


def test_one_step_is_enough(run) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1, "reward_mean": 0.0}\n')
    assert "Reward" in page_of(run)
