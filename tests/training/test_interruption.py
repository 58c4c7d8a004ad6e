"""A signal abandons what can be repeated at once, and lets a step and its checkpoint finish."""

import os
import signal
import time

import pytest

from couplet.configs.errors import UserError
from couplet.training.interruption import GRACE, Interrupted, Interruption


@pytest.fixture
def interruption():
    with Interruption() as opened:
        yield opened


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_waiting_is_abandoned_at_once(interruption, number):
    with pytest.raises(Interrupted) as ended:
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert ended.value.signal == number and not ended.value.abandoned


def test_a_step_is_finished_first(interruption):
    done = []
    with pytest.raises(Interrupted) as ended, interruption.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("step")
    assert done == ["step"] and not ended.value.abandoned


def test_a_second_signal_does_not_wait(interruption):
    done = []
    with pytest.raises(Interrupted) as ended, interruption.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("first")
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("second")
    assert done == ["first"] and ended.value.abandoned


def test_a_step_that_takes_too_long_is_abandoned(monkeypatch):
    monkeypatch.setenv(GRACE, "1")
    started = time.monotonic()
    with Interruption() as interruption, pytest.raises(Interrupted) as ended, interruption.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    assert time.monotonic() - started < 20 and ended.value.abandoned


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "soon", ""])
def test_a_time_that_cannot_be_used_is_refused(monkeypatch, value):
    monkeypatch.setenv(GRACE, value)
    with pytest.raises(UserError, match=f"^{GRACE} = '{value}': give a whole number of seconds above 0$"):
        Interruption()


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
