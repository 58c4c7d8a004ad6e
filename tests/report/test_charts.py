"""Ticks, numbers, lines with gaps, logarithmic axes, histograms; which completions are shown."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from couplet.data.metric_table import METRICS
from couplet.report.answers import choose, choose_at_random
from couplet.report.charts import HEIGHT, Chart, Series, decades, histogram, line_chart, number, ticks
from couplet.report.curves import PANELS
from couplet.report.highlight import highlighted

ROWS = [
    {"problem_id": p, "completion": c, "step": s, "reward": r}
    for p, c, s, r in [("a", 0, 1, 2.5), ("a", 1, 2, 2.5), ("b", 0, 1, 1.0), ("c", 0, 1, math.nan), ("d", 0, 1, 0.0)]
]


def test_best_and_worst_take_one_per_problem_and_newest_first() -> None:
    assert [(r["problem_id"], r["step"]) for r in choose(ROWS, highest=True, count=2)] == [("a", 2), ("b", 1)]
    assert [r["problem_id"] for r in choose(ROWS, highest=False, count=2)] == ["d", "b"]


def test_random_completions_do_not_depend_on_their_rewards_and_stay_the_same() -> None:
    rows = [{"problem_id": str(i), "completion": 0, "step": 1, "reward": float(i)} for i in range(100)]
    chosen = choose_at_random(rows, 20)
    other = choose_at_random([row | {"reward": 0.0} for row in reversed(rows)], 20)
    assert [r["problem_id"] for r in chosen] == [r["problem_id"] for r in other]
    assert 25 < np.mean([r["reward"] for r in chosen]) < 75


def test_prose_around_code_stays_as_it_is_written() -> None:
    html = highlighted("Here <b>:\n```python\nx = '<i>'\n```\n")
    assert "Here &lt;b&gt;:" in html and "```python" in html and 'class="s1"' in html and "<i>" not in html


def test_ticks_are_round_and_cover_the_range() -> None:
    assert ticks(0.0, 2.3) == [0.0, 1.0, 2.0, 3.0]
    assert ticks(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(-0.4, 0.9)[0] <= -0.4 and ticks(-0.4, 0.9)[-1] >= 0.9


@pytest.mark.parametrize(
    "low,high,marks",
    [(0.5, 300, [0.1, 1, 10, 100, 1000]), (1, 1, [1, 10]), (1e-6, 1e6, [1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6])],
)
def test_decades_cover_the_range(low: float, high: float, marks: list[float]) -> None:
    assert decades(low, high) == pytest.approx(marks)


def test_numbers_are_short() -> None:
    values = (0.0, 1.5, 0.12345, 12.34, 1234.5, 2e-5, math.nan)
    assert [number(v) for v in values] == ["0", "1.5", "0.123", "12.3", "1,234", "2.0e-05", "–"]


def draw(values: list[float], **options):  # type: ignore[no-untyped-def]
    array = np.array(values)
    return line_chart(Chart("title", (Series("a", array),), **options), np.arange(1.0, len(array) + 1))


def test_a_missing_value_is_a_gap_in_the_line() -> None:
    path = draw([1.0, 2.0, math.nan, 3.0, 4.0]).lines[0].path
    assert path.count("M") == 2 and path.count("L") == 2


def test_a_single_value_is_a_dot() -> None:
    (line,) = draw([math.nan, 2.0]).lines
    assert line.path == "" and len(line.dots) == 1


def test_spikes_get_a_logarithmic_axis_that_shows_the_rest() -> None:
    calm, spike = [1.0, 2.0, 1.5, 1.2], [1.0, 2.0, 5000.0, 0.0]
    assert not draw(calm, spiky=True).log and not draw(spike).log and not draw([-1.0, *spike], spiky=True).log
    drawing = draw(spike, spiky=True)
    assert drawing.log and [label for _, label in drawing.rows] == ["1", "10", "100", "1,000", "10,000"]
    heights = [float(point.split()[1]) for point in drawing.lines[0].path[1:].split("L")]
    assert heights[0] - heights[1] > 10 and heights[3] == heights[0]  # distinct; zero is at the bottom
    assert all(0 <= y <= HEIGHT for y in heights)


def test_a_histogram_shows_shares_of_each_set() -> None:
    drawing = histogram("rewards", {"first": np.array([0.0] * 3 + [2.5]), "last": np.array([2.5])})
    assert drawing.legend == ("first: 4", "last: 1")
    first = [box for box in drawing.boxes if box.series == 0]
    assert [box.tooltip.rpartition(": ")[2] for box in first] == ["75.0%", "25.0%"]
    assert first[0].height == pytest.approx(3 * first[1].height, abs=0.2)
    assert histogram("one", {"all": np.array([1.0, 1.0])}).boxes


def test_long_runs_are_thinned_and_keep_their_last_step() -> None:
    drawing = draw(list(range(5000)))
    assert len(drawing.boxes) == 400 and drawing.boxes[-1].tooltip.startswith("step 5000")


def test_every_metric_that_is_drawn_is_in_the_table_of_metrics() -> None:
    drawn = [metric for panel in PANELS for metric in panel["curves"]]
    patterns = [re.compile(metric.pattern) for metric in METRICS]
    assert [name for name in drawn if not any(pattern.fullmatch(name) for pattern in patterns)] == []
    assert len(set(drawn)) == len(drawn)
