"""The evaluation of a run: rates, their intervals, counts per problem, and the flat metrics of trackers."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from couplet.configs.schema import EvaluationConfig, SamplerConfig
from couplet.data.trajectory import ScoredGroup
from couplet.evaluation.suite import run_suite, suite_metrics
from tests.evaluation.test_benchmark import FakeCluster, prompt_set

CONFIG = EvaluationConfig(samples=4, greedy_samples=2, ar_ness_problems=3)


def evaluate_with(faults=0):
    """`FakeCluster.evaluate`, with AR-ness falling from problem to problem."""
    cluster = FakeCluster(faults=faults)

    def evaluate(request):
        groups = cluster.evaluate(request)
        orders = [{"local_ar_ness": 1.0 - 0.1 * i, "global_ar_ness": 0.5} for i in range(len(groups))]
        return [ScoredGroup(replace(g.group, metrics=m), g.verdicts) for g, m in zip(groups, orders)]

    return evaluate


def suite(faults=0):
    return run_suite(CONFIG, SamplerConfig(), prompt_set(), evaluate_with(faults))


def test_rates_agree_with_the_counts_per_problem_and_lie_in_their_intervals():
    result = suite()
    rows = result["problems"]
    assert [row["problem_id"] for row in rows] == [f"toy/{i}" for i in range(6)]
    for name, samples in (("pass_at_1", 2), ("pass_at_1_t1", 4)):
        assert all(row[name][0] == samples for row in rows)
        assert result[name] == pytest.approx(np.mean([passed / judged for judged, passed in (r[name] for r in rows)]))
    assert result["pass_at_4"] == np.mean([row["pass_at_1_t1"][1] > 0 for row in rows])
    for name, (low, high) in result["intervals"].items():
        if name in result:
            assert low <= result[name] <= high
    assert rows[0]["question"] == "question 0" and rows[0]["outcome"] == "failed" and "def f()" in rows[0]["answer"]
    json.dumps(result, allow_nan=False)


def test_with_one_sample_the_low_temperature_keeps_its_rate():
    """pass@samples is then pass@1 at the high temperature, and has no name of its own."""
    config = CONFIG.replace(samples=1)
    result = run_suite(config, SamplerConfig(), prompt_set(), evaluate_with())
    for name in ("pass_at_1", "pass_at_1_t1"):
        assert result[name] == pytest.approx(np.mean([row[name][1] / row[name][0] for row in result["problems"]]))
    assert result["pass_at_1"] != result["pass_at_1_t1"]
    assert {name for name in result["intervals"] if name.startswith("pass")} == {"pass_at_1", "pass_at_1_t1"}


def test_rates_of_a_level_are_those_of_its_problems():
    prompts = prompt_set()
    leveled = [replace(problem, metadata={"level": i % 2 + 1}) for i, problem in enumerate(prompts.problems)]
    result = run_suite(CONFIG, SamplerConfig(), replace(prompts, problems=tuple(leveled)), evaluate_with())
    assert list(result["levels"]) == ["1", "2"] and suite()["levels"] == {}
    for index, found in enumerate(result["levels"].values()):
        rows = result["problems"][index::2]
        assert found["problems"] == 3
        assert found["pass_at_1_t1"] == np.mean([row["pass_at_1_t1"][1] / 4 for row in rows])


def test_ar_ness_is_measured_on_the_first_problems_at_every_temperature():
    result = suite()
    assert result["ar_ness"]["1.2"]["local"] == pytest.approx(0.9)
    low, high = result["intervals"]["local_ar_ness_t1_2"]
    assert 0.8 <= low < 0.9 < high <= 1.0


def test_flat_metrics_have_known_names_and_their_intervals():
    metrics = suite_metrics({"step": 3, **suite()})
    assert all(re.fullmatch(r"eval/[a-z0-9_]+", name) and isinstance(v, float) for name, v in metrics.items())
    rates = ("pass_at_1", "pass_at_1_t1", "pass_at_4", "format_rate_t1", "local_ar_ness_t0_2", "global_ar_ness_t1_2")
    for name in rates:
        assert metrics[f"eval/{name}_low"] <= metrics[f"eval/{name}"] <= metrics[f"eval/{name}_high"]
    assert metrics["eval/excluded"] == 0.0 and "eval/step" not in metrics


def test_what_was_not_judged_has_no_metric():
    result = suite(faults=4)
    assert math.isnan(result["pass_at_1_t1"]) and "pass_at_1_t1" not in result["intervals"]
    metrics = suite_metrics(result)
    assert not any(name.startswith("eval/pass_at") for name in metrics) and metrics["eval/excluded"] == 36.0


def test_a_result_of_an_older_run_without_intervals_has_its_means():
    old = {"pass_at_1": 0.5, "ar_ness": {"0.2": {"local": 0.75, "global": 0.5}}, "excluded": 0}
    assert suite_metrics(old) == {
        "eval/pass_at_1": 0.5,
        "eval/excluded": 0.0,
        "eval/local_ar_ness_t0_2": 0.75,
        "eval/global_ar_ness_t0_2": 0.5,
    }
