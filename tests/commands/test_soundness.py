"""A run does not learn from problems whose tests check nothing, names them, and leaves out the same ones when resumed."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from couplet.commands.display import Display
from couplet.commands.soundness import RECORD, without_unsound
from couplet.configs.load import from_dict
from couplet.configs.schema import RunConfig
from couplet.training.run_folder import RunFolder

ROWS = [
    {
        "task_id": 1,
        "text": "Return the next number.",
        "code": "def f(x): return x + 1",
        "test_list": ["assert f(1) == 2"],
    },
    {"task_id": 2, "text": "Return nothing.", "code": "def g(x): pass", "test_list": ["assert g(1) is None"]},
    {"task_id": 3, "text": "Double it.", "code": "def h(x): return 2 * x", "test_list": ["assert h(2) == 4"]},
]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "mbpp.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return from_dict(RunConfig, {"problems": {"train": str(path)}, "runs_dir": str(tmp_path / "runs")})


def leave_out(config):
    """(the configuration of the run, its folder, what is said)."""
    folder, console = RunFolder.create(config), Console(file=io.StringIO(), width=300)
    try:
        return without_unsound(config, folder, Display(console)), folder, console.file.getvalue()
    finally:
        folder.close()


def test_a_problem_that_a_stub_passes_is_left_out_and_named(config):
    checked, folder, said = leave_out(config)
    (name,) = checked.problems.exclude
    assert name.endswith("2") and "1 training problems left out" in said and name in said
    assert list(json.loads((folder.root / RECORD).read_text())) == [name]


def test_a_run_checks_a_bounded_number_of_problems_and_says_how_many(config, monkeypatch):
    monkeypatch.setattr("couplet.commands.soundness.MOST_CHECKED", 1)
    checked, _, said = leave_out(config)
    assert checked.problems.exclude == () and "checking the tests of 1 of 3 training problems" in said


def test_a_resumed_run_leaves_out_the_same_without_checking_again(config, monkeypatch):
    _, folder, _ = leave_out(config)
    monkeypatch.setattr("couplet.commands.soundness.find_unsound", None)
    again = without_unsound(config, folder, Display(Console(file=io.StringIO())))
    assert len(again.problems.exclude) == 1


def test_a_resumed_run_without_a_record_leaves_nothing_out(config, monkeypatch):
    monkeypatch.setattr("couplet.commands.soundness.find_unsound", None)
    folder = RunFolder.create(config)
    (folder.checkpoints / "step-00000001").mkdir(parents=True)
    assert without_unsound(config, folder, Display(Console(file=io.StringIO()))) == config
    folder.close()


def test_they_are_kept_if_asked_and_generated_problems_are_not_checked(config, monkeypatch):
    monkeypatch.setattr("couplet.commands.soundness.find_unsound", None)
    kept = config.replace(problems=config.problems.replace(keep_unsound=True))
    assert leave_out(kept)[0].problems.exclude == ()
    assert leave_out(config.replace(problems=config.problems.replace(train="katas:rl")))[0].problems.exclude == ()


def test_excluded_problems_are_not_among_the_prompts(config, run_folder):
    from couplet.training.factory import load_prompts

    problems = config.problems.replace(max_prompt_tokens=1000)
    every = load_prompts(str(run_folder / "policy"), problems.train, problems, config.model)
    ids = [problem.problem_id for problem in every.problems]
    fewer = load_prompts(str(run_folder / "policy"), problems.train, problems, config.model, exclude=ids[:1])
    assert [problem.problem_id for problem in fewer.problems] == ids[1:] and len(ids) == 3
