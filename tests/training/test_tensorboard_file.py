"""TensorBoard's files: read back by TensorBoard, and a disk that refuses one is one error that names it."""

import pytest

from couplet.configs.schema import ConfigError
from couplet.training.run_folder import ADVICE
from couplet.training.tensorboard_file import EventFile


def test_scalars_are_read_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventFile(tmp_path, ADVICE)
    events.add({"loss": 0.5}, 1, 100.0)
    events.add({"loss": 0.25, "eval/pass_at_1": 1.0}, 2, 101.0)
    events.close()
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert read.Scalars("eval/pass_at_1")[0].wall_time == 101.0


def test_a_full_disk_is_one_error_that_names_the_file(tmp_path):
    events = EventFile(tmp_path, ADVICE)
    with open("/dev/full", "wb", buffering=0) as full:
        events._records._writer = full
        with pytest.raises(ConfigError, match=r"cannot write .*tfevents.*No space left.*free some space and resume"):
            events.add({"loss": 0.5}, 1, 100.0)
    events.close()
