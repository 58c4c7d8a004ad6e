"""A killed analysis resumes, and no forward pass has more rows than allowed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from couplet.configs.schema import ConfigError
from couplet.data.prompts import PromptSet
from couplet.evaluation import decoding
from couplet.evaluation.analysis import AnalysisPlan, Material, Subject, run_analysis
from couplet.evaluation.decoding import Decoded, decode_judged, measures, word_problems
from tests.evaluation.test_decoding import SAMPLER, Evaluator, code_prompts, spell, tiny_policy, word_prompts

PLAN = AnalysisPlan(temperatures=(0.2, 1.2), steps=(8, 4), samples=2, ar_ness_ks=(1,), pass_ks=(1,))
FACTS = {"policy": "toy"}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Figures are slow, and not what is asked here."""
    monkeypatch.setattr("couplet.evaluation.analysis._write", lambda *_: None)


class Killed(Exception):
    """Stands for a SIGKILL in the middle of an analysis."""


class Counting(Evaluator):
    """Tells of each problem as it is done; killed after some of them."""

    def __init__(self, policy, dies_after=None):
        super().__init__(policy)
        self.left, self.asked = dies_after, 0

    def evaluate(self, request):
        prompts, progress = request.prompts, request.progress
        found = []
        for index in range(len(prompts)):
            if self.left is not None and self.asked == self.left:
                raise Killed
            one = PromptSet(prompts.problems[index : index + 1], prompts.prompts[index : index + 1])
            found += super().evaluate(replace(request, prompts=one, progress=None))
            self.asked += 1
            if progress:
                progress(index, found[-1])
        return found


def analyse(out, evaluator, **changes):
    subject = Subject("policy", evaluator.evaluate, evaluator.policy, spell)
    material = Material(code_prompts(), SAMPLER, word_prompts())
    return run_analysis([subject], material, replace(PLAN, **changes), out, facts=FACTS)


def without_speed(result):
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in result["settings"]]


@pytest.mark.parametrize("done", [1, 4])
def test_a_killed_analysis_asks_only_for_the_rest(tmp_path, done):
    killed, again, whole = Counting(tiny_policy(), done), Counting(tiny_policy()), Counting(tiny_policy())
    with pytest.raises(Killed):
        analyse(tmp_path / "cut", killed)
    found = analyse(tmp_path / "cut", again)
    straight = analyse(tmp_path / "whole", whole)
    assert whole.asked == 3 * 3 and again.asked == whole.asked - done  # three settings of three problems
    assert without_speed(found) == without_speed(straight)
    third = Counting(tiny_policy(), dies_after=0)
    assert without_speed(analyse(tmp_path / "cut", third)) == without_speed(straight)


def test_word_problems_on_record_are_not_sampled_again(tmp_path, monkeypatch):
    analyse(tmp_path, Counting(tiny_policy()))
    monkeypatch.setattr(decoding, "sample", None)
    analyse(tmp_path, Counting(tiny_policy()))
    records = (tmp_path / "decoded" / "policy-words-T0.2-S8.jsonl").read_text().splitlines()
    assert [json.loads(line)["problem_id"] for line in records] == ["words/0", "words/1"]


def test_another_analysis_does_not_mix_in(tmp_path):
    analyse(tmp_path, Counting(tiny_policy()))
    with pytest.raises(ConfigError, match=r"seed = 0, this run has 3.*name another --out"):
        analyse(tmp_path, Counting(tiny_policy()), seed=3)


def test_a_problem_twice_is_refused(tmp_path):
    evaluator, twice = Counting(tiny_policy(), dies_after=0), code_prompts()
    twice = PromptSet(twice.problems[:1] * 2, twice.prompts[:1] * 2)
    subject = Subject("policy", evaluator.evaluate, evaluator.policy, spell)
    with pytest.raises(ValueError, match="'code/0' is duplicated"):
        run_analysis([subject], Material(twice, SAMPLER), PLAN, tmp_path)


def test_word_problems_keep_to_the_rows_of_a_forward(monkeypatch):
    asked, original = [], decoding.sample

    def sample(policy, prompts, config, seeds, microbatch_rows=None, **options):
        asked.append((len(prompts), microbatch_rows))
        return original(policy, prompts, config, seeds, microbatch_rows=microbatch_rows, **options)

    monkeypatch.setattr(decoding, "sample", sample)
    policy = tiny_policy()
    few = decode_judged(word_problems(policy, spell, rows=4), word_prompts(), SAMPLER, 3, seed=5)
    assert asked == [(3, 4), (3, 4)]  # a problem at a time: two would be six rows
    assert few == decode_judged(word_problems(policy, spell), word_prompts(), SAMPLER, 3, seed=5)


def test_a_first_slow_call_does_not_count_for_the_speed():
    decoded = [Decoded(str(i), ((0,),), ("passed",), ("",), 100, 50.0 if i == 0 else 2.0) for i in range(5)]
    assert measures(decoded, (1,), (1,), seed=0)["tokens_per_second"] == 50.0


def test_the_speed_is_that_of_the_sampler_alone():
    found = decode_judged(Evaluator(tiny_policy()).evaluate, code_prompts(), SAMPLER, 2, seed=1)
    evaluator = Evaluator(tiny_policy())
    slow = evaluator.worker._metrics
    evaluator.worker._metrics = lambda *arguments: {**slow(*arguments), "sampler_tokens_per_second": 4.0}
    timed = decode_judged(evaluator.evaluate, code_prompts(), SAMPLER, 2, seed=1)
    assert [d.seconds for d in timed] == [16 / 4.0] * 3 and all(d.seconds for d in found)
    assert [d.tokens for d in timed] == [16] * 3 and np.isfinite([d.seconds for d in found]).all()
