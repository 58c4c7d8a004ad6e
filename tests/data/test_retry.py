"""Pauses double, and nothing is slept before the first attempt or after the last."""

import pytest

from couplet.data.retry import Retry


def test_the_pauses_between_attempts_double():
    slept = []
    assert list(Retry(4, 0.5, sleep=slept.append)) == [0, 1, 2, 3]
    assert slept == [0.5, 1.0, 2.0]


def test_nothing_follows_an_attempt_that_succeeds():
    slept = []
    for attempt in Retry(4, 0.5, sleep=slept.append):
        if attempt == 1:
            break
    assert slept == [0.5]


def test_jitter_stays_within_its_share():
    pauses = [Retry(3, 1.0, jitter=0.5).seconds(2) for _ in range(100)]
    assert all(1.0 <= pause <= 3.0 for pause in pauses) and len(set(pauses)) > 1
    assert Retry(3, 1.0).seconds(2) == pytest.approx(2.0)
