"""Measures of the decoding order on hand-made orders, and the whole analysis on a tiny random policy."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from couplet.configs.schema import ConfigError, EstimatorConfig, SamplerConfig, ShapeConfig
from couplet.data.problem import Problem
from couplet.data.prompts import PromptSet
from couplet.data.seeds import derive_seed
from couplet.data.trajectory import GroupId, RolloutRequest, ScoredGroup
from couplet.data.verdict import Outcome, Verdict
from couplet.evaluation.analysis import AnalysisPlan, Material, Subject, run_analysis
from couplet.evaluation.decoding import (
    Decoded,
    decode_judged,
    first_forward_confidence,
    measures,
    order_diversity,
    word_problems,
)
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.rollout.worker import RolloutWorker

IDS = TokenIds(mask=1, pad=0, bos=0, eos=0, filler=0, end=(2,))
SHAPE = ShapeConfig(hidden=16, layers=1, heads=2, kv_heads=2, ffn=32, max_positions=64, embedding_std=0.5)
SAMPLER = SamplerConfig(steps=8, completion_length=8)


def tiny_policy(seed: int = 0) -> DiffusionPolicy:
    return DiffusionPolicy.from_shape(SHAPE, vocab_size=24, token_ids=IDS, seed=seed).eval()


def code_prompts(count: int = 3) -> PromptSet:
    problems = tuple(Problem(f"code/{i}", "q", tests=("assert f() == 1",)) for i in range(count))
    return PromptSet(problems, tuple(np.array([3 + i, 4, 5], dtype=np.int32) for i in range(count)))


def word_prompts() -> PromptSet:
    problems = tuple(Problem(f"words/{i}", "q", metadata={"result": 7}) for i in range(2))
    return PromptSet(problems, (np.array([6, 7]), np.array([8, 9])))


def spell(tokens) -> str:  # type: ignore[no-untyped-def]
    return " ".join(str(int(t)) for t in tokens)


class Evaluator:
    """`Cluster.evaluate` with the real rollout worker and a judge that likes even token sums."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        self.worker = RolloutWorker(policy, spell, SAMPLER, EstimatorConfig())
        self.policy = policy
        self.settings: list[tuple[float, int]] = []

    def evaluate(self, request):
        prompts, sampler, samples, seed = request.prompts, request.sampler, request.samples, request.seed
        self.settings.append((sampler.temperature, sampler.steps))
        requests = [
            RolloutRequest(
                GroupId(0, i, 0),
                0,
                problem.problem_id,
                prompt,
                tuple(derive_seed(seed, problem.problem_id, g) for g in range(samples)),
                0,
            )
            for i, (problem, prompt) in enumerate(zip(prompts.problems, prompts.prompts))
        ]
        scored = []
        for group in self.worker.generate(requests, sampler=sampler):
            passed = group.tokens_GC.sum(axis=1) % 2 == 0
            verdicts = [Verdict(Outcome.PASSED if ok else Outcome.FAILED, float(ok), float(ok)) for ok in passed]
            scored.append(ScoredGroup(group, tuple(verdicts)))
        return scored


def test_order_diversity_of_equal_and_of_all_different_orders() -> None:
    assert order_diversity([[0, 1, 2]] * 4) == 0.0
    assert order_diversity([[0, 1], [1, 0]]) == pytest.approx(1.0)
    # first position differs (1), second and third agree for both (0), the fourth is reached by one only
    assert order_diversity([[0, 2, 3], [1, 2, 3, 0]]) == pytest.approx(1 / 3)


def test_measures_of_a_left_to_right_policy() -> None:
    outcomes = (Outcome.PASSED.value, Outcome.INFRA_ERROR.value, Outcome.FAILED.value)
    decoded = [Decoded("a", ((0, 1, 2),) * 3, outcomes, ("", "", ""), tokens=30, seconds=2.0)]
    row = measures(decoded, (1, 2), (1, 2, 3), seed=0)
    for k in (1, 2):
        assert row[f"local_ar_ness_{k}"] == 1.0 and row[f"global_ar_ness_{k}"] == 1.0
    assert row["pass_1"] == 0.5 and row["pass_2"] == 1.0 and "pass_3" not in row
    assert row["order_entropy"] == 0.0 and row["order_diversity"] == 0.0
    assert row["tokens_per_second"] == 15.0


