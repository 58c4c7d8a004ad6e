import itertools

import pytest

from couplet.configs.schema import OptimizerConfig
from couplet.learner.schedule import learning_rate, warmup_updates


def rates(total, **fields):
    config = OptimizerConfig(**({"lr": 1.0} | fields))
    return [learning_rate(update, total, config) for update in range(total)]


def test_warm_up_is_rounded_up_and_its_first_update_moves():
    config = OptimizerConfig(lr=1.0, warmup_ratio=1e-4)
    assert warmup_updates(config, 40) == 1 and warmup_updates(config, 10_001) == 2
    assert rates(8, warmup_ratio=0.5, schedule="constant") == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_cosine_falls_from_the_full_rate_to_the_floor():
    values = rates(100, warmup_ratio=0.0, min_lr_ratio=0.1)
    assert values[0] == 1.0 and values[50] == pytest.approx(0.55) and values[99] == pytest.approx(0.1, abs=3e-4)
    assert values[25] == pytest.approx(0.1 + 0.9 * 0.8535534)
    assert all(earlier >= later for earlier, later in itertools.pairwise(values))


def test_linear_decay_may_begin_late():
    values = rates(10, warmup_ratio=0.0, schedule="linear", decay_start=0.6, min_lr_ratio=0.0)
    assert values == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_the_floor_holds_after_the_end():
    config = OptimizerConfig(lr=2.0, warmup_ratio=0.0, min_lr_ratio=0.25)
    assert learning_rate(500, 100, config) == pytest.approx(0.5)
