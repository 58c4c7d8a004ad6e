"""Real weights: SmolLM2-135M-Instruct through loading, adaptation, sampling, one learner step and export."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from couplet.configs.schema import (
    AdaptConfig,
    AdapterConfig,
    EstimatorConfig,
    LearnerConfig,
    ObjectiveConfig,
    OptimizerConfig,
    SamplerConfig,
    StageConfig,
)
from couplet.data.seeds import derive_seed
from couplet.data.tokenizer import load_tokenizer
from couplet.data.trajectory import GroupId, RolloutRequest, ScoredGroup
from couplet.data.verdict import Outcome, Verdict
from couplet.learner.engine import Setup
from couplet.learner.engines import build_engine
from couplet.learner.learner import Learner
from couplet.model.policy import DiffusionPolicy
from couplet.rollout.worker import RolloutWorker
from couplet.training.supervised_stage import StageRunner
from tests.model.smollm2 import HOW_TO_GET, gguf_file, write_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(gguf_file() is None, reason=f"needs SmolLM2's weights: {HOW_TO_GET}"),
]
MODULES = ["textwrap", "heapq", "bisect", "shlex", "fnmatch", "glob", "csv", "colorsys", "queue", "sched", "stat"]
STEPS = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("smollm2") / "original"
    write_folder(gguf_file(), target)
    return target


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few modules of the standard library, in pieces small enough that some are held out."""
    target = tmp_path_factory.mktemp("corpus")
    for name in MODULES:
        text = (Path(sysconfig.get_paths()["stdlib"]) / f"{name}.py").read_text()
        for index, part in enumerate(text.split("\n\n\n")):
            (target / f"{name}_{index}.py").write_text(part)
    return target


@pytest.fixture(scope="module")
def adapted(folder: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """The diffusion policy after a few updates, and the metrics of each validation."""
    out = tmp_path_factory.mktemp("adapted")
    stage = StageConfig(
        name="code",
        objective="pretrain",
        corpus=str(corpus),
        steps=STEPS,
        batch=2,
        length=96,
        validate_every=STEPS // 2,
        validation_examples=4,
        validation_share=0.2,
        stratified_t=True,
        optimizer=OptimizerConfig(lr=3e-4, grad_norm=1.0, schedule="constant"),
    )
    config = AdaptConfig(start=str(folder), stages=(stage,), learner=LearnerConfig(engine="torch"))
    runner = StageRunner(config, 0, str(folder))
    rows = [{"validation_loss": runner.learner.validate(runner.validation)}]
    rows += [metrics for _, metrics in runner.advance(STEPS)[0]]
    runner.save(out)
    print("validation loss", [round(row["validation_loss"], 3) for row in rows])
    return out / "policy", rows


@torch.no_grad()
def test_autoregressive_logits_are_those_of_transformers(folder: Path) -> None:
    """Causal attention; and the dequantised model knows a capital."""
    tokenizer = load_tokenizer(folder)
    tokens = torch.tensor([tokenizer.encode("The capital of France is")])
    policy = DiffusionPolicy.from_pretrained(folder, add_tokens=True).eval()
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    length, vocab = tokens.shape[1], model.config.vocab_size
    causal = torch.ones(1, length, length, dtype=torch.bool).tril()
    found = policy.head(policy.model(tokens, None, causal))[..., :vocab]
    expected = model(tokens).logits
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-5)
    print("largest difference", float((found - expected).abs().max()))
    assert tokenizer.decode([int(found[0, -1].argmax())]).strip() == "Paris"


def test_the_tokenizer_survives(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    text = "def f(x):\n    return x[12] + 'é'\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.chat_text("Hello").endswith("<|im_start|>assistant\n")


def test_adaptation_lowers_the_validation_loss(adapted: tuple[Path, list[dict]]) -> None:
    losses = [row["validation_loss"] for row in adapted[1]]
    assert len(losses) == 3 and losses[0] > losses[1] > losses[2]


def test_the_adapted_policy_has_llamas_layout(folder: Path, adapted: tuple[Path, list[dict]]) -> None:
    before, after = (load_file(path / "model.safetensors") for path in (folder, adapted[0]))
    assert set(before) == set(after)
    fields = json.loads((adapted[0] / "config.json").read_text())
    assert fields["model_type"] == "llama" and fields["mask_token_id"] == len(before["model.embed_tokens.weight"])
    ids = DiffusionPolicy.from_pretrained(adapted[0]).token_ids
    special = load_tokenizer(adapted[0]).special
    assert (special["<|mask|>"], special["<|im_end|>"]) == (ids.mask, ids.end[0])


def test_one_learner_step_with_an_adapter(adapted: tuple[Path, list[dict]], tmp_path: Path) -> None:
    """Sample a group, reward its first half, learn, publish, export and read back."""
    sampler = SamplerConfig(completion_length=16, steps=8, temperature=1.0)
    estimator, objective = EstimatorConfig(), ObjectiveConfig(inner_updates=1)
    adapter = AdapterConfig(rank=4)
    tokenizer = load_tokenizer(adapted[0])

    def policy() -> DiffusionPolicy:
        built = DiffusionPolicy.from_pretrained(adapted[0])
        built.add_adapter(adapter, seed=0)
        return built

    worker = RolloutWorker(policy(), tokenizer.decode, sampler, estimator, mask_draws=1)
    request = RolloutRequest(
        group_id=GroupId(0, 0, 0),
        attempt=0,
        problem_id="smollm2/0",
        prompt_tokens=np.array(tokenizer.chat_prompt("Write a function that adds two numbers."), dtype=np.int32),
        seeds_G=tuple(derive_seed(0, "completion", g) for g in range(4)),
        group_seed=1,
    )
    group = worker.generate([request])[0]
    print("samples", group.texts[:2])
    verdicts = tuple(Verdict(Outcome.FAILED, float(g < 2)) for g in range(4))
    config = LearnerConfig(engine="torch", adapter=adapter)
    trained = policy()
    optimizer = OptimizerConfig(lr=1e-3, warmup_ratio=0.0)
    engine = build_engine(Setup(trained, optimizer, config, total_updates=4))
    learner = Learner(engine, trained, objective, estimator)
    metrics = learner.learn([ScoredGroup(group, verdicts)])
    assert np.isfinite(metrics["loss"]) and metrics["grad_norm"] > 0
    manifest, buckets = learner.weights()
    full = sum(p.nbytes for name, p in trained.named_parameters() if "lora" not in name)
    print(f"published {manifest.nbytes} of {full} bytes, loss {metrics['loss']:.4f}, norm {metrics['grad_norm']:.4f}")
    assert manifest.nbytes < 0.02 * full and worker.load_weights(manifest, buckets) == 1
    learner.save(tmp_path)
    exported = DiffusionPolicy.from_pretrained(tmp_path / "policy")
    tokens = torch.from_numpy(request.prompt_tokens.astype(np.int64))[None]
    with torch.no_grad():
        torch.testing.assert_close(exported.logits(tokens), trained.eval().logits(tokens), atol=2e-3, rtol=1e-4)