def test_only_the_answer_counts_for_the_order() -> None:
    policy = tiny_policy()
    for decoded in decode_judged(Evaluator(policy).evaluate, code_prompts(), SAMPLER, 4, seed=1):
        for order, text in zip(decoded.orders, decoded.texts):
            tokens = text.split()
            assert sorted(order) == list(range(len(order)))
            assert len(order) == min(len(tokens) + 1, 8)  # the end token is part of the answer


def test_the_first_forward_is_the_softmax_of_the_masked_canvas_without_mask() -> None:
    policy = tiny_policy()
    largest_PC, entropy_PC = first_forward_confidence(policy, [[3, 4, 5], [6, 7]], 8)
    with torch.no_grad():
        logits = policy.logits(torch.tensor([[6, 7, *[IDS.mask] * 8]]))[0, 2:].double()
    logits[:, IDS.mask] = -torch.inf
    p = torch.softmax(logits, dim=1)
    assert largest_PC.shape == entropy_PC.shape == (2, 8)
    assert largest_PC[1] == pytest.approx(p.amax(dim=1).numpy(), abs=1e-5)
    assert entropy_PC[1] == pytest.approx(torch.special.entr(p).sum(dim=1).numpy(), abs=1e-5)


def test_a_word_problem_is_solved_by_its_last_answer() -> None:
    policy = tiny_policy()
    replies = iter(["the answer is 3, no: the answer is 7.", "The answer is 77.", "7", "answer is 7"])
    solve = word_problems(policy, lambda tokens: next(replies))
    found = decode_judged(solve, word_prompts(), SAMPLER, 2, seed=0)
    assert [d.outcomes for d in found] == [("passed", "failed"), ("failed", "passed")]
    assert found[0].tokens == 16 and found[0].seconds is None


def test_the_analysis_writes_every_figure_and_its_data(tmp_path) -> None:
    plan = AnalysisPlan(temperatures=(0.2, 1.2), samples=4, ar_ness_ks=(1, 2), pass_ks=(1, 4))
    evaluators = {"before": Evaluator(tiny_policy(0)), "after": Evaluator(tiny_policy(1))}
    subjects = [Subject(label, e.evaluate, e.policy, spell) for label, e in evaluators.items()]
    material = Material(code_prompts(), SAMPLER, word_prompts())
    run_analysis(subjects, material, plan, tmp_path, facts={"policy": "toy"})
    assert evaluators["after"].settings == [(0.2, 8), (1.2, 8), (0.2, 4), (0.2, 2)]  # none twice
    for stem in ("temperature", "steps", "entropy_sink", "domains"):
        assert (tmp_path / f"{stem}.png").exists() and (tmp_path / f"{stem}.svg").exists()
    settings = pq.read_table(tmp_path / "settings.parquet").to_pylist()
    assert [(r["policy"], r["study"]) for r in settings].count(("before", "temperature")) == 2
    assert [r["steps"] for r in settings if r["study"] == "steps" and r["policy"] == "after"] == [8, 4, 2]
    assert {r["domain"] for r in settings if r["study"] == "domain"} == {"code", "word problems"}
    assert pq.read_table(tmp_path / "entropy_sink.parquet").num_rows == 2 * 2 * 8
    orders = pq.read_table(tmp_path / "completions.parquet").to_pylist()
    assert len(orders) == 2 * (2 + 3 + 1) * 3 * 4 + 2 * 2 * 4
    assert json.loads((tmp_path / "analysis.json").read_text())["policy"] == "toy"
    assert "local AR-ness@1" in (tmp_path / "analysis.md").read_text()


def test_subjects_need_different_labels(tmp_path) -> None:
    policy = tiny_policy()
    subject = Subject("same", Evaluator(policy).evaluate, policy, spell)
    with pytest.raises(ValueError, match="own label"):
        run_analysis([subject, replace(subject)], Material(code_prompts(), SAMPLER), AnalysisPlan(), tmp_path)


def test_more_passes_than_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="samples = 4"):
        AnalysisPlan(samples=4)
