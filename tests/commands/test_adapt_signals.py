"""SIGTERM and SIGHUP end an adaptation as they end a training run: the updates done are saved, nothing is repeated."""

import os
import signal
from contextlib import contextmanager

import pytest

from couplet.commands import adapt
from couplet.commands.display import Display
from couplet.configs.load import from_dict
from couplet.configs.schema import AdaptConfig
from couplet.learner.checkpoint import latest_checkpoint
from couplet.training.interruption import Interrupted, Interruption


class Stage:
    """A stage of 100 updates; `before` is called before each call of `advance`."""

    def __init__(self, before):
        self.updates, self.before = 0, before

    def advance(self, updates):
        self.before(self.updates)
        self.updates += updates
        rows = [(self.updates, {"loss": 1.0, "tokens_per_second": 1.0})]
        return rows, self.updates, self.updates >= 100

    def save(self, folder):
        (folder / "policy").mkdir(parents=True)

    def position(self):
        return {}

    def restore(self, folder, position):
        self.updates = 40


@pytest.fixture
def adaptation(tmp_path, monkeypatch):
    """`adaptation(before, resume)` runs one with a stage as above."""
    monkeypatch.setattr(adapt, "check_inputs", lambda config: None)
    monkeypatch.setattr(adapt, "_prepare_start", lambda config, target: target.mkdir(parents=True))
    monkeypatch.setattr(adapt, "keep_policy", lambda source, target, sampler: target.mkdir(parents=True))
    config = from_dict(AdaptConfig, {"name": "stages", "runs_dir": str(tmp_path), "stages": [{"corpus": "katas:tune"}]})

    def go(before=lambda updates: None, resume=False):
        @contextmanager
        def running(*_):
            yield Stage(before)

        monkeypatch.setattr(adapt, "_running", running)
        with Interruption() as interruption:
            return adapt.run_adaptation(config, Display(), resume=resume, interruption=interruption)

    return go


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_updates_done_are_saved_and_a_resume_repeats_none(adaptation, tmp_path, number):
    with pytest.raises(Interrupted) as ended:
        adaptation(lambda updates: os.kill(os.getpid(), number) if updates == 20 else None)
    assert ended.value.signal == number and ended.value.args[1]
    assert latest_checkpoint(tmp_path / "stages" / "checkpoints")[1]["updates"] == 40
    begun = []
    adaptation(begun.append, resume=True)
    assert begun[0] == 40
