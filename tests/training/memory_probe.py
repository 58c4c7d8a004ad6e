"""A learner rank that takes two steps, hands out its weights and saves; prints the peak of its resident memory.

`python -m tests.training.memory_probe RECIPE.yaml START`: JSON with MB after the imports, the build, the steps, the end.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from couplet.configs.load import load
from couplet.configs.schema import RunConfig
from couplet.data.trajectory import GroupId, PromptGroup, ScoredGroup
from couplet.data.verdict import Outcome, Verdict
from couplet.training.factory import LearnerSlice, build_learner


def peak() -> float:
    """MB of resident memory at its highest so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def group(config: RunConfig, index: int, vocabulary: int) -> ScoredGroup:
    """Random tokens as long as they may be, with rewards that differ."""
    G, C, random = config.replay.completions, config.sampler.completion_length, np.random.default_rng(index)
    made = PromptGroup(
        group_id=GroupId(0, index, 0),
        attempt=0,
        problem_id=str(index),
        version=0,
        prompt_tokens=random.integers(8, vocabulary, config.problems.max_prompt_tokens, dtype=np.int32),
        tokens_GC=random.integers(8, vocabulary, (G, C), dtype=np.int32),
        reveal_step_GC=np.tile(np.arange(C, dtype=np.int16), (G, 1)),
        loss_mask_GC=np.ones((G, C), bool),
        texts=("",) * G,
        seeds_G=tuple(range(G)),
        group_seed=index,
        behaviour_GJC=None,
    )
    return ScoredGroup(made, tuple(Verdict(Outcome.FAILED, float(g)) for g in range(G)))


def main(recipe: str, start: str) -> None:
    import ray  # noqa: F401  # as in an actor
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401

    import couplet.learner.deepspeed_engine  # noqa: F401

    config = load(RunConfig, recipe)
    found = {"imported": peak()}
    learner = build_learner(LearnerSlice.of(config), start)
    found["built"] = peak()
    vocabulary = json.loads((Path(start) / "config.json").read_text())["vocab_size"]
    for _ in range(2):  # the optimiser's state is made at the end of the first
        learner.learn([group(config, index, vocabulary) for index in range(config.replay.groups_per_step)])
    found["learned"] = peak()
    with tempfile.TemporaryDirectory() as folder:
        learner.weights(config.weights.bucket_mb * 2**20)
        learner.save(Path(folder) / "c")
    found["saved"] = peak()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
