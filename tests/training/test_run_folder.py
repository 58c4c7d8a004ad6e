"""Everything in a run folder appears whole or not at all, and a resumed run writes each step once."""

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from couplet.configs.load import load
from couplet.configs.schema import ConfigError, RunConfig
from couplet.training.run_folder import RunFolder
from tests.actors.runs import run_config
from tests.learner.toys import toy_group


@pytest.fixture
def config(tmp_path):
    return run_config("/policy", "run", runs_dir=str(tmp_path / "runs"))


@pytest.fixture
def folder(config):
    opened = RunFolder.create(config)
    yield opened
    opened.close()


def steps(folder):
    return [row["step"] for row in folder.metrics()]


def mark_checkpoint(folder, step):
    (folder.checkpoints / f"step-{step:08d}").mkdir(parents=True)


def test_a_new_folder_holds_the_resolved_config_and_the_code_version(folder, config):
    assert load(RunConfig, folder.root / "config.yaml") == config
    code = json.loads((folder.root / "run.json").read_text())["code"]
    assert {"commit", "torch", "ray"} <= set(code)


def test_names_are_taken_once(folder, config):
    assert [RunFolder.create(config).root.name for _ in range(2)] == ["run-2", "run-3"]


def test_latest_points_where_a_run_has_begun(folder, config):
    latest = folder.root.parent / "latest"
    assert not latest.exists()
    folder.point_latest()
    second = RunFolder.create(config)
    assert latest.resolve() == folder.root
    second.point_latest()
    assert latest.resolve() == second.root


def test_metrics_come_back_as_they_were_logged_without_what_is_not_finite(folder):
    folder.log_metrics(1, {"loss": 0.5, "pass_rate": float("nan")})
    folder.log_metrics(2, {"loss": float("inf"), "pass_rate": 1.0})
    first, second = ({k: v for k, v in row.items() if k != "time"} for row in folder.metrics())
    assert first == {"step": 1, "loss": 0.5}
    assert second == {"step": 2, "pass_rate": 1.0}


def test_a_torn_last_line_is_left_out_and_a_broken_one_before_it_is_named(folder):
    for step in (1, 2):
        folder.log_metrics(step, {"loss": 0.5})
    path = folder.root / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 3, "lo')
    assert steps(folder) == [1, 2]
    path.write_text('{"step": 3, "lo\n' + whole)
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 1: not JSON"):
        folder.metrics()


def test_rewinding_forgets_what_came_after_the_checkpoint(folder):
    for step in (1, 2, 3, 4):
        folder.log_metrics(step, {"loss": 0.5})
        folder.log_trajectories(step, [toy_group(step, (0.0, 1.0))])
    with (folder.root / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 5, "lo')
    folder.rewind(2)
    assert steps(folder) == [1, 2]
    assert sorted(p.stem for p in (folder.root / "trajectories").iterdir()) == ["step-000001", "step-000002"]
    folder.log_metrics(3, {"loss": 0.25})
    assert steps(folder) == [1, 2, 3]


def test_trajectories_hold_one_row_per_completion(folder):
    folder.log_trajectories(7, [toy_group(0, (0.0, 1.0, None)), toy_group(1, (0.5, 0.5))])
    rows = pq.read_table(folder.root / "trajectories" / "step-000007.parquet").to_pylist()
    assert [(row["step"], row["problem_id"], row["completion"]) for row in rows] == [
        (7, "toy/0", 0), (7, "toy/0", 1), (7, "toy/0", 2), (7, "toy/1", 0), (7, "toy/1", 1)
    ]  # fmt: skip
    assert [row["outcome"] for row in rows] == ["failed", "failed", "infra_error", "failed", "failed"]


def test_too_little_space_is_refused_before_anything_runs(config, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 2**20))
    with pytest.raises(ConfigError, match=r"5 MiB free, a run needs at least 64 MiB; free some or set runs_dir"):
        RunFolder.create(config)


@pytest.mark.parametrize("write", ["log_metrics", "log_trajectories", "write_json"])
def test_a_disk_that_fills_up_gives_one_clear_error(folder, monkeypatch, write):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(pq, "write_table", full)
    arguments = {
        "log_metrics": (1, {}),
        "log_trajectories": (1, [toy_group(0, (0.0, 1.0))]),
        "write_json": ("a.json", {}),
    }
    with pytest.raises(ConfigError, match=r"cannot write .*: No space left on device; free some space and resume"):
        getattr(folder, write)(*arguments[write])


def test_a_write_that_fails_leaves_the_old_file_whole(folder, monkeypatch):
    folder.write_json("a.json", {"old": 1})
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    with pytest.raises(ConfigError, match="I/O error; check the run folder"):
        folder.write_json("a.json", {"new": 2})
    assert folder.read_json("a.json") == {"old": 1}


def test_resume_takes_the_newest_folder_that_holds_a_checkpoint(config):
    first, second, third = (RunFolder.create(config) for _ in range(3))
    with pytest.raises(ConfigError, match="--resume: no checkpoint of a run named 'run' under"):
        RunFolder.reopen(config)
    mark_checkpoint(first, 4)
    mark_checkpoint(second, 2)
    assert RunFolder.reopen(config).root == second.root
    assert third.root.is_dir()


def test_a_resumed_folder_has_the_config_it_continues_with(config):
    mark_checkpoint(RunFolder.create(config), 4)
    longer = config.replace(steps=config.steps + 5)
    assert load(RunConfig, RunFolder.reopen(longer).root / "config.yaml") == longer


def test_a_run_of_a_similar_name_is_not_resumed(tmp_path):
    other = RunFolder.create(run_config("/policy", "run-b", runs_dir=str(tmp_path)))
    mark_checkpoint(other, 1)
    with pytest.raises(ConfigError, match="no checkpoint of a run named 'run'"):
        RunFolder.reopen(run_config("/policy", "run", runs_dir=str(tmp_path)))


def test_a_folder_inside_a_jobs_scratch_space_is_refused(tmp_path, monkeypatch):
    scratch = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    scratch.mkdir(parents=True)
    monkeypatch.chdir(scratch)
    with pytest.raises(ConfigError, match=r"runs_dir = 'runs': .* scratch folder .* absolute"):
        RunFolder.create(run_config("/policy", "run", runs_dir="runs"))
    assert RunFolder.create(run_config("/policy", "run", runs_dir=str(tmp_path / "runs"))).root.is_dir()


def test_run_json_names_every_process_of_a_run_and_adds_up_what_they_lost(config):
    first = RunFolder.create(config)
    first.note_process({"rollout": 2})
    mark_checkpoint(first, 1)
    first.write_json("summary.json", {})
    first.close()
    second = RunFolder.reopen(config)
    total = second.note_process({"rollout": 1, "learner": 1})
    known = second.read_json("run.json")
    second.rewind(0)
    second.close()
    assert [process["pid"] for process in known["processes"]] == [os.getpid()] * 2 and known["code"]
    assert total["restarts"] == {"rollout": 3, "learner": 1} and total["processes"] == 2
    assert total["seconds"] == pytest.approx(sum(process["seconds"] for process in known["processes"]))
    assert not (second.root / "summary.json").exists()  # the run has not ended any more
