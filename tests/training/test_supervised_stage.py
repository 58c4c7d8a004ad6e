"""A stage frames its examples with the tokens of its start, whatever their names, and trains its adapter alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from couplet.configs.schema import AdaptConfig, LearnerConfig, StageConfig
from couplet.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from couplet.model.adapters import is_adapter
from couplet.training.supervised_stage import StageRunner
from tests.model.test_families import transformers_folder

NAMES = {"<|im_end|>": "<|eot_id|>", "<|endoftext|>": "<|end_of_text|>", "<|dlm_pad|>": "<|reserved_1|>"}
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|eot_id|>{% endfor %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random Llama folder whose tokenizer has Llama 3's names."""
    train_tokenizer(["def f(x): return x"] * 3, 130).save(tmp_path / "words")
    text = (tmp_path / "words" / "tokenizer.json").read_text()
    for name, other in NAMES.items():
        text = text.replace(name, other)
    ids = {entry["content"]: entry["id"] for entry in json.loads(text)["added_tokens"]}
    special = {"eos_token_id": [ids["<|end_of_text|>"], ids["<|eot_id|>"]], "pad_token_id": ids["<|reserved_1|>"]}
    transformers_folder(tmp_path / "m", "llama", True, vocab_size=160, **special, mask_token_id=None)
    (tmp_path / "m" / "tokenizer.json").write_text(text)
    settings = {"eos_token": "<|end_of_text|>", "chat_template": TEMPLATE}
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path / "m"


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    rows = [{"text": f"def f(x): return {i}", "prompt": "f", "answer": f"return {i}"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def runner(folder: Path, corpus: str, stage: dict, learner: dict | None = None) -> StageRunner:
    fields = {"corpus": corpus, "steps": 2, "batch": 2, "length": 48, "canvas": 24} | stage
    config = AdaptConfig(
        start=str(folder), stages=(StageConfig(**fields),), learner=LearnerConfig(engine="torch", **(learner or {}))
    )
    return StageRunner(config, 0, str(folder))


def test_an_answer_ends_with_the_policys_end_token(folder: Path, corpus: str) -> None:
    stage = runner(folder, corpus, {"objective": "instruct"})
    words: Tokenizer = load_tokenizer(folder)
    row = next(iter(stage.corpus)).tokens_BL[0].tolist()
    assert row[0] == words.id("<|reserved_1|>")
    answer = row[24:]
    end = answer.index(words.id("<|eot_id|>"))
    filler = stage.policy.token_ids.filler
    assert set(answer[end + 1 :]) == {filler}
    assert stage.advance(2)[1] == 2


def test_a_document_ends_with_the_policys_eos(folder: Path, corpus: str) -> None:
    stage = runner(folder, corpus, {"objective": "pretrain"})
    words = load_tokenizer(folder)
    assert words.id("<|end_of_text|>") in next(iter(stage.corpus)).tokens_BL
    named = runner(folder, corpus, {"objective": "pretrain", "end_token": "<|eot_id|>"})
    tokens = next(iter(named.corpus)).tokens_BL
    assert words.id("<|eot_id|>") in tokens and words.id("<|end_of_text|>") not in tokens


def test_an_unknown_token_is_an_error(folder: Path, corpus: str) -> None:
    with pytest.raises(ValueError, match="no token '<none>'"):
        runner(folder, corpus, {"objective": "instruct", "filler_token": "<none>"})


def test_a_stage_with_an_adapter_leaves_the_base_alone(folder: Path, corpus: str) -> None:
    stage = runner(folder, corpus, {"objective": "instruct"}, {"adapter": {"rank": 2}})
    before = {name: p.detach().clone() for name, p in stage.policy.named_parameters()}
    stage.advance(2)
    changed = {name for name, p in stage.policy.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all(is_adapter(name) for name in changed)


def test_the_baseline_of_the_validation_is_in_the_first_row(folder: Path, corpus: str) -> None:
    validated = {"objective": "pretrain", "validate_every": 2, "validation_share": 0.5, "steps": 4}
    stage = runner(folder, corpus, validated)
    expected = runner(folder, corpus, validated)
    rows = [*stage.advance(1)[0], *stage.advance(3)[0]]
    assert rows[0][1]["validation_loss_start"] == expected.learner.validate(expected.validation)
    assert [("validation_loss_start" in row, "validation_loss" in row) for _, row in rows] == [
        (True, False),
        (False, True),
        (False, True),
    ]


def test_a_padded_vocabulary_changes_no_other_logit(folder: Path, corpus: str) -> None:
    policy = runner(folder, corpus, {"objective": "pretrain"}).policy.eval()
    tokens = torch.arange(4, 14)[None]
    before, rows = policy.logits(tokens), policy.config.vocab_size
    policy.pad_vocabulary(64)
    assert policy.config.vocab_size == 192 == policy.lm_head.weight.shape[0] and rows < 192
    assert torch.equal(policy.logits(tokens)[..., :rows], before)
    policy.pad_vocabulary(64)
    assert policy.config.vocab_size == 192
