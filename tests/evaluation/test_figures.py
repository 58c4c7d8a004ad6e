"""Figures: the numbers behind them, and that a file of the right kind is written."""

from __future__ import annotations

import math

import numpy as np
import pytest

from couplet.evaluation.figures import column, reward_curve, trailing_mean


def test_trailing_mean_of_two_steps() -> None:
    assert trailing_mean(np.array([1.0, 3.0, 5.0, 1.0]), 2).tolist() == [1.0, 2.0, 4.0, 3.0]


def test_trailing_mean_leaves_missing_values_out() -> None:
    means = trailing_mean(np.array([np.nan, 2.0, np.nan, 4.0]), 3)
    assert math.isnan(means[0]) and means[1:].tolist() == [2.0, 2.0, 3.0]


def test_a_row_without_the_metric_is_nan() -> None:
    values = column([{"a": 1.0}, {"b": 2.0}, {"a": None}], "a")
    assert values[0] == 1.0 and np.isnan(values[1:]).all()


def test_reward_curve_writes_a_png_even_where_shares_are_missing(tmp_path) -> None:
    rows = [{"step": 1.0, "reward_mean": 0.5}, {"step": 2.0, "reward_mean": float("nan")}]
    path = reward_curve(rows, tmp_path / "deep" / "curve.png", "a run")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_same_rows_give_the_same_svg(tmp_path) -> None:
    rows = [{"step": float(s), "reward_mean": s / 10, "pass_rate": s / 20} for s in range(10)]
    first = reward_curve(rows, tmp_path / "a.svg", "a run").read_bytes()
    assert first == reward_curve(rows, tmp_path / "b.svg", "a run").read_bytes()
    assert b"learner step" in first


def test_no_reward_is_an_error(tmp_path) -> None:
    with pytest.raises(ValueError, match="no row has reward_mean"):
        reward_curve([{"step": 1.0}], tmp_path / "curve.png", "empty")
