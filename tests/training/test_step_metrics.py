"""Metrics of a batch, and phase times, by hand-computed numbers. No Ray here."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from couplet.data.trajectory import GroupId, PromptGroup, ScoredGroup
from couplet.data.verdict import Outcome, TestResult, Verdict
from couplet.training.replay_metrics import Telemetry
from couplet.training.step_metrics import PhaseTimes, batch_metrics


def group(version, verdicts, metrics=None):
    G = len(verdicts)
    made = PromptGroup(
        group_id=GroupId(0, 0, 0),
        attempt=0,
        version=version,
        problem_id="p",
        prompt_tokens=np.zeros(3, np.int32),
        tokens_GC=np.zeros((G, 4), np.int32),
        reveal_step_GC=np.zeros((G, 4), np.int16),
        loss_mask_GC=np.tile(np.array([True, True, True, False]), (G, 1)),
        texts=("",) * G,
        seeds_G=tuple(range(G)),
        group_seed=0,
        behaviour_GJC=None,
        metrics=metrics,
    )
    return ScoredGroup(made, tuple(verdicts))


PASSED = Verdict(
    Outcome.PASSED, 2.5, 1.0, {"code": 1.0, "code_format": 1.0}, (TestResult(True), TestResult(True, strength="weak"))
)
FAILED = Verdict(Outcome.FAILED, 1.5, 0.5, {"code": 0.5, "code_format": 1.0}, (TestResult(True), TestResult(False)))
UGLY = Verdict(Outcome.FORMAT_ERROR, 0.0, 0.0, {"code": 0.0, "code_format": 0.0})
LOST = Verdict(Outcome.INFRA_ERROR, math.nan, reason="zygote")


def test_rewards_and_rates_of_a_batch():
    metrics = batch_metrics([group(4, [PASSED, FAILED]), group(5, [UGLY, UGLY])], version=5)
    assert metrics["reward_mean"] == 1.0
    assert metrics["reward_std"] == pytest.approx(math.sqrt((1.5**2 + 0.5**2 + 1 + 1) / 4))
    assert metrics["reward_code"] == 0.375 and metrics["reward_code_format"] == 0.5
    assert metrics["pass_rate"] == 0.375
    assert metrics["solved_rate"] == 0.25
    assert metrics["format_rate"] == 0.5
    assert metrics["zero_signal_share"] == 0.5
    assert metrics["weak_verdict_share"] == 0.25
    assert (metrics["staleness_mean"], metrics["staleness_max"]) == (0.5, 1.0)
    assert metrics["completion_tokens_mean"] == 3.0


def test_a_sandbox_fault_is_excluded_and_never_a_reward_of_zero():
    metrics = batch_metrics([group(0, [PASSED, LOST])], version=0)
    assert metrics["reward_mean"] == 2.5
    assert metrics["excluded_share"] == 0.5


def test_sampler_metrics_are_averaged_over_the_groups_that_have_them():
    some = [
        group(0, [PASSED, UGLY], {"draw_entropy": 1.0, "seconds": 9.0, "swap_seconds": 1.0}),
        group(0, [PASSED, UGLY]),
    ]
    metrics = batch_metrics(some, version=0)
    assert metrics["draw_entropy"] == 1.0
    assert "seconds" not in metrics and "swap_seconds" not in metrics


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("couplet.training.step_metrics.time", SimpleNamespace(monotonic=lambda: self.now))


def test_stage_times_say_how_much_overlap_there_was_and_could_be(monkeypatch):
    clock, times = Clock(monkeypatch), PhaseTimes()
    times.begin()
    for stage, seconds in (("generate", 6.0), ("reward", 1.0), ("train", 3.0)):
        times.add(stage, seconds)
    clock.now += 8.0
    metrics = times.step({"generate": 2, "reward": 1, "train": 1})
    assert metrics["step_seconds"] == 8.0
    assert metrics["generate_busy_share"] == 6.0 / 16.0
    assert metrics["train_idle_share"] == 5.0 / 8.0
    assert metrics["speedup_bound"] == pytest.approx(10.0 / 3.0)  # two generators: 3 s each, as much as training
    assert metrics["speedup_reached"] == 10.0 / 8.0
    assert metrics["bounding_stage"] == 0.0


def test_stage_times_count_each_second_in_one_step_and_pauses_in_none(monkeypatch):
    clock, times = Clock(monkeypatch), PhaseTimes()
    one = {"generate": 1, "reward": 1, "train": 1}
    times.begin()
    clock.now += 2.0
    times.add("train", 2.0)
    assert times.step(one)["train_seconds"] == 2.0
    clock.now += 1.0
    times.pause()
    clock.now += 50.0
    times.begin()
    clock.now += 3.0
    metrics = times.step(one)
    assert metrics["step_seconds"] == 4.0
    assert metrics["train_seconds"] == 0.0


def test_telemetry_reports_what_happened_since_the_last_report():
    telemetry = Telemetry(now=10.0)
    telemetry.generated(group(0, [PASSED, UGLY], {"seconds": 0.5}).group, 11.0)
    telemetry.judged([PASSED, LOST], 0.25, 12.0)
    for waited in (3.0, 1.0, 2.0):
        telemetry.ready(waited)
    report = telemetry.report(now=14.0)
    assert report["generate_seconds"] == 0.5 and report["reward_seconds"] == 0.25
    assert report["tokens_per_second"] == 8 / 4 and report["rollouts_per_second"] == 2 / 4
    assert (report["reward_wait_p50"], report["reward_wait_p95"]) == (2.0, 3.0)
    assert report["sandbox_faults_zygote"] == 1.0 and report["sandbox_faults_spawn"] == 0.0
    again = telemetry.report(now=15.0)
    assert again["generate_seconds"] == again["reward_wait_p95"] == 0.0
    assert again["sandbox_faults_zygote"] == 1.0  # counted since the start


def test_weights_are_timed_by_the_slowest_since_the_last_report():
    telemetry = Telemetry(now=0.0)
    telemetry.pushed(0.5, swap=0.25)
    telemetry.pushed(0.25, swap=0.125)
    telemetry.generated(group(0, [PASSED], {"swap_seconds": 2.0, "seconds": 9.0}).group, 1.0)
    report, again = telemetry.report(now=2.0), telemetry.report(now=3.0)
    assert (report["weight_broadcast_seconds"], report["weight_swap_seconds"]) == (0.5, 2.0)
    assert again["weight_broadcast_seconds"] == again["weight_swap_seconds"] == 0.0


def test_rates_look_back_one_minute():
    telemetry = Telemetry(now=0.0)
    made = group(0, [PASSED, UGLY]).group
    telemetry.generated(made, 5.0)
    telemetry.generated(made, 50.0)
    telemetry.judged([PASSED, UGLY], 0.1, 51.0)
    assert telemetry.rates(40.0 + 60.0) == {
        "groups_per_second": 1 / 60, "tokens_per_second": 8 / 60, "judged_per_second": 2 / 60
    }  # fmt: skip
