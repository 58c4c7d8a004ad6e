"""Verdicts over seeds, the pages of studies, and what their command lines share."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from couplet import ROOT
from couplet.configs.errors import UserError
from couplet.configs.markdown import markdown_table
from couplet.evaluation.figures import new_figure
from couplet.studies import ablations, path, variance
from couplet.studies.claims import claim_table, paired_test, plus_minus, spread
from couplet.studies.cli import RunFailed, exit_code, run_couplet
from couplet.studies.page import write_page, write_study


@pytest.mark.parametrize(
    "gaps,half,verdict",
    [
        ([0.1, 0.2, 0.3], 4.30 * 0.1 / 3**0.5, "undecided, 3 of 3 seeds in favour"),
        ([0.2, 0.2, 0.23], 4.30 * 0.03 / 3, "reproduced"),
        ([-0.2, -0.2, -0.23], 4.30 * 0.03 / 3, "not reproduced, the opposite was measured"),
        ([0.21, *[0.2] * 10], 2.228 * 0.01 / 11, "reproduced"),
        ([0.21, *[0.2] * 11], 2.201 * 0.01 / 12, "reproduced"),
        ([0.21, *[0.2] * 12], 2.201 * 0.01 / 13, "reproduced"),
        ([0.3], None, "undecided: fewer than two seeds"),
    ],
)
def test_the_verdict_follows_from_the_t_interval_over_seeds(gaps, half, verdict) -> None:
    found = paired_test(gaps)
    assert found["verdict"] == verdict
    if half is not None:
        assert found["half"] == pytest.approx(half, rel=1e-6)


def test_seeds_without_a_value_do_not_count() -> None:
    found = paired_test([0.2, math.nan, 0.2])
    assert found["verdict"] == "reproduced" and found["mean"] == 0.2 and len(found["gaps"]) == 3
    assert math.isnan(paired_test([math.nan])["mean"])


def test_a_spread_leaves_out_what_is_missing() -> None:
    assert spread([1.0, None, 3.0]) == {"mean": 2.0, "std": pytest.approx(2**0.5)}
    assert spread([1.0]) == {"mean": 1.0, "std": 0.0}
    assert plus_minus(spread([0.5, 0.7]), 1, 100, "+") == "+60.0 ± 14.1"
    assert plus_minus(spread([]), 1) == plus_minus(None, 1) == "–"


def test_a_claim_is_a_row_with_its_differences_and_interval() -> None:
    table = claim_table([{"claim": "a beats b", "measured": "a minus b", **paired_test([0.2, 0.2, 0.23])}])
    assert table.endswith("| a beats b | a minus b | +0.200, +0.200, +0.230 | +0.210 [+0.167, +0.253] | reproduced |")
    alone = claim_table([{"claim": "c", "measured": "m", **paired_test([math.nan])}])
    assert alone.endswith("| c | m | – | – – | undecided: fewer than two seeds |")


def test_a_table_has_its_rules_and_escapes_bars() -> None:
    table = markdown_table(("a", "b", "c"), [("x|y", "1\n2", "3")], "lr")
    assert table == "| a | b | c |\n| --- | ---: | ---: |\n| x\\|y | 1 2 | 3 |"


def test_a_discussion_survives_when_its_page_is_written_again(tmp_path) -> None:
    page = tmp_path / "page.md"
    write_page(page, "# A\n")
    assert page.read_text() == "# A\n"
    page.write_text("# A\n\n## Discussion\n\nWhy so.\n")
    write_page(page, "# B\n")
    assert page.read_text() == "# B\n\n## Discussion\n\nWhy so.\n"


def test_a_failing_process_shows_the_end_of_its_output(tmp_path) -> None:
    with pytest.raises(RunFailed, match="unknown key"):
        run_couplet(["adapt", "tiny_path.yaml", "no.such=1"], tmp_path / "log")


def test_a_study_leaves_page_figure_and_json_that_everybody_reads(tmp_path) -> None:
    figure, _ = new_figure()
    write_study(tmp_path / "new", "s", {"x": [1.0, math.nan]}, "# S\n", figure)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["s.json", "s.md", "s.png", "s.svg"]
    assert json.loads((tmp_path / "new" / "s.json").read_text()) == {"x": [1.0, None]}


@pytest.mark.parametrize("error,code", [(UserError("bad"), 2), (RunFailed("run"), 1)])
def test_a_failure_is_one_line_and_an_exit_code(error, code, capsys) -> None:
    def study():
        raise error

    assert exit_code(study) == code and capsys.readouterr().err == f"error: {error}\n"


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 / 0)


@pytest.mark.parametrize("study", [ablations, path, variance])
def test_results_go_to_runs_and_never_into_a_package(study) -> None:
    needed = {"ablations": ["--start", "x"], "variance": ["--policy", "x"]}.get(study.__name__.rpartition(".")[2], [])
    assert study.parser().parse_args(needed).out == Path("runs/studies")


@pytest.mark.parametrize("name", ["ablations", "path", "variance"])
def test_every_study_runs_as_a_module(name) -> None:
    environment = {**os.environ, "PYTHONPATH": ROOT}
    command = [sys.executable, "-m", f"couplet.studies.{name}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and f"usage: python -m couplet.studies.{name}" in done.stdout
