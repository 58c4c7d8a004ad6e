"""Samples lost to faults, and only they, are judged again: `reward.retries` times, with doubling pauses."""

import math

import pytest

from couplet.data.verdict import Outcome, Verdict
from couplet.reward.judgement import Judgement, judge_in_rounds

PASSED, FAULT = Verdict(Outcome.PASSED, 1.0), Verdict(Outcome.INFRA_ERROR, math.nan, reason="spawn")
QUARANTINED = Verdict(Outcome.QUARANTINED, math.nan)


def test_only_what_a_fault_took_is_judged_again():
    judgement = Judgement("group", 3, retries=2)
    assert list(judgement.pending) == [0, 1, 2] and judgement.pause == 0.0
    judgement.record([PASSED, FAULT, QUARANTINED])
    assert list(judgement.pending) == [1] and judgement.pause == pytest.approx(0.1)
    judgement.record([PASSED])
    assert not judgement.pending and judgement.verdicts == [PASSED, PASSED, QUARANTINED]


def test_after_the_last_retry_the_fault_is_the_result():
    judgement = Judgement("group", 1, retries=2)
    pauses = []
    while judgement.pending:
        pauses.append(judgement.pause)
        judgement.record([FAULT])
    assert pauses == pytest.approx([0.0, 0.1, 0.2]) and judgement.verdicts == [FAULT]


def test_the_death_of_a_worker_counts_like_a_fault():
    judgement = Judgement("group", 1, retries=2)
    assert [judgement.fail(), judgement.fail(), judgement.fail()] == [True, True, False]


def test_rounds_end_when_nothing_is_pending(monkeypatch):
    monkeypatch.setattr("couplet.reward.judgement.PAUSE", 0.0)
    rounds = []

    def judge(work):
        jobs = list(work)
        rounds.append([(job.subject, list(job.pending)) for job in jobs])
        for job in reversed(jobs):
            lost = job.subject == "bad" or (job.subject == "late" and len(rounds) == 1)
            yield job, [FAULT if lost and sample == 0 else PASSED for sample in job.pending]

    done = list(judge_in_rounds([Judgement(name, 2, retries=1) for name in ("good", "late", "bad")], judge))
    assert [job.subject for job in done] == ["good", "late", "bad"]
    assert rounds == [[("good", [0, 1]), ("late", [0, 1]), ("bad", [0, 1])], [("bad", [0]), ("late", [0])]]
    assert {job.subject: job.verdicts for job in done}["bad"] == [FAULT, PASSED]
