"""The learner against plain three-view log-probabilities: operations by torch's counter and by formula, CPU time, memory.

A step is mu = 2 optimiser updates over one group of 10 completions with a KL penalty; old, reference and behaviour
estimates count. `predicted` is the formula, of which the 7B figures are made; `measured` is torch's counter.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.measure import flops, gemm_rate, interleaved, peak_mib, ratio
from benchmarks.plain import IDS, plain_views, random_policy
from couplet.configs.schema import EstimatorConfig, LearnerConfig, ObjectiveConfig, OptimizerConfig
from couplet.data.seeds import derive_seed, mask_seed
from couplet.data.trajectory import GroupId, PromptGroup, ScoredGroup
from couplet.data.verdict import Outcome, Verdict
from couplet.learner.engine import Setup, adamw, decay_groups
from couplet.learner.engines import build_engine
from couplet.learner.learner import Learner
from couplet.learner.loss import grpo_loss
from couplet.model.cost import ModelSize
from couplet.model.likelihood import GroupTokens, batch_logprobs
from couplet.model.policy import DiffusionPolicy

WHAT = (
    "one learner step of mu = 2 over a group of 10 completions against plain three-view estimates, float32, one thread"
)
LEFT_OUT = "several ranks, GPUs, the reward; answers fill the canvas here (shorter ones save more logits)"

UPDATES, COMPLETIONS = 2, 10
CASES = [("tiny", 32_000, 24, 32)]  # trunk, V, prompt, canvas
TOY = [("toy", 600, 6, 8)]
SEVEN_B = ModelSize(3584, 28, 28, 4, 128, 18944, 152064, tied=False)
ESTIMATOR = EstimatorConfig()
MODES: dict[str, dict[str, Any]] = {
    # of ObjectiveConfig; "behaviour" is estimated by the rollout actor, and counted
    "stale samples": {"ratio": "behaviour"},
    "samples of the current weights": {"ratio": "current"},
    "stale samples, masks shared": {"ratio": "behaviour", "fresh_masks": False},
    "samples of the current weights, masks shared": {"ratio": "current", "fresh_masks": False},
}


def made_up_group(vocabulary: int, prompt: int, canvas: int) -> ScoredGroup:
    """A group whose answers fill the canvas."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(8, vocabulary, (COMPLETIONS, canvas), dtype=np.int32)
    group = PromptGroup(
        group_id=GroupId(0, 0, 0),
        attempt=0,
        version=0,
        problem_id="p",
        prompt_tokens=generator.integers(8, vocabulary, prompt, dtype=np.int32),
        tokens_GC=tokens,
        reveal_step_GC=np.zeros(tokens.shape, np.int16),
        loss_mask_GC=np.ones(tokens.shape, bool),
        texts=("",) * COMPLETIONS,
        seeds_G=tuple(derive_seed(row, "completion") for row in range(COMPLETIONS)),
        group_seed=0,
        behaviour_GJC=None,
    )
    return ScoredGroup(group, tuple(Verdict(Outcome.FAILED, float(row % 3)) for row in range(COMPLETIONS)))


def estimate(policy: DiffusionPolicy, scored: ScoredGroup, draws: int) -> torch.Tensor:
    """What a rollout actor adds to a group: [J, G, C]."""
    group = scored.group
    batch = GroupTokens.of(
        [group.prompt_tokens], group.tokens_GC[None], group.loss_mask_GC[None], IDS.pad, policy.device
    )
    seeds = [[[mask_seed(seed, draw) for seed in group.seeds_G]] for draw in range(1, draws + 1)]
    with torch.no_grad():
        return batch_logprobs(policy, batch, seeds, [[draw] for draw in range(draws)], ESTIMATOR)[:, 0]


def our_step(policy: DiffusionPolicy, scored: ScoredGroup, **objective: Any) -> Callable[[], None]:
    """A learner step, behaviour estimate included where the mode has one."""
    settings = ObjectiveConfig(inner_updates=UPDATES, **objective)
    engine = build_engine(Setup(policy, OptimizerConfig(), LearnerConfig(engine="torch"), 1000))
    learner = Learner(engine, policy, settings, ESTIMATOR)

    def run() -> None:
        groups = [scored]
        if settings.ratio == "behaviour":
            logp_GJC = estimate(policy, scored, settings.mask_draws).transpose(0, 1).numpy()
            stale = PromptGroup(**{**vars(scored.group), "behaviour_GJC": logp_GJC, "version": learner.version - 1})
            groups = [ScoredGroup(stale, scored.verdicts)]
        learner.learn(groups)

    return run


