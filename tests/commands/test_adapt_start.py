"""`adapt` from an autoregressive Qwen2 folder: tokenizer and embeddings gain the same tokens, in Dream's order."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from couplet.commands.adapt import run_adaptation
from couplet.commands.display import Display
from couplet.configs.load import from_dict
from couplet.configs.schema import AdaptConfig
from couplet.data.tokenizer import BEGIN, CHAT_END, CHAT_START, CHAT_TEMPLATE, FILLER, MASK, PAD, load_tokenizer
from couplet.model.policy import DiffusionPolicy


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory):
    """A Qwen2 model of random weights with a byte-level tokenizer that knows nothing of diffusion."""
    folder = tmp_path_factory.mktemp("qwen2")
    core = Backend(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[PAD, CHAT_START, CHAT_END],
        show_progress=False,
    )
    core.train_from_iterator(["def f(xs):\n    return sum(xs)\n"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=PAD, pad_token=PAD, chat_template=CHAT_TEMPLATE
    )
    tokenizer.save_pretrained(str(folder))
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=0,
        bos_token_id=0,
        tie_word_embeddings=True,
    )
    state = torch.get_rng_state()
    model = Qwen2ForCausalLM(config)
    torch.set_rng_state(state)
    model.save_pretrained(folder)
    return folder, len(tokenizer), model


def test_stages_run_from_a_qwen2_folder(qwen2, tmp_path):
    folder, size, model = qwen2
    shape = {"steps": 1, "batch": 2, "corpus": "katas:tune"}
    stages = [
        {"name": "adapt", "objective": "pretrain", "length": 32, **shape},
        {"name": "instruct", "objective": "instruct", "length": 256, "canvas": 128, "system": "Be brief.", **shape},
    ]
    tree = {"start": str(folder), "runs_dir": str(tmp_path), "learner": {"engine": "torch"}, "stages": stages}
    policy_folder = run_adaptation(from_dict(AdaptConfig, tree), Display())
    start = DiffusionPolicy.from_pretrained(tmp_path / "adapt" / "start")
    tokenizer = load_tokenizer(policy_folder)
    assert [tokenizer.id(name) for name in (BEGIN, MASK, FILLER)] == [size, size + 1, size + 2]
    for policy in (start, DiffusionPolicy.from_pretrained(policy_folder)):
        assert policy.token_ids.mask == tokenizer.id(MASK) and policy.token_ids.filler == tokenizer.id(FILLER)
        assert policy.token_ids.end == (tokenizer.id(CHAT_END),) and policy.config.vocab_size == size + 3
    old, new = model.model.embed_tokens.weight, start.model.embed_tokens.weight
    assert torch.equal(new[:size], old)
    torch.testing.assert_close(new[size + 1], old.mean(0))
    assert torch.equal(new[size + 2], old[0])  # the filler starts as the end of text
