"""Values that no run can have, and the error for a missing optional package."""

import sys
import tomllib
from pathlib import Path

import pytest

from couplet.commands import main
from couplet.configs.load import from_dict
from couplet.configs.schema import AdaptConfig, ConfigError, RunConfig
from couplet.data.sources import SourceError, read_hub

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "section, name, value, remedy",
    [
        ("problems", "limit", -1, r"must be at least 1 \(.*; null = all problems\)"),
        ("evaluation", "limit", 0, r"must be at least 1 \(.*; null = all problems\)"),
        ("learner", "cpus", -1.0, "must be at least 0"),
        ("learner", "gpus", -0.5, "must be at least 0"),
        ("rollout", "cpus", -1.0, "must be at least 0"),
        ("rollout", "gpus", -1.0, "must be at least 0"),
        ("reward", "cpus", -1.0, "must be at least 0"),
        ("ray", "call_timeout", 0.0, "must be greater than 0"),
    ],
)
def test_a_value_below_its_range_is_refused(section, name, value, remedy):
    with pytest.raises(ConfigError, match=f"{section}.{name} = {value}: {remedy}"):
        from_dict(RunConfig, {section: {name: value}})


@pytest.mark.parametrize("kind", [RunConfig, AdaptConfig])
def test_a_name_is_that_of_a_folder(kind):
    for name in ("exp", "exp-2", "tiny-adapt-0f3a.part", "größe_1"):
        assert from_dict(kind, {"name": name}).name == name
    for name in ("", ".", "..", "latest", "a/b", "../a", "a b", "a\n", "*"):
        with pytest.raises(ConfigError, match=r"^name = .*: must be made of letters, digits"):
            from_dict(kind, {"name": name})


def test_a_recipe_with_three_mistakes_is_refused_with_a_line_for_each(tmp_path, capsys):
    (tmp_path / "my.yaml").write_text(
        "{base: tiny.yaml, sampler: {temprature: 1.2}, steps: many, learner: {engine: torch, zero_stage: 2}}"
    )
    assert main(["train", str(tmp_path / "my.yaml"), "--dry-run"]) == 2
    printed, errors = capsys.readouterr()
    assert printed == "" and errors.splitlines() == [
        "error: steps = 'many': expected a whole number (learner steps)",
        "error: unknown key 'sampler.temprature': did you mean 'sampler.temperature'?",
        "error: learner.zero_stage = 2: needs engine: deepspeed; the torch engine keeps everything on every rank",
    ]


def test_a_missing_package_is_named_by_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SourceError, match=r"hub:owner/name: .*pip install -c constraints.txt -e '\.\[hub\]'"):
        next(read_hub("owner/name"))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras["hub"]) <= set(extras["dev"]) and extras["hub"][0].startswith("datasets")
