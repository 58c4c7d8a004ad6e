"""The report page: complete in itself, escaped, honest about what is missing, clear about what is broken."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from couplet.configs.load import dump
from couplet.configs.schema import ConfigError, RunConfig
from couplet.data.trajectory import GroupId, PromptGroup, ScoredGroup
from couplet.data.trajectory_file import trajectory_table
from couplet.data.verdict import Outcome, TestResult, Verdict
from couplet.report.answers import choose, highlighted
from couplet.report.charts import Chart, Series, line_chart, number, ticks
from couplet.report.page import write_report

EVIL = '<script>alert("x")</script>'
VOID = {"meta", "br", "line", "circle", "rect", "path"}


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
        if tag not in VOID or tag == "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):  # type: ignore[no-untyped-def]
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):  # type: ignore[no-untyped-def]
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def scored_group(step: int) -> ScoredGroup:
    texts = ("```python\ndef f(x):\n    return x < 1\n```", f"{EVIL} no code", "")
    verdicts = (
        Verdict(Outcome.PASSED, 2.5, 1.0, tests=(TestResult(True),)),
        Verdict(Outcome.FORMAT_ERROR, 0.0, reason="format"),
        Verdict(Outcome.INFRA_ERROR, math.nan),
    )
    group = PromptGroup(
        GroupId(0, step, 0), 0, step, f"toy/{EVIL}/{step}", np.array([3, 4]), np.full((3, 5), 7, np.int32),
        np.zeros((3, 5), np.int16), np.ones((3, 5), bool), texts, (1, 2, 3), 0, None,
    )  # fmt: skip
    return ScoredGroup(group, verdicts)


@pytest.fixture
def run(tmp_path) -> Path:
    root = tmp_path / f"run {EVIL.replace('/', '')}"
    (root / "trajectories").mkdir(parents=True)
    (root / "config.yaml").write_text(dump(RunConfig(name="toy", steps=12)))
    rows = [
        {
            "step": step, "time": 0.0, "reward_mean": 0.1 * step, "pass_rate": 0.05 * step, "staleness_mean": 0.5,
            "staleness_max": 1.0, "generate_idle_share": 0.1, "reward_idle_share": 0.8, "train_idle_share": 0.4,
            "kl_mean": float("nan"), "ledger_issued": 8.0 * step, "ledger_trained": 7.0 * step,
            "ledger_filtered": float(step), "ledger_quarantined": 0.0, "ledger_in_flight": 0.0,
        }
        for step in range(1, 9)
    ]  # fmt: skip
    (root / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (7, 8):
        pq.write_table(trajectory_table([scored_group(step)], step), root / "trajectories" / f"step-{step:06d}.parquet")
    return root


def finish(root: Path) -> None:
    ledger = {"issued": 64, "trained": 60, "filtered": 3, "quarantined": 1, "in_flight": 0, "reissued": 2}
    summary = {"pass_at_1_before": 0.25, "pass_at_1_after": 0.5, "seconds": 125.0, "ledger": ledger}
    (root / "summary.json").write_text(json.dumps(summary))
    (root / "evaluations").mkdir()
    for name, step, value in (("before", 0, 0.25), ("after", 12, 0.5)):
        result = {"step": step, "pass_at_1": value, "ar_ness": {"0.2": {"local": 0.75, "global": 0.5}}}
        (root / "evaluations" / f"{name}.json").write_text(json.dumps(result))


def page_of(root: Path) -> str:
    return write_report(root).read_text()


def test_the_page_is_well_formed_and_loads_nothing(run) -> None:
    finish(run)
    html = page_of(run)
    checker = Checker()
    checker.feed(html)
    assert checker.open == [] and checker.links == []
    assert not {"script", "img", "link", "iframe"} & set(checker.tags)
    assert "url(" not in html and "@import" not in html and "http" not in html.replace("http-equiv", "")


def test_everything_from_the_run_is_escaped(run) -> None:
    html = page_of(run)
    assert "<script" not in html and "&lt;script&gt;alert" in html


def test_a_finished_run_shows_before_and_after_and_a_ledger_that_adds_up(run) -> None:
    finish(run)
    html = page_of(run)
    assert "finished" in html and "50.0%" in html and "+25.0" in html and "2 min 5 s" in html
    assert "64 issued = 60 trained + 3 filtered + 1 quarantined + 0 in flight" in html and "adds up" in html
    assert "T = 0.2: 0.75 local, 0.5 global" in html
    assert html.index(">before<") < html.index(">after<")


def test_a_running_run_takes_the_ledger_from_its_metrics(run) -> None:
    html = page_of(run)
    assert "at step 8 of 12" in html and "64 issued = 56 trained + 8 filtered" in html


def test_a_ledger_that_does_not_add_up_says_so(run) -> None:
    finish(run)
    summary = json.loads((run / "summary.json").read_text())
    summary["ledger"]["trained"] = 59
    (run / "summary.json").write_text(json.dumps(summary))
    assert "does not add up" in page_of(run)


def test_curves_settings_and_highlighted_code_are_there(run) -> None:
    html = page_of(run)
    for title in ("Reward", "Staleness", "idle share of each stage", "Settings", "Highest reward", "Lowest reward"):
        assert title in html
    assert "KL to the reference" not in html  # only NaN was recorded
    assert '<span class="k">def</span>' in html and "max_staleness" in html


def test_samples_without_a_verdict_are_not_shown(run) -> None:
    assert "infra" not in re.sub(r"<style>.*</style>", "", page_of(run), flags=re.DOTALL)


def test_a_torn_last_line_is_passed_over_and_a_broken_one_is_an_error(run) -> None:
    path = run / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 9, "rew')
    assert "at step 8 of 12" in page_of(run)
    path.write_text('{"step": 1}\n{"ste\n' + whole)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        write_report(run)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl"])
def test_what_a_report_cannot_do_without_is_named(run, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(ConfigError, match=name):
        write_report(run)


@pytest.mark.parametrize("name", ["summary.json", "run.json", "trajectories/step-000008.parquet", "config.yaml"])
def test_a_broken_file_is_named(run, name: str) -> None:
    (run / name).write_text("{: broken")
    with pytest.raises(ValueError, match=Path(name).name):
        write_report(run)


def test_a_missing_folder_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        write_report(tmp_path / "nothing")


def test_a_run_without_trajectories_says_so(run) -> None:
    for path in (run / "trajectories").iterdir():
        path.unlink()
    assert "holds no judged completions" in page_of(run)


def test_a_step_without_a_measured_duration_has_no_speed_up(run) -> None:
    rows = [
        {"step": s, "step_seconds": 2.0 if s > 1 else 1e-9, "speedup_reached": 1.5 if s > 1 else 3e9} for s in (1, 2, 3)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = page_of(run)
    assert "Speed-up by overlap" in html and "3.0e+09" not in html


def test_one_step_is_enough(run) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1, "reward_mean": 0.0}\n')
    assert "Reward" in page_of(run)


def test_best_and_worst_take_one_per_problem_and_newest_first() -> None:
    rows = [
        {"problem_id": p, "completion": c, "step": s, "reward": r}
        for p, c, s, r in [
            ("a", 0, 1, 2.5),
            ("a", 1, 2, 2.5),
            ("b", 0, 1, 1.0),
            ("c", 0, 1, math.nan),
            ("d", 0, 1, 0.0),
        ]
    ]
    assert [(r["problem_id"], r["step"]) for r in choose(rows, highest=True, count=2)] == [("a", 2), ("b", 1)]
    assert [r["problem_id"] for r in choose(rows, highest=False, count=2)] == ["d", "b"]


def test_prose_around_code_stays_as_it_is_written() -> None:
    html = highlighted("Here <b>:\n```python\nx = 1\n```\n")
    assert "Here &lt;b&gt;:" in html and "```python" in html and 'class="mi"' in html


def test_ticks_are_round_and_cover_the_range() -> None:
    assert ticks(0.0, 2.3) == [0.0, 1.0, 2.0, 3.0]
    assert ticks(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(-0.4, 0.9)[0] <= -0.4 and ticks(-0.4, 0.9)[-1] >= 0.9


def test_numbers_are_short() -> None:
    assert [number(v) for v in (0.0, 1.5, 0.12345, 12.34, 1234.5, 2e-5, math.nan)] == [
        "0", "1.5", "0.123", "12.3", "1,234", "2.0e-05", "–",
    ]  # fmt: skip


def test_a_missing_value_is_a_gap_in_the_line() -> None:
    values = np.array([1.0, 2.0, np.nan, 3.0, 4.0])
    chart = line_chart(Chart("gap", (Series("a", values),)), np.arange(1.0, 6.0))
    path = re.search(r' d="([^"]*)"', chart)
    assert path is not None and path.group(1).count("M") == 2 and path.group(1).count("L") == 2
