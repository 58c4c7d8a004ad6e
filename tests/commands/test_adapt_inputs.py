"""`adapt` looks at its inputs before it makes a folder, and leaves policies that know how to decode."""

from __future__ import annotations

import json
import shutil

import pytest

from couplet.configs.schema import SamplerConfig
from couplet.model.tokens import resolve_token_ids
from couplet.training.policy_settings import config_for

STAGE = {"steps": 1, "batch": 2, "length": 64, "canvas": 24, "corpus": "katas:tune"}
SHAPE = {"hidden": 8, "layers": 1, "heads": 1, "kv_heads": 1, "ffn": 8}


@pytest.fixture
def recipe(tmp_path):
    stages = [
        {"name": "answers", "objective": "instruct", **STAGE},
        {"name": "more", "objective": "pretrain", **STAGE},
    ]
    path = tmp_path / "adapt.yaml"  # YAML reads JSON
    tree = {"runs_dir": str(tmp_path / "runs"), "learner": {"engine": "torch"}, "shape": SHAPE, "stages": stages}
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.1.corpus={tmp}/nowhere.jsonl", "nowhere.jsonl: no such file or folder"),
        ("stages.1.corpus=katas:tune+{tmp}/nowhere.jsonl", "nowhere.jsonl: no such file or folder"),
        ("stages.0.answer_column=reply", "no column 'reply'"),
        ("stages.0.corpus={tmp}/empty.jsonl", "empty.jsonl"),
        ("start={tmp}/nowhere", "no such model folder"),
        ("tokenizer={tmp}/nowhere", "no tokenizer here"),
        ("stages.0.canvas=60", "no example fits"),
        ("stages.0.end_token=<none>", "no token '<none>'"),
        ("stages.1.validate_every=1 stages.1.batch=999", "does not fill one batch of 999"),
    ],
)
def test_a_mistake_leaves_no_folder_and_latest_where_it_was(recipe, tmp_path, command, override, message):
    (tmp_path / "empty.jsonl").write_text("")
    runs = tmp_path / "runs"
    (runs / "before").mkdir(parents=True)
    (runs / "latest").symlink_to("before")
    code, _, error = command("adapt", recipe, *override.format(tmp=tmp_path).split())
    assert code == 2 and message in error and error.count("\n") == 1, error
    assert {path.name for path in runs.iterdir()} == {"before", "latest"}
    assert (runs / "latest").readlink().name == "before"


def test_a_copied_policy_decodes_as_its_recipe_says(recipe, tmp_path, command):
    code, _, error = command("adapt", recipe)
    assert code == 0, error
    run = tmp_path / "runs" / "adapt"
    kept = [run / name / "model.safetensors" for name in ("stages/1-more", "policy")]
    assert (
        kept[0].samefile(kept[1]) and kept[0].stat().st_nlink == 3
    )  # with the newest checkpoint: one copy of the weights
    for number, name in enumerate(("stages/0-answers", "stages/1-more", "policy")):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(run / name, copy)
        assert config_for(copy, None).sampler == SamplerConfig(completion_length=24, steps=24)
        fields = json.loads((copy / "generation_config.json").read_text())
        assert fields["mask_token_id"] == json.loads((copy / "config.json").read_text())["mask_token_id"]
    assert config_for(run / "policy", None).sampler.steps == 24  # and where it lies


def test_a_folder_without_a_mask_token_is_sent_to_a_command():
    with pytest.raises(ValueError, match=r"model has no mask token.*`python launch\.py adapt RECIPE`") as found:
        resolve_token_ids({"vocab_size": 9, "eos_token_id": 0}, {}, (), "model")
    assert "add_tokens" not in str(found.value)
