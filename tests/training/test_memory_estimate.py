"""The memory that the dry run prints for a learner rank, against the peak of a process that takes two steps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from couplet.configs.load import load
from couplet.configs.schema import RunConfig, ShapeConfig
from couplet.model.cost import ModelSize
from couplet.model.policy import DiffusionPolicy
from couplet.training.cost import learner_memory
from tests.learner.toys import TOKENS

SHAPE = ShapeConfig(hidden=512, layers=8, heads=8, kv_heads=4, ffn=1536)
SETTINGS = {
    "all weights": {},
    "an adapter": {"adapter": {"rank": 8}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_the_estimate_is_within_a_fifth_of_the_peak(name, tmp_path):
    policy = DiffusionPolicy.from_shape(SHAPE, 8192, TOKENS, seed=0)
    policy.save_pretrained(tmp_path / "start")
    tree = {
        "model": {"path": str(tmp_path / "start")},
        "problems": {"max_prompt_tokens": 32},
        "sampler": {"completion_length": 64, "steps": 64},
        "replay": {"groups_per_step": 1, "completions": 4, "max_staleness": 0},
        "objective": {"inner_updates": 1, "ratio": "current"},
        "learner": {"engine": "torch", **SETTINGS[name]},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "tests.training.memory_probe", str(recipe), str(tmp_path / "start")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    peak = json.loads(done.stdout.splitlines()[-1])["saved"] * 1e6
    estimate = sum(learner_memory(load(RunConfig, str(recipe)), ModelSize.of(policy.config)).values())
    assert estimate == pytest.approx(peak, rel=0.2)
