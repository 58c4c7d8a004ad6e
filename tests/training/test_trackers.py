"""Metrics also go to the tracker a run names; a missing package is one clear error."""

import json
import math
import sys
import types

import pytest

from couplet.configs.schema import ConfigError
from couplet.training.evaluation_log import EvaluationLog
from couplet.training.run_folder import RunFolder
from couplet.training.trackers import open_tracker


def test_none_tracks_nothing(tmp_path):
    assert open_tracker("none", tmp_path, {}) is None


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_names_the_extra(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"tracker = '{name}': needs the package .*\[trackers\]"):
        open_tracker(name, tmp_path, {})


def test_wandb_receives_each_step_and_is_closed_with_the_folder(tmp_path, monkeypatch):
    seen = []
    run = types.SimpleNamespace(
        log=lambda metrics, step: seen.append((step, metrics)), finish=lambda: seen.append("finished")
    )
    fake = types.SimpleNamespace(init=lambda **settings: seen.append(settings["name"]) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    folder = RunFolder(tmp_path / "quick")
    folder.root.mkdir()
    folder.tracker = open_tracker("wandb", folder.root, {"seed": 1})
    folder.log_metrics(3, {"reward_mean": 0.5, "loss": math.nan})
    folder.close()
    assert seen == ["quick", (3, {"reward/reward_mean": 0.5}), "finished"]


def test_mlflow_receives_each_step_and_is_closed(tmp_path, monkeypatch):
    seen = []
    fake = types.SimpleNamespace(
        set_experiment=lambda name: seen.append(name),
        start_run=lambda run_name: seen.append(run_name),
        log_dict=lambda tree, file: seen.append((tree, file)),
        log_metrics=lambda metrics, step: seen.append((step, metrics)),
        end_run=lambda: seen.append("ended"),
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    tracker = open_tracker("mlflow", tmp_path / "slow", {"seed": 1})
    tracker.log(1, {"loss": 2.0})
    tracker.close()
    assert seen == ["couplet", "slow", ({"seed": 1}, "config.json"), (1, {"loss": 2.0}), "ended"]


class Service:
    """A stand-in for wandb: gives runs ids, or refuses as a missing login does."""

    def __init__(self, refuses=False):
        self.refuses, self.asked = refuses, []

    def init(self, **settings):
        if self.refuses:
            raise type("UsageError", (Exception,), {"__module__": "wandb.errors"})(
                "api_key not configured\nmore advice"
            )
        self.asked.append(settings)
        return types.SimpleNamespace(id="abc", log=lambda metrics, step: None, finish=lambda: None)


def test_a_resumed_run_continues_the_same_run_of_wandb(tmp_path, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    for _ in range(2):
        open_tracker("wandb", tmp_path, {}).close()
    first, second = service.asked
    assert "id" not in first and (second["id"], second["resume"]) == ("abc", "allow")


def test_the_project_of_wandb_comes_from_the_environment(tmp_path, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    open_tracker("wandb", tmp_path / "one", {})
    monkeypatch.setenv("WANDB_PROJECT", "thesis")
    open_tracker("wandb", tmp_path / "two", {})
    assert [settings["project"] for settings in service.asked] == ["couplet", "thesis"]


def test_a_missing_login_is_one_line_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", Service(refuses=True))
    with pytest.raises(ConfigError, match=r"^tracker = 'wandb': api_key not configured; run `wandb login`.*offline$"):
        open_tracker("wandb", tmp_path, {})


def test_evaluations_reach_the_tracker_and_the_file_at_their_step(tmp_path, monkeypatch):
    seen = []
    run = types.SimpleNamespace(log=lambda metrics, step: seen.append((step, metrics)), finish=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **settings: run))
    folder = RunFolder(tmp_path / "quick")
    folder.root.mkdir()
    folder.tracker = open_tracker("wandb", folder.root, {})
    folder.log_metrics(4, {"loss": 1.0})
    EvaluationLog(folder).add("step-000004", 4, {"pass_at_1": 0.5, "ar_ness": {"0.2": {"local": 0.75, "global": 1.0}}})
    folder.close()
    evaluation = {"eval/pass_at_1": 0.5, "eval/local_ar_ness_t0_2": 0.75, "eval/global_ar_ness_t0_2": 1.0}
    assert seen == [(4, {"learning/loss": 1.0}), (4, evaluation)]
    lines = [json.loads(line) for line in (folder.root / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 4] and lines[1]["eval/pass_at_1"] == 0.5
    assert [row["loss"] for row in folder.metrics()] == [1.0]