def plain_step(policy: DiffusionPolicy, scored: ScoredGroup) -> Callable[[], None]:
    """The same step in the obvious way: three views per completion for old, reference and new, for each update."""
    reference = copy.deepcopy(policy)
    optimiser = adamw(decay_groups(list(policy.named_parameters()), 0.1), OptimizerConfig())
    prompt = torch.from_numpy(scored.group.prompt_tokens.astype(np.int64))
    tokens = torch.from_numpy(scored.group.tokens_GC.astype(np.int64))
    rewards = torch.from_numpy(scored.rewards_G)
    advantages = (rewards - rewards.mean())[None]
    objective = ObjectiveConfig()

    def views(model: DiffusionPolicy, update: int) -> torch.Tensor:
        return plain_views(model, prompt, tokens, [mask_seed(s, update) for s in scored.group.seeds_G], ESTIMATOR)

    def run() -> None:
        with torch.no_grad():
            old = [views(policy, update) for update in range(UPDATES)]
            kept = [views(reference, update) for update in range(UPDATES)]
        for update in range(UPDATES):
            weights = torch.full((1, *tokens.shape), 1 / tokens.numel())
            new = views(policy, update)[None]
            loss = grpo_loss(new, old[update][None], advantages, weights, objective, kept[update][None]).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()

    return run


def predicted(size: ModelSize, prompt: int, canvas: int, recomputed: bool, **objective: Any) -> tuple[float, float]:
    """Operations of (our step, a plain one) by formula; a pair of masks scores each of the canvas's tokens once."""
    settings = ObjectiveConfig(inner_updates=UPDATES, **objective)

    def ours(draws: int) -> float:
        rows = 1 + 2 * COMPLETIONS * draws
        return size.forward_flops(rows, prompt + canvas, canvas * (1 + COMPLETIONS * draws))

    draws, passes = settings.mask_draws, 4 if recomputed else 3
    behaviour = settings.ratio == "behaviour"
    old = ours(draws) if behaviour else 0.0 if draws == 1 else ours(draws - 1)
    plain = size.forward_flops(3 * COMPLETIONS, prompt + canvas, 3 * COMPLETIONS * canvas)
    return old + ours(draws) + UPDATES * passes * ours(1), UPDATES * (2 + passes) * plain


def measure(toy: bool = False) -> dict[str, object]:
    """Operations at every case and mode, CPU time at each case, memory at one, and the 7B shape by formula."""
    rate = gemm_rate(64 if toy else 1024)
    cases = [_case(rate, toy, *case) for case in (TOY if toy else CASES)]
    seven = {}
    for mode, objective in MODES.items():
        for label, recomputed in (("", False), (", gradient checkpointing", True)):
            mine, plain = predicted(SEVEN_B, 200, 256, recomputed, **objective)
            seven[mode + label] = round(plain / mine, 2)
    one = SEVEN_B.training_flops(1 + 2 * COMPLETIONS, 456, 256 * (1 + COMPLETIONS))
    three = SEVEN_B.training_flops(3 * COMPLETIONS, 456, 3 * COMPLETIONS * 256)
    memory = {}
    if not toy:
        memory = {way: round(peak_mib(_peak_task, way, *CASES[-1])) for way in ("ours", "plain")}
    return {
        "gemm_gflops": round(rate / 1e9, 1),
        "cases": cases,
        "seven_b_step_times_fewer_flops": seven,
        "seven_b_views_times_fewer_flops": round(three / one, 2),
        "peak_mib": memory,
    }


def _peak_task(way: str, trunk: str, vocabulary: int, prompt: int, canvas: int) -> Callable[[], None]:
    policy, scored = random_policy(trunk, vocabulary), made_up_group(vocabulary, prompt, canvas)
    return our_step(policy, scored, ratio="current") if way == "ours" else plain_step(policy, scored)


def _case(rate: float, toy: bool, trunk: str, vocabulary: int, prompt: int, canvas: int) -> dict[str, object]:
    scored = made_up_group(vocabulary, prompt, canvas)
    size = ModelSize.of(random_policy(trunk, 600).config)
    size = ModelSize(**{**vars(size), "vocabulary": vocabulary})
    counted = {}
    plain_count = flops(plain_step(random_policy(trunk, vocabulary), scored))
    for mode, objective in MODES.items():
        mine = flops(our_step(random_policy(trunk, vocabulary), scored, **objective))
        formula, formula_plain = predicted(size, prompt, canvas, False, **objective)
        counted[mode] = {"measured": round(plain_count / mine, 2), "predicted": round(formula_plain / formula, 2)}
    runs = {
        "ours": our_step(random_policy(trunk, vocabulary), scored, ratio="current"),
        "plain": plain_step(random_policy(trunk, vocabulary), scored),
    }
    seconds = interleaved(runs, 1 if toy else None)
    used = statistics.median(seconds["ours"])
    floor = flops(runs["ours"]) / rate
    print(f"{trunk} {vocabulary}: {counted}, {ratio(seconds['plain'], seconds['ours'])} times less CPU", flush=True)
    return {
        "trunk": trunk,
        "vocabulary": vocabulary,
        "prompt": prompt,
        "canvas": canvas,
        "times_fewer_flops": counted,
        "times_less_cpu": ratio(seconds["plain"], seconds["ours"]),
        "share_of_floor": round(floor / used, 2),
    }
