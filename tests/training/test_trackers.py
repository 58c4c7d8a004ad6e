"""Metrics also go to the tracker a run names; a missing package is one clear error."""

import math
import sys
import types

import pytest

from couplet.configs.schema import ConfigError
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
    assert seen == ["quick", (3, {"reward_mean": 0.5}), "finished"]


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
