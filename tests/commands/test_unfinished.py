"""What Ctrl-C says about continuing, also while a run prepares its initial policy."""

import pytest

from couplet.commands.unfinished import leaving_no_empty_folder
from couplet.configs.load import from_dict
from couplet.configs.schema import AdaptConfig, RunConfig
from couplet.learner.checkpoint import save_checkpoint
from couplet.training.run_folder import RunFolder


def folder(kind, tmp_path, *, step):
    """A new run folder, with the checkpoint of `step` unless that is 0."""
    made = RunFolder.create(from_dict(kind, {"name": kind.__name__, "runs_dir": str(tmp_path)}))
    if step:
        save_checkpoint(made.checkpoints, step, lambda path: (path / "weights").write_text("w"), {"step": step})
    return made


@pytest.mark.parametrize(
    "step, said", [(0, "interrupted; there is no checkpoint yet"), (4, "checkpoints/step-00000004")]
)
def test_a_run_is_resumed_only_if_it_has_a_checkpoint(tmp_path, step, said):
    run = folder(RunConfig, tmp_path, step=step)
    with pytest.raises(KeyboardInterrupt) as ended, leaving_no_empty_folder(run):
        raise KeyboardInterrupt
    run.close()
    message, resumable = ended.value.args
    assert said in message and resumable is (step > 0) and run.root.exists() is (step > 0)


def test_a_run_that_was_still_adapting_is_started_again_without_resume(tmp_path):
    run, adaptation = folder(RunConfig, tmp_path, step=0), folder(AdaptConfig, tmp_path, step=4)
    with pytest.raises(KeyboardInterrupt) as ended, leaving_no_empty_folder(run), leaving_no_empty_folder(adaptation):
        raise KeyboardInterrupt
    adaptation.close()
    message, resumable = ended.value.args
    assert "AdaptConfig/checkpoints/step-00000004" in message and resumable is False and not run.root.exists()
