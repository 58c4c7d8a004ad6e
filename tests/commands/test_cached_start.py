"""The start of the tiny runs: trained once, by one process at a time, and not from the beginning after a kill."""

from __future__ import annotations

import os
import threading

import pytest

from couplet.commands import adapt, initial_policy
from couplet.commands.display import Display
from couplet.commands.initial_policy import cached_start
from couplet.configs.load import from_dict
from couplet.configs.schema import AdaptConfig
from couplet.data.tokenizer import load_tokenizer

STAGE = {"objective": "instruct", "corpus": "katas:tune", "steps": 3, "batch": 2, "length": 64, "canvas": 32}
SHAPE = {"hidden": 16, "layers": 1, "heads": 2, "kv_heads": 2, "ffn": 24}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("COUPLET_CACHE", str(tmp_path / "cache"))
    tree = {"name": "toy", "shape": SHAPE, "stages": [{"name": "one", **STAGE}], "learner": {"engine": "torch"}}
    return from_dict(AdaptConfig, tree | {"checkpoint": {"every": 1}})


@pytest.fixture
def runs(monkeypatch):
    """How often adaptation was run, and whether it resumed from a checkpoint."""
    found = []
    original = adapt.run_adaptation

    def counted(config, display, *, resume=False):
        found.append(resume)
        return original(config, display, resume=resume)

    monkeypatch.setattr(initial_policy, "run_adaptation", counted)
    return found


def test_two_at_once_train_it_once(recipe, runs):
    folders = []
    threads = [threading.Thread(target=lambda: folders.append(cached_start(recipe, Display()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runs == [False] and folders[0] == folders[1]
    assert (folders[0].parent / "config.yaml").is_file() and len(load_tokenizer(folders[0])) > 400
    assert sorted(name for name in os.listdir(folders[0].parents[1]) if "part" in name) == []


def test_a_killed_preparation_resumes(recipe, runs, monkeypatch):
    original = adapt._show

    def killed(bar, updates, metrics):
        if updates == 2:
            raise KeyboardInterrupt
        original(bar, updates, metrics)

    monkeypatch.setattr(adapt, "_show", killed)
    with pytest.raises(KeyboardInterrupt):
        cached_start(recipe, Display())
    monkeypatch.setattr(adapt, "_show", original)
    assert (cached_start(recipe, Display()) / "config.json").is_file()
    assert runs == [False, True]
