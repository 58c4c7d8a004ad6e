"""What surrounds the loop of a run: the best checkpoint, and the checkpoint of a run that a signal ends."""

from types import SimpleNamespace

import pytest

from couplet.commands.display import Display
from couplet.commands.training_run import _Run
from couplet.configs.load import from_dict
from couplet.configs.schema import RunConfig
from couplet.learner.checkpoint import save_checkpoint
from couplet.training.interruption import Interrupted
from couplet.training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    """A run at learner step 3, whose cluster can only save."""
    config = from_dict(RunConfig, {"runs_dir": str(tmp_path), "checkpoint": {"best_metric": "pass_at_1"}})
    folder = RunFolder.create(config)

    def save():
        return save_checkpoint(folder.checkpoints, 3, lambda path: (path / "weights").write_text("w"), {"step": 3})

    yield _Run(config, SimpleNamespace(step=3, save=save), folder, Display(), held_out=[])
    folder.close()


def test_the_result_of_an_interrupted_evaluation_still_marks_the_best_checkpoint(run):
    run.log.add("step-000003", 3, {"pass_at_1": 0.5, "ar_ness": {}})
    assert run.evaluate(3, "step-000003")["pass_at_1"] == 0.5
    assert (run.folder.checkpoints / "best").resolve().name == "step-00000003"


@pytest.mark.parametrize("abandoned, saved", [(False, ["step-00000003"]), (True, [])])
def test_a_signal_saves_what_is_done_unless_it_cuts_a_step(run, abandoned, saved):
    with pytest.raises(Interrupted), run.saving_if_interrupted():
        raise Interrupted(15, abandoned=abandoned)
    assert [path.name for path in run.folder.checkpoints.glob("step-*")] == saved
