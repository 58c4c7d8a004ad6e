"""A policy of a few thousand weights and made-up scored groups, for the tests of the learner."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from couplet.configs.schema import EstimatorConfig, LearnerConfig, ObjectiveConfig, OptimizerConfig, ShapeConfig
from couplet.data.seeds import derive_seed
from couplet.data.trajectory import GroupId, PromptGroup, ScoredGroup
from couplet.data.verdict import Outcome, Verdict
from couplet.learner.engine import Setup
from couplet.learner.engines import build_engine
from couplet.learner.learner import Learner
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds

TOKENS = TokenIds(mask=0, pad=1, bos=1, eos=1, filler=2, end=(3,))
VOCABULARY = 19
CANVAS = 6


def toy_policy(seed=0, **shape):
    fields = {"hidden": 16, "layers": 2, "heads": 2, "kv_heads": 1, "ffn": 24, "embedding_std": 0.5} | shape
    return DiffusionPolicy.from_shape(ShapeConfig(**fields), VOCABULARY, TOKENS, seed)


def toy_group(index, rewards, version=0, prompt_length=None, behaviour=None):
    """A group whose tokens follow from `index`; a reward of None is a completion without a verdict."""
    generator = np.random.default_rng(index)
    completions = len(rewards)
    length = prompt_length or 3 + index % 3
    tokens = generator.integers(4, VOCABULARY, (completions, CANVAS), dtype=np.int32)
    ends = generator.integers(2, CANVAS + 1, completions)
    for row, end in enumerate(ends):
        tokens[row, end - 1] = 3
        tokens[row, end:] = 2
    group = PromptGroup(
        group_id=GroupId(0, index, 0),
        attempt=0,
        problem_id=f"toy/{index}",
        version=version,
        prompt_tokens=generator.integers(4, VOCABULARY, length, dtype=np.int32),
        tokens_GC=tokens,
        reveal_step_GC=np.random.default_rng(index + 1).permuted(
            np.tile(np.arange(CANVAS, dtype=np.int16), (completions, 1)), axis=1
        ),
        loss_mask_GC=np.arange(CANVAS) < ends[:, None],
        texts=("",) * completions,
        seeds_G=tuple(derive_seed(index, "completion", row) for row in range(completions)),
        group_seed=derive_seed(index, "group"),
        behaviour_GJC=behaviour,
    )
    verdicts = tuple(
        Verdict(Outcome.INFRA_ERROR, float("nan")) if reward is None else Verdict(Outcome.FAILED, reward)
        for reward in rewards
    )
    return ScoredGroup(group, verdicts)


def toy_groups(version=0):
    """Four groups of four: two ordinary ones, one with an excluded completion, one without signal."""
    return [
        toy_group(0, (0.0, 1.0, 2.0, 0.5), version),
        toy_group(1, (2.5, None, 0.0, 0.5), version),
        toy_group(2, (1.0, 1.0, 1.0, 1.0), version),
        toy_group(3, (0.0, 0.0, 0.0, 2.5), version),
    ]


def toy_learner(policy, *, rank=0, ranks=1, engine="torch", optimizer=None, learner=None, objective=None, **estimator):
    """A learner with settings under which a few updates move the toy policy visibly."""
    optimizer = {"lr": 1e-2, "warmup_ratio": 0.0, "grad_norm": 1.0} | (optimizer or {})
    objective = {"ratio": "current"} | (objective or {})
    config = LearnerConfig(engine=engine, ranks=ranks, **(learner or {}))
    if config.adapter.rank:
        policy.add_adapter(config.adapter, seed=0)
    built = build_engine(Setup(policy, OptimizerConfig(**optimizer), config, total_updates=20, rank=rank, ranks=ranks))
    return Learner(built, policy, ObjectiveConfig(**objective), EstimatorConfig(**estimator), rank, ranks)


def gradients(learner, groups):
    """Gradients of the first inner update over `groups`, by name; the weights stay as they are."""
    found = {}

    def instead_of_step():
        if not found:
            for name, parameter in learner._engine.module.named_parameters():
                found[name] = parameter.grad.clone()
        learner._engine.module.zero_grad()
        return 0.0

    learner._engine.step = instead_of_step
    learner.learn(groups)
    return found


def weights_of(policy):
    return {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}


def packed_batches(start=0, length=12, rows=8):
    """Counting sequences: the next token is the last one plus one, so there is something to learn."""
    while True:
        generator = np.random.default_rng(start)
        first = generator.integers(4, VOCABULARY, (rows, 1))
        tokens = (first + np.arange(length) - 4) % (VOCABULARY - 4) + 4
        yield SimpleNamespace(tokens_BL=tokens, document_BL=np.zeros((rows, length), dtype=int))
        start += 1


def instruct_batches(start=0, rows=8):
    """The answer repeats the prompt, closed by the end token and filler."""
    while True:
        generator = np.random.default_rng(start)
        prompt = generator.integers(4, VOCABULARY, (rows, 3))
        tail = np.broadcast_to([3, 2], (rows, 2))
        tokens = np.concatenate([prompt, prompt, tail], axis=1)
        answer = np.broadcast_to(np.arange(8) >= 3, (rows, 8))
        yield SimpleNamespace(tokens_BL=tokens, attention_BL=np.ones((rows, 8), dtype=bool), answer_BL=answer)
        start += 1


def supervised_batches(objective, start=0, rows=8):
    return instruct_batches(start, rows) if objective == "instruct" else packed_batches(start, rows=rows)
