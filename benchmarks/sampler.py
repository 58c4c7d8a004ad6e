"""The sampler against a plain Dream-style loop, interleaved in one process on one CPU thread.

Seconds are CPU seconds. The plain loop does what the published one does: it runs every step (empty ones too), runs the
head on every position, sorts the whole vocabulary for top-p, and draws at every masked position. Like ours, it batches
prompts of one length, ranks in float32 and counts tokens per row, so both do the same work.

Not covered: GPUs, trained weights (with random ones a nucleus is wide), padding (the plain loop would pad prompts of
mixed lengths), and the trunk of a large model. Both loops share the trunk, and at 7B it dominates, so the ratio there
is smaller than here.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from couplet.configs.schema import SamplerConfig, ShapeConfig
from couplet.data.files import write_json
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.rollout.orders import ORDERS
from couplet.rollout.sampler import sample

CASES = {
    # name: (vocabulary, prompts, completions of each, prompt tokens, sampler)
    "large_vocabulary_top_p_top_k": (
        152_064,
        2,
        2,
        24,
        SamplerConfig(steps=12, completion_length=12, temperature=1.2, top_p=0.95, top_k=50),
    ),
    "large_vocabulary_top_p": (
        152_064,
        2,
        2,
        24,
        SamplerConfig(steps=12, completion_length=12, temperature=1.2, top_p=0.95),
    ),
    "large_vocabulary_unfiltered": (
        152_064,
        2,
        2,
        24,
        SamplerConfig(steps=12, completion_length=12, temperature=1.0),
    ),
    "tiny_recipe": (420, 8, 8, 40, SamplerConfig(steps=16, completion_length=32, temperature=1.0)),
}


@torch.inference_mode()
def plain_loop(policy: DiffusionPolicy, prompts_BP: Tensor, config: SamplerConfig, seed: int) -> Tensor:
    """Dream-style decoding of prompts of one length. Returns tokens [B, C]."""
    generator = torch.Generator().manual_seed(seed)
    mask_id = policy.token_ids.mask
    rows, prompt_length = prompts_BP.shape
    x_BL = torch.cat([prompts_BP, torch.full((rows, config.completion_length), mask_id)], dim=1)
    times = torch.linspace(1, config.eps, config.steps + 1)
    rank = ORDERS[config.order].confidence
    assert rank is not None
    for step in range(config.steps):
        masked_BL = x_BL == mask_id
        z_NV = policy.logits(x_BL)[masked_BL].float()
        z_NV[:, mask_id] = -torch.inf
        p_NV = torch.softmax(plain_filter(z_NV / config.temperature, config.top_p, config.top_k), dim=1)
        x0_N = torch.multinomial(p_NV, 1, generator=generator).squeeze(1)
        confidence_BL = torch.full(x_BL.shape, -torch.inf).masked_scatter(masked_BL, rank(p_NV, x0_N))
        drawn_BL = x_BL.masked_scatter(masked_BL, x0_N)
        left = int(masked_BL[0].sum())
        count = left if step == config.steps - 1 else int(left * (1 - times[step + 1] / times[step]))
        if count:
            chosen_Bk = confidence_BL.topk(count, dim=1).indices
            x_BL.scatter_(1, chosen_Bk, drawn_BL.gather(1, chosen_Bk))
    return x_BL[:, prompt_length:]


def plain_filter(z_NV: Tensor, top_p: float, top_k: int | None) -> Tensor:
    """Top-p by sorting the vocabulary, then top-k."""
    if top_p < 1.0:
        sorted_NV, index_NV = z_NV.sort(dim=1, descending=True)
        drop_NV = torch.softmax(sorted_NV, dim=1).cumsum(dim=1) > top_p
        drop_NV[:, 1:] = drop_NV[:, :-1].clone()
        drop_NV[:, 0] = False
        z_NV = z_NV.masked_fill(torch.zeros_like(drop_NV).scatter(1, index_NV, drop_NV), -torch.inf)
    if top_k is not None:
        z_NV = z_NV.masked_fill(z_NV < z_NV.topk(top_k, dim=1).values[:, -1:], -torch.inf)
    return z_NV


def measure(name: str, repeats: int) -> dict[str, object]:
    """Seconds of both loops, run in turn, and the median of their ratios."""
    vocab, prompts, completions, prompt_length, config = CASES[name]
    ids = TokenIds(mask=5, pad=0, bos=0, eos=0, filler=7, end=(6,))
    shape = ShapeConfig(embedding_std=0.2)
    policy = DiffusionPolicy.from_shape(shape, vocab, ids, seed=0)
    rows = [[8 + prompt] * prompt_length for prompt in range(prompts) for _ in range(completions)]
    prompts_BP = torch.tensor(rows)
    ours, plain = [], []
    for repeat in range(repeats + 1):
        seeds = [repeat * len(rows) + row for row in range(len(rows))]
        ours.append(_seconds(lambda seeds=seeds: sample(policy, rows, config, seeds)))  # type: ignore[misc]
        plain.append(_seconds(lambda repeat=repeat: plain_loop(policy, prompts_BP, config, repeat)))  # type: ignore[misc]
    ours, plain = ours[1:], plain[1:]  # the first round warms up
    tokens = len(rows) * config.completion_length
    return {
        "case": name,
        "vocabulary": vocab,
        "rows": len(rows),
        "prompt_tokens": prompt_length,
        "completion_length": config.completion_length,
        "steps": config.steps,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "ours_seconds": round(statistics.median(ours), 4),
        "plain_seconds": round(statistics.median(plain), 4),
        "ours_tokens_per_second": round(tokens / statistics.median(ours), 1),
        "speedup": round(statistics.median(p / o for p, o in zip(plain, ours)), 2),
        "speedup_range": [round(f(p / o for p, o in zip(plain, ours)), 2) for f in (min, max)],
    }


def _seconds(run: Callable[[], object]) -> float:
    started = time.process_time()  # CPU time of this thread; other processes do not count
    run()
    return time.process_time() - started


def main() -> None:
    """Measure every case and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sampler",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="measured rounds of each case (default: 5)")
    out = Path(__file__).parent / "results" / "sampler.json"
    parser.add_argument("--out", type=Path, default=out, metavar="FILE", help="JSON file (default: the tracked one)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    for name in CASES:
        cases.append(measure(name, arguments.repeats))
        print(f"{name}: {cases[-1]['speedup']} times the plain loop ({cases[-1]['ours_tokens_per_second']} tokens/s)")
    result = {
        "what": "CPU seconds of the sampler and of a plain Dream-style loop, interleaved, one thread",
        "left_out": "GPU, trained weights, padding, a large trunk",
        "model": "2 layers, hidden 128, FFN 320, random weights, float32",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}",
        "repeats": arguments.repeats,
        "cases": cases,
    }
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
