"""Which checkpoint is the best, and that it is kept; what a resumed run keeps of evaluations."""

import json

import pytest

from couplet.learner.checkpoint import latest_checkpoint, save_checkpoint
from couplet.training.evaluation_log import EvaluationLog
from couplet.training.run_folder import RunFolder
from tests.actors.runs import run_config


@pytest.fixture
def folder(tmp_path):
    opened = RunFolder.create(run_config("/policy", "run", runs_dir=str(tmp_path / "runs")))
    yield opened
    opened.close()


def result(value):
    return {"pass_at_1": value, "ar_ness": {}}


def checkpoint(folder, step):
    return save_checkpoint(folder.checkpoints, step, lambda path: (path / "weights").write_text("w"), {"step": step}, 1)


def test_the_best_is_the_first_with_the_largest_value_and_never_the_start(folder):
    log = EvaluationLog(folder, "pass_at_1")
    best = []
    for step, value in ((0, 0.9), (2, 0.25), (4, 0.5), (6, 0.5), (8, 0.125)):
        log.add(f"step-{step:06d}", step, result(value))
        best += [step] if log.is_best(step) else []
    assert best == [2, 4]


def test_without_a_metric_nothing_is_the_best(folder):
    log = EvaluationLog(folder)
    log.add("after", 3, result(1.0))
    assert not log.is_best(3)


def test_the_best_checkpoint_outlives_newer_ones(folder):
    for step in (2, 4, 6, 8):
        path = checkpoint(folder, step)
        if step == 4:
            folder.link_best(path)
    kept = sorted(path.name for path in folder.checkpoints.glob("step-*"))
    assert kept == ["step-00000004", "step-00000008"]
    assert (folder.checkpoints / "best").resolve().name == "step-00000004"
    assert latest_checkpoint(folder.checkpoints)[1]["step"] == 8


def test_a_result_is_found_again_for_its_own_step_only(folder):
    log = EvaluationLog(folder)
    log.add("before", 0, result(0.5))
    assert log.find("before", 0)["pass_at_1"] == 0.5
    assert log.find("before", 3) is None and log.find("after", 0) is None


def test_rewinding_keeps_the_evaluations_up_to_the_step_and_writes_tensorboard_again(folder):
    log = EvaluationLog(folder)
    log.add("before", 0, result(0.25))
    for step in (1, 2, 3):
        folder.log_metrics(step, {"loss": 1.0 / step})
    log.add("step-000002", 2, result(0.5))
    folder.log_metrics(2, {"eval/pass_at_1": 0.75})  # killed before its file was written
    (folder.root / "evaluations" / "step-000002.json").unlink()
    log.add("step-000003", 3, result(1.0))
    folder.close()
    again = RunFolder(folder.root)
    again.rewind(2)
    lines = [json.loads(line) for line in (again.root / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], "loss" in line) for line in lines] == [(0, False), (1, True), (2, True)]
    again.close()
    assert scalars(again.root / "tensorboard") == {"learning/loss": [(1, 1.0), (2, 0.5)], "eval/pass_at_1": [(0, 0.25)]}


def scalars(path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
