"""`score` on a full disk, and in a folder that cannot be written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from couplet.configs.schema import ConfigError
from couplet.evaluation import score_file as module

PROBLEM = {"task_id": 1, "text": "Add one.", "code": "def f(x):\n    return x + 1", "test_list": ["assert f(1) == 2"]}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "problems.jsonl").write_text(json.dumps(PROBLEM | {"test_setup_code": ""}) + "\n")
    (tmp_path / "samples.jsonl").write_text(json.dumps({"task_id": 1, "completion": "def f(x): return x + 1"}) + "\n")
    return tmp_path / "problems.jsonl", tmp_path / "samples.jsonl"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full_is_named(files, tmp_path):
    out = tmp_path / "verdicts.jsonl"
    (tmp_path / ".verdicts.jsonl.part").symlink_to("/dev/full")  # where the verdicts are written first
    with pytest.raises(ConfigError, match=rf"cannot write {re.escape(str(out))}: No space left on device; free some"):
        module.score_file(*files, out)


def test_a_place_that_cannot_be_is_found_before_anything_is_judged(files, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RewardWorker", None)
    with pytest.raises(ConfigError, match=r"cannot write .*verdicts.jsonl: .*name another --out"):
        module.score_file(*files, files[0] / "verdicts.jsonl")
