"""The sampler against a plain Dream-style loop, interleaved in one process on one CPU thread.

`bound` is what the ratio would be if filters, ranking, draws and bookkeeping cost nothing: the plain loop against the
forward passes and head products that remain, run alone. `floor` divides the counted operations by the rate that a
large matrix product reaches on the same core.
"""

from __future__ import annotations

import statistics

import torch

from benchmarks.measure import flops, gemm_rate, interleaved, ratio
from benchmarks.plain import IDS, plain_loop, random_policy
from couplet.configs.schema import SamplerConfig
from couplet.model.cost import ModelSize
from couplet.model.policy import DiffusionPolicy
from couplet.rollout.sampler import sample
from couplet.rollout.schedule import reveal_counts

WHAT = "CPU seconds of the sampler and of a plain Dream-style loop, interleaved, one thread, random weights, float32"
LEFT_OUT = "GPUs; trained weights (with random ones a nucleus is wide); padding, which the plain loop would need for prompts of mixed lengths"

FILTERS: dict[str, dict[str, object]] = {
    "top-p 0.95, top-k 50": {"top_p": 0.95, "top_k": 50},
    "top-p 0.95": {"top_p": 0.95},
    "unfiltered": {},
}
CASES = [
    # trunk, vocabulary, prompts, completions of each, prompt tokens, canvas and steps, filter
    *(("mid", 152_064, 1, 2, 24, 8, 8, name) for name in FILTERS),
    ("mid", 32_000, 1, 2, 24, 12, 12, "top-p 0.95"),
    *(("mid", 4_096, 1, 2, 24, 16, 16, name) for name in FILTERS),
    *(("mid", 512, 1, 2, 24, 16, 16, name) for name in FILTERS),
    ("tiny", 152_064, 1, 2, 24, 8, 8, "top-p 0.95, top-k 50"),
    ("tiny", 4_096, 2, 8, 24, 16, 16, "top-p 0.95"),
    ("tiny", 420, 8, 8, 40, 32, 16, "unfiltered"),
]
TOY = [("toy", 600, 2, 2, 6, 4, 4, name) for name in FILTERS]


@torch.inference_mode()
def bare_passes(policy: DiffusionPolicy, prompts: torch.Tensor, completions: int, config: SamplerConfig) -> None:
    """The matrix products that the sampler cannot save: a forward pass per revealing step, logits where masks remain."""
    rows, length = prompts.shape
    masked = config.completion_length
    tokens_BL = torch.nn.functional.pad(prompts, (0, masked), value=IDS.mask)
    first = True
    for count in reveal_counts(masked, config.steps, config.eps, config.schedule):
        if count == 0:
            continue
        used_BL = tokens_BL[::completions] if first else tokens_BL
        starts_B1 = torch.arange(0, used_BL.numel(), used_BL.shape[1])[:, None] + length
        hidden = policy.hidden_at(starts_B1 + torch.arange(masked), used_BL)
        if count < masked:
            policy.head(hidden.flatten(0, 1))
        policy.head(hidden.flatten(0, 1)[: count * rows])
        masked, first = masked - count, False


def predicted_flops(size: ModelSize, rows: int, prompts: int, prompt: int, config: SamplerConfig) -> float:
    """Operations of a decoding by formula: the first pass once per prompt, logits where masks remain and where tokens are drawn."""
    total, masked, share = 0.0, config.completion_length, prompts
    for count in reveal_counts(masked, config.steps, config.eps, config.schedule):
        if count == 0:
            continue
        ranked = masked * share if count < masked else 0
        total += size.forward_flops(share, prompt + config.completion_length, ranked + count * rows)
        masked, share = masked - count, rows
    return total


def measure(toy: bool = False) -> dict[str, object]:
    """Every case; the rate of a matrix product once."""
    rate = gemm_rate(64 if toy else 1024)
    return {
        "gemm_gflops": round(rate / 1e9, 1),
        "cases": [_case(rate, 1 if toy else None, *case) for case in (TOY if toy else CASES)],
    }


def _case(
    rate: float,
    repeats: int | None,
    trunk: str,
    vocabulary: int,
    prompts: int,
    completions: int,
    prompt: int,
    canvas: int,
    steps: int,
    filters: str,
) -> dict[str, object]:
    config = SamplerConfig(steps=steps, completion_length=canvas, temperature=1.2, **FILTERS[filters])
    policy = random_policy(trunk, vocabulary)
    rows = [[8 + index] * prompt for index in range(prompts) for _ in range(completions)]
    prompts_BP = torch.tensor(rows)
    seeds = list(range(len(rows)))
    runs = {
        "ours": lambda: sample(policy, rows, config, seeds),
        "plain": lambda: plain_loop(policy, prompts_BP, config, 0),
        "bare": lambda: bare_passes(policy, prompts_BP, completions, config),
    }
    counted = flops(runs["ours"])
    seconds = interleaved(runs, repeats)
    predicted = predicted_flops(ModelSize.of(policy.config), len(rows), prompts, prompt, config)
    ours, plain, bare = (statistics.median(seconds[name]) for name in runs)
    print(
        f"{trunk} {vocabulary} {filters}: {ratio(seconds['plain'], seconds['ours'])} times the plain loop", flush=True
    )
    return {
        "trunk": trunk,
        "vocabulary": vocabulary,
        "filter": filters,
        "rows": len(rows),
        "prompt": prompt,
        "canvas": canvas,
        "steps": steps,
        "tokens_per_second": round(len(rows) * canvas / ours, 1),
        "plain_tokens_per_second": round(len(rows) * canvas / plain, 1),
        "speedup": ratio(seconds["plain"], seconds["ours"]),
        "bound": ratio(seconds["plain"], seconds["bare"]),
        "share_of_bound": round(bare / ours, 2),
        "gflop": round(counted / 1e9, 2),
        "predicted_gflop": round(predicted / 1e9, 2),
        "share_of_floor": round(counted / rate / ours, 2),
    }
