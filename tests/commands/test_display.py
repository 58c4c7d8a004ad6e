"""The display of a run: a bar outlives a bar inside it, lines fit 80 columns, and the advice adds up."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from couplet.commands.display import Display, Pace, advice, interval

METRICS = {"reward_mean": 1.5, "solved_rate": 0.5, "format_rate": 1.0, "staleness_mean": 1.0, "step_seconds": 12.5}
METRICS |= {"generate_seconds": 20.0, "reward_seconds": 60.0, "train_seconds": 10.0}
METRICS |= {"generate_idle_share": 0.2, "reward_idle_share": 0.0, "train_idle_share": 0.2}


def test_a_bar_continues_after_a_bar_inside_it():
    display = Display(Console(file=io.StringIO(), force_terminal=True, width=80))
    with display.bar("train", 4) as outer:
        outer.update(1, "one\ntwo")
        with display.bar("evaluate", 2) as inner:
            inner.update(2)
        outer.update(3)
        assert [(task.description, task.completed) for task in display.progress.tasks] == [("train", 3)]
    assert display.progress is None


def test_more_workers_bring_the_slowest_phase_down_to_the_next():
    workers = {"generate": 1.0, "reward": 1.0, "train": 1.0}
    assert advice({"generate": 20.0, "reward": 60.0, "train": 10.0}, workers) == "judging bounds: add about 2 reward"
    assert advice({"generate": 20.0, "reward": 10.0, "train": 60.0}, workers) == "learning bounds"


@pytest.mark.parametrize("workers", [{}, {"rollout_workers": 128.0, "reward_workers": 64.0, "learner_workers": 8.0}])
def test_the_figures_of_a_step_fit_80_columns(workers):
    lines = Pace().note(METRICS | workers).splitlines()
    assert len(lines) == 2 and all(len(line) <= 76 for line in lines), lines
    assert "idle" in lines[1] if workers else lines[1] == "time: generating 22%, judging 67%, learning 11%"


def test_an_interval_is_shown_if_there_is_one():
    assert interval(0.25, 0.0, 0.5) == "25.0% [0.0%, 50.0%]" and interval(0.25, None, None) == "25.0%"
