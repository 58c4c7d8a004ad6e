"""What surrounds the loop of a run: the best checkpoint, and the checkpoint of a run that a signal ends."""

from types import SimpleNamespace

import pytest

from couplet.commands.display import Display
from couplet.commands.training_run import _comparison, _Run
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


def test_results_of_other_evaluation_settings_are_compared_as_far_as_they_go():
    def result(samples, temperature):
        passed = {"pass_at_1": 0.25, "pass_at_1_t1": 0.5, f"pass_at_{samples}": 0.75}
        return passed | {"ar_ness": {"0.2": {"local": 0.5, "global": 0.5}, temperature: {"local": 1.0, "global": 1.0}}}

    config, both = from_dict(RunConfig, {"evaluation": {"samples": 4}}), (result(8, "1.2"), result(4, "0.9"))
    summary = {"ar_ness": dict(zip(("before", "after"), (some["ar_ness"] for some in both), strict=True))}
    labels = [row[0] for row in _comparison(config, summary, both)]
    assert labels == ["pass@1, T = 0.2", "pass@1, T = 1", "local AR-ness, T = 0.2", "global AR-ness, T = 0.2"]
