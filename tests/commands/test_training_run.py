"""What surrounds the loop of a run: the best checkpoint, and the checkpoint of a run that a signal ends."""

from types import SimpleNamespace

import pytest

from couplet.commands.display import Display
from couplet.commands.training_run import _comparison, _ray_ended, _Run, run_training
from couplet.configs.load import from_dict
from couplet.configs.schema import ConfigError, RunConfig
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

    yield _Run(config, SimpleNamespace(step=3, save=save, show=lambda metrics: None), folder, Display(), held_out=[])
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


def test_a_finished_run_that_is_resumed_has_nothing_to_do(tmp_path, monkeypatch, capsys):
    config = from_dict(RunConfig, {"runs_dir": str(tmp_path), "steps": 3})
    folder = RunFolder.create(config)
    save_checkpoint(folder.checkpoints, 3, lambda path: (path / "weights").write_text("w"), {"step": 3})
    folder.write_json("summary.json", {"steps": 3, "seed": 0})
    folder.close()
    monkeypatch.setattr("couplet.commands.training_run.check_inputs", lambda config, local: None)
    assert run_training(config, resume=True) == {"steps": 3, "seed": 0}
    assert "has done all of its 3 steps: nothing to do" in capsys.readouterr().out


class Left(Exception):
    """What ends the process in a test."""


@pytest.mark.parametrize("finished, code, text", [(False, 75, "start again with: "), (True, 0, "had ended before")])
def test_a_death_of_ray_itself_is_one_line_with_an_exit_code_of_its_own(run, monkeypatch, capsys, finished, code, text):
    def leave(number):
        raise Left(number)

    monkeypatch.setattr("couplet.commands.cli.os._exit", leave)
    if finished:
        run.folder.write_json("summary.json", {})
    with pytest.raises(Left, match=str(code)):
        _ray_ended(run.folder, "Ray's raylet on this machine ended")
    (line,) = capsys.readouterr().err.splitlines()
    assert "Ray's raylet on this machine ended" in line and text in line


def test_a_death_of_ray_itself_names_the_resume_command(run, monkeypatch, capsys):
    monkeypatch.setattr("couplet.commands.cli.os._exit", lambda number: None)
    monkeypatch.setattr("sys.argv", ["launch.py", "train", "recipe.yaml"])
    save_checkpoint(run.folder.checkpoints, 3, lambda path: (path / "weights").write_text("w"), {"step": 3})
    _ray_ended(run.folder, "Ray's GCS at 10.0.0.1:6379 ended or cannot be reached")
    assert capsys.readouterr().err.rstrip().endswith("launch.py train recipe.yaml --resume")


def test_a_store_too_small_for_ray_is_one_line():
    with pytest.raises(ConfigError, match=r"ray\.object_store_mb = 10") as error:
        from_dict(RunConfig, {"ray": {"object_store_mb": 10}})
    assert len(str(error.value).splitlines()) == 1
