"""A signal abandons what can be repeated at once, and lets a step and its checkpoint finish."""

import os
import signal
import time

import pytest

from couplet.training import interruption as module
from couplet.training.interruption import Interrupted, Interruption


@pytest.fixture
def interruption():
    with Interruption() as opened:
        yield opened


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_waiting_is_abandoned_at_once(interruption, number):
    with pytest.raises(Interrupted) as ended:
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert ended.value.signal == number


def test_a_step_is_finished_first(interruption):
    done = []
    with pytest.raises(Interrupted), interruption.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("step")
    assert done == ["step"]


def test_a_second_signal_does_not_wait(interruption):
    done = []
    with pytest.raises(Interrupted), interruption.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("first")
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("second")
    assert done == ["first"]


def test_a_step_that_takes_too_long_is_abandoned(interruption, monkeypatch):
    monkeypatch.setattr(module, "GRACE_SECONDS", 1)
    started = time.monotonic()
    with pytest.raises(Interrupted), interruption.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    assert time.monotonic() - started < 20


def test_a_block_without_a_signal_ends_as_usual(interruption):
    with interruption.deferred():
        pass
    with pytest.raises(ValueError), interruption.deferred():
        raise ValueError


def test_the_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as opened:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as ray.init does
        opened.install()
        assert signal.getsignal(signal.SIGTERM) == opened._arrived
    assert signal.getsignal(signal.SIGTERM) == before
