"""What `--resume` refuses: another run's folder, a config that makes it another run, a folder somebody writes into."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from couplet.configs.load import from_dict, load
from couplet.configs.schema import AdaptConfig, ConfigError, RunConfig
from couplet.training.run_folder import RunFolder
from tests.actors.runs import run_config

ROOT = Path(__file__).parent.parent.parent


def checkpoint(folder, step=1):
    """A folder that could be resumed, of a run that has ended."""
    (folder.checkpoints / f"step-{step:08d}").mkdir(parents=True)
    folder.close()
    return folder.root


@pytest.fixture
def made(tmp_path):
    """`made(name, **changes)` is the configuration of a run below this test's folder."""
    return lambda name, **changes: run_config("/policy", name, runs_dir=str(tmp_path), **changes)


def resumed(config):
    folder = RunFolder.reopen(config)
    folder.close()
    return folder.root


def test_a_run_named_like_the_second_folder_of_another_is_not_resumed_for_it(made):
    first = checkpoint(RunFolder.create(made("exp")))
    other = checkpoint(RunFolder.create(made("exp-2")), 9)
    assert (first.name, other.name) == ("exp", "exp-2")
    assert resumed(made("exp")) == first and resumed(made("exp-2")) == other
    third = checkpoint(RunFolder.create(made("exp")))
    assert third.name == "exp-3" and resumed(made("exp")) == third


def test_a_folder_without_a_config_belongs_to_nobody(made):
    root = checkpoint(RunFolder.create(made("exp")))
    (root / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="no checkpoint of a run named 'exp'"):
        RunFolder.reopen(made("exp"))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"seed": 7}, "seed = 7, but the run in .* has 0"),
        (
            {"problems": {"train": "katas:tune"}},
            "problems.train = 'katas:tune', but the run in .* has 'katas:rl-lists'",
        ),
        ({"problems": {"limit": 5}}, "problems.limit = 5, but the run in .* has 24"),
        ({"problems": {"seed": 1}}, "problems.seed = 1, but the run in .* has 0"),
        ({"problems": {"max_prompt_tokens": 64}}, "problems.max_prompt_tokens = 64, but the run in .* has 200"),
        ({"model": {"path": "/other"}}, "model.path = '/other', but the run in .* has '/policy'"),
        ({"model": {"path": "/policy", "mask_token": "<m>"}}, "model.mask_token = '<m>', but the run in .* has None"),
        ({"learner": {"adapter": {"rank": 4}}}, "learner.adapter.rank = 4, but the run in .* has 0"),
        ({"learner": {"adapter": {"alpha": 4.0}}}, "learner.adapter.alpha = 4.0, but the run in .* has 32.0"),
        (
            {"learner": {"adapter": {"targets": ["q_proj"]}}},
            r"learner.adapter.targets = \['q_proj'\], but the run in .*",
        ),
        ({"model": {"path": "/policy", "recipe": "a.yaml"}}, "model.recipe = 'a.yaml', but the run in .* has None"),
    ],
)
def test_what_would_make_it_another_run_is_refused_by_name(made, change, said):
    root = checkpoint(RunFolder.create(made("exp")))
    before = (root / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=rf"^--resume: {said}: set it back, or start another run without --resume$"):
        RunFolder.reopen(made("exp", **change))
    assert (root / "config.yaml").read_text() == before


def test_what_may_change_is_taken_over(made):
    root = checkpoint(RunFolder.create(made("exp")))
    config = made(
        "exp", steps=500, rollout={"actors": 3}, optimizer={"lr": 1e-5}, evaluation={"limit": 9},
        objective={"advantage": "group_mean"}, estimator={"name": "full_mask"}, model={"path": "/policy", "attention": "eager"},
    )  # fmt: skip
    assert resumed(config) == root and load(RunConfig, root / "config.yaml") == config


def test_an_adaptation_resumes_from_its_own_start(tmp_path):
    def config(**changes):
        return from_dict(AdaptConfig, {"name": "toy", "runs_dir": str(tmp_path), **changes})

    root = checkpoint(RunFolder.create(config(shape={"hidden": 64})))
    for changes, said in (
        ({"shape": {"hidden": 32}}, "shape.hidden = 32, but the run in .* has 64"),
        ({"shape": {"hidden": 64}, "start": "/a"}, "start = '/a', but the run in .* has None"),
        ({"shape": {"hidden": 64}, "seed": 1}, "seed = 1, but"),
    ):
        with pytest.raises(ConfigError, match=f"--resume: {said}"):
            RunFolder.reopen(config(**changes))
    longer = config(shape={"hidden": 64}, stages=[{"name": "instruct", "steps": 7}])
    assert resumed(longer) == root


HOLDER = """
import sys, time
from couplet.training.run_folder import RunFolder
from couplet.configs.load import load
from couplet.configs.schema import RunConfig
folder = getattr(RunFolder, sys.argv[1])(load(RunConfig, sys.argv[2]))
print(folder.root, flush=True)
sys.stdin.read()
folder.close()
print("closed", flush=True)
sys.stdin.close()
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """`holder(verb, config)` is another process that has the folder of a run open until its input ends."""
    running = []

    def start(verb, config):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(json.dumps(config))
        command = [sys.executable, "-c", HOLDER, verb, str(recipe)]
        running.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert running[-1].stdout.readline().startswith(str(tmp_path))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_folder_in_use_is_refused_until_its_writer_has_closed_it_or_is_dead(made, tmp_path, holder):
    config = made("exp")
    root = checkpoint(RunFolder.create(config))
    tree = {"name": "exp", "runs_dir": str(tmp_path), "model": {"path": "/policy"}}
    tree["problems"] = {"train": "katas:rl-lists", "evaluate": "katas:heldout-lists", "limit": 24}
    for end in ("close", "kill"):
        process = holder("reopen", tree)
        before = (root / "config.yaml").read_text()
        with pytest.raises(
            ConfigError, match=rf"run folder {root}: process {process.pid} on .* is writing to it; wait"
        ):
            RunFolder.reopen(config)
        assert (root / "config.yaml").read_text() == before
        if end == "close":
            process.stdin.close()
            assert process.stdout.readline() == "closed\n"  # it lives on
        else:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert resumed(config) == root


def test_a_new_folder_is_held_from_its_first_moment(made, tmp_path, holder):
    tree = {"name": "fresh", "runs_dir": str(tmp_path), "model": {"path": "/policy"}}
    tree["problems"] = {"train": "katas:rl-lists", "evaluate": "katas:heldout-lists", "limit": 24}
    holder("create", tree)
    (tmp_path / "fresh" / "checkpoints" / "step-00000001").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is writing to it"):
        RunFolder.reopen(made("fresh"))
    other = RunFolder.create(made("fresh"))
    assert other.root.name == "fresh-2"
    other.close()
