"""A small folder in each family's published layout goes through dry run, sample, one learner step and export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from couplet.data.metric_table import is_learner_step
from couplet.data.tokenizer import CHAT_END, CHAT_START, FILLER, MASK, PAD, load_tokenizer, tiny_tokenizer
from tests.model.originals import write_original
from tests.model.test_families import transformers_folder

LLADA = {MASK: "<|mdm_mask|>", CHAT_END: "<|eot_id|>", CHAT_START: "<|start_header_id|>", FILLER: "<|reserved|>"}
NAMES = {"Dream": {}, "qwen2": {MASK: "<M>"}, "llama": {CHAT_END: "<|eot_id|>"}, "llada": LLADA}


def write_folder(folder: Path, family: str, **fields: object) -> None:
    """Weights and configuration as the authors publish them, and a small tokenizer with the family's special tokens."""
    words = tiny_tokenizer()
    ids = {"mask_token_id": words.id(MASK)} | {f"{role}_token_id": words.id(PAD) for role in ("pad", "eos")}
    if family in ("Dream", "llada"):
        longest = {"Dream": "max_position_embeddings", "llada": "max_sequence_length"}[family]
        write_original(folder, family, len(words), **ids, **{longest: 128})
    else:
        transformers_folder(
            folder, family, True, vocab_size=len(words), **ids | {"bos_token_id": words.id(PAD)} | fields
        )
    words.save(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        text = (folder / name).read_text(encoding="utf-8") if (folder / name).is_file() else None
        for ours, theirs in NAMES[family].items():
            text = text and text.replace(ours, theirs)
        if text is not None:
            (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("family", NAMES)
def test_a_folder_of_every_family_goes_through_every_command(tmp_path, command, family) -> None:
    folder, recipe = tmp_path / "original", tmp_path / "run.yaml"
    write_folder(folder, family)
    tree = {
        "name": family,
        "runs_dir": str(tmp_path),
        "steps": 1,
        "model": {"path": str(folder)},
        "problems": {"train": "katas:rl-lists", "evaluate": "katas:heldout-lists", "limit": 4, "max_prompt_tokens": 60},
        "sampler": {"steps": 4, "completion_length": 16},
        "replay": {"groups_per_step": 2, "completions": 2, "max_staleness": 0},
        "objective": {"zero_signal": "keep"},
        "learner": {"adapter": {"rank": 2}},
        "optimizer": {"lr": 1e-2},
        "sandbox": {"memory_mb": 256},
        "evaluation": {"limit": 1, "samples": 1, "ar_ness_problems": 1, "ar_ness_temperatures": [0.2]},
    }
    recipe.write_text(json.dumps(tree))
    for words in (
        ("train", recipe, "--dry-run", "--local"),
        ("sample", folder, "--once", "Write f.", "--steps", 4, "--length", 8),
        ("train", recipe, "--local"),
        ("export", tmp_path / family, tmp_path / "out"),
    ):
        code, printed, error = command(*words)
        assert code == 0 and printed, (words[0], error)
    rows = [json.loads(line) for line in (tmp_path / family / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if is_learner_step(row)] == [1]
    original, written = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "out"))
    assert {name: tensor.shape for name, tensor in written.items()} == {n: t.shape for n, t in original.items()}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == family
    assert load_tokenizer(tmp_path / "out").special == load_tokenizer(folder).special
