"""`make bench-gpu`: the DiffuCoder-7B shape with random weights in bfloat16 on one CUDA device, in ten minutes at most.

Plain classes only: neither Ray nor DeepSpeed is imported. Every figure is beside its floor: the counted operations
divided by the rate that a large matrix product reaches on the same device. The time of a sampling step does not depend
on how many tokens it reveals, so it is measured on a short schedule over the whole canvas, along which the number of
masked positions falls as it does with one token per step. Without a CUDA device only the toy sizes run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.learner import ESTIMATOR, made_up_group
from benchmarks.plain import IDS, plain_loop, random_policy
from couplet.configs.schema import AdapterConfig, LearnerConfig, ObjectiveConfig, OptimizerConfig, SamplerConfig
from couplet.data.seeds import mask_seed
from couplet.learner.engine import Setup
from couplet.learner.engines import build_engine
from couplet.learner.learner import Learner
from couplet.model.cost import ModelSize
from couplet.model.likelihood import GroupTokens, batch_logprobs
from couplet.model.policy import DiffusionPolicy
from couplet.model.weights import pack, unpack_into
from couplet.rollout.sampler import sample

WHAT = "DiffuCoder-7B shape, random weights, bfloat16, one CUDA device"
LEFT_OUT = "trained weights, several devices, a step with offload (it needs DeepSpeed)"


@dataclass(frozen=True)
class Sizes:
    """What is measured, at full or at toy size."""

    device: str
    shape: str
    vocabulary: int
    prompt: int
    canvas: int
    steps: int
    block: int
    batches: tuple[int, ...]
    matrix: int  # side of the product that gives the rate


FULL = Sizes("cuda", "7b", 152_064, 200, 256, 16, 32, (10, 20, 40, 80), 8192)
TOY = Sizes("cpu", "toy", 600, 6, 8, 4, 4, (2,), 64)


def measure(toy: bool = False) -> dict[str, object]:
    """All parts; one that runs out of memory says so, and the others run on."""
    if not toy and not torch.cuda.is_available():
        sys.exit("no CUDA device: `python -m benchmarks gpu --toy` runs every path on the CPU")
    sizes = TOY if toy else FULL
    rate = _gemm_rate(sizes)
    policy = random_policy(sizes.shape, sizes.vocabulary, sizes.device, "bfloat16").eval()
    found: dict[str, object] = {
        "device": torch.cuda.get_device_name() if sizes.device == "cuda" else "cpu",
        "gemm_tflops": round(rate / 1e12, 3),
    }
    parts: dict[str, Callable[[], object]] = {
        "sampler": lambda: [_sampling(policy, sizes, rate, rows) for rows in sizes.batches],
        "caches": lambda: [_cached(policy, sizes, name) for name in ("none", "prefix", "dual")],
        "weights": lambda: _swap(policy, sizes),
        "views": lambda: _views(policy, sizes, rate),
        "adapter_step": lambda: _adapter_step(policy, sizes, rate),
        "equality": lambda: _equality(sizes),
    }
    for name, part in parts.items():
        started = time.perf_counter()
        try:
            found[name] = part()
        except torch.cuda.OutOfMemoryError:
            found[name] = "out of memory"
        except ModuleNotFoundError as error:
            found[name] = f"needs the package {error.name}"
        print(f"{name}: {found[name]} ({time.perf_counter() - started:.0f} s)", flush=True)
        if sizes.device == "cuda":
            torch.cuda.empty_cache()
    return found


def _gemm_rate(sizes: Sizes) -> float:
    """bfloat16 operations per second of a large product."""
    left = torch.randn(sizes.matrix, sizes.matrix, dtype=torch.bfloat16, device=sizes.device)
    return 20.0 * sizes.matrix**3 / _seconds(sizes, lambda: [left @ left for _ in range(10)])


def _seconds(sizes: Sizes, run: Callable[[], object]) -> float:
    """Wall seconds of the second of two runs; the device is idle before and after."""
    run()
    _wait(sizes)
    started = time.perf_counter()
    run()
    _wait(sizes)
    return time.perf_counter() - started


def _wait(sizes: Sizes) -> None:
    if sizes.device == "cuda":
        torch.cuda.synchronize()


def _sampling(policy: DiffusionPolicy, sizes: Sizes, rate: float, rows: int) -> dict[str, object]:
    """Exact sampling by the recipe's filters: tokens per second at 1, 2 and 4 tokens per step."""
    config = SamplerConfig(steps=sizes.steps, completion_length=sizes.canvas, temperature=1.2, top_p=0.95, top_k=50)
    prompts = [[8 + row] * sizes.prompt for row in range(rows)]
    prompts_BP = torch.tensor(prompts, device=sizes.device)
    ours = _seconds(sizes, lambda: sample(policy, prompts, config, list(range(rows)))) / sizes.steps
    times_plain: float | str | None = None
    if rows in (sizes.batches[0], sizes.batches[-1]):
        try:
            plain = _seconds(sizes, lambda: plain_loop(policy, prompts_BP, config, 0)) / sizes.steps
            times_plain = round(plain / ours, 2)
        except torch.cuda.OutOfMemoryError:
            times_plain = "plain is out of memory"
    size = ModelSize.of(policy.config)
    floor = size.forward_flops(rows, sizes.prompt + sizes.canvas, rows * sizes.canvas / 2) / rate
    return {
        "rows": rows,
        "seconds_per_step": round(ours, 4),
        "tokens_per_second": {tokens: round(rows * tokens / ours, 1) for tokens in (1, 2, 4)},
        "floor_tokens_per_second": round(rows / floor, 1),
        "share_of_floor": round(floor / ours, 3),
        "times_plain": times_plain,
    }


def _cached(policy: DiffusionPolicy, sizes: Sizes, cache: str) -> dict[str, object]:
    """Blocks from the left, 4 tokens per step, with each cache of keys and values."""
    rows = sizes.batches[-1]
    steps = max(sizes.canvas // 4, sizes.canvas // sizes.block)
    config = SamplerConfig(
        steps=steps,
        completion_length=sizes.canvas,
        temperature=1.2,
        top_p=0.95,
        top_k=50,
        block_length=sizes.block,
        cache=cache,
    )
    prompts = [[8 + row] * sizes.prompt for row in range(rows)]
    started = time.perf_counter()
    sample(policy, prompts, config, list(range(rows)))
    _wait(sizes)
    seconds = time.perf_counter() - started
    return {"cache": cache, "rows": rows, "tokens_per_second": round(rows * sizes.canvas / seconds, 1)}


def _swap(policy: DiffusionPolicy, sizes: Sizes) -> dict[str, object]:
    """Packing on the host and swapping in, in GB/s; wall time."""
    started = time.perf_counter()
    manifest, buckets = pack(policy.named_parameters(), 1)
    packed = time.perf_counter()
    unpack_into(policy, manifest, buckets)
    _wait(sizes)
    swapped = time.perf_counter()
    gigabytes = manifest.nbytes / 1e9
    return {
        "gigabytes": round(gigabytes, 3),
        "pack_gb_per_second": round(gigabytes / (packed - started), 2),
        "verified_swap_gb_per_second": round(gigabytes / (swapped - packed), 2),
    }


def _views(policy: DiffusionPolicy, sizes: Sizes, rate: float) -> dict[str, object]:
    """Forward and backward of the coupled views of one group, gradients to all weights, layers recomputed."""
    group = made_up_group(sizes.vocabulary, sizes.prompt, sizes.canvas).group
    batch = GroupTokens.of(
        [group.prompt_tokens], group.tokens_GC[None], group.loss_mask_GC[None], IDS.pad, sizes.device
    )
    seeds = [[[mask_seed(seed, 1) for seed in group.seeds_G]]]
    policy.train()
    policy.checkpoint_gradients()
    if sizes.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = _seconds(sizes, lambda: batch_logprobs(policy, batch, seeds, [[0]], ESTIMATOR).sum().backward())
    peak = torch.cuda.max_memory_allocated() / 2**30 if sizes.device == "cuda" else None
    policy.zero_grad(set_to_none=True)
    completions = len(group.seeds_G)
    size, length = ModelSize.of(policy.config), sizes.prompt + sizes.canvas
    needed = size.training_flops(1 + 2 * completions, length, sizes.canvas * (1 + completions))
    return {
        "seconds_per_sequence": round(seconds / completions, 4),
        "share_of_peak": round(needed / rate / seconds, 3),
        "peak_gib": None if peak is None else round(peak, 1),
    }


def _adapter_step(policy: DiffusionPolicy, sizes: Sizes, rate: float) -> dict[str, object]:
    """A whole learner step (mu = 2, KL) of one group with a LoRA adapter of rank 16."""
    settings: dict[str, Any] = {"engine": "torch", "dtype": "bfloat16", "gradient_checkpointing": True}
    policy.add_adapter(AdapterConfig(rank=16), seed=0)
    engine = build_engine(Setup(policy, OptimizerConfig(), LearnerConfig(**settings), 100))
    learner = Learner(engine, policy, ObjectiveConfig(ratio="current"), ESTIMATOR)
    scored = made_up_group(sizes.vocabulary, sizes.prompt, sizes.canvas)
    if sizes.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = _seconds(sizes, lambda: learner.learn([scored]))
    peak = torch.cuda.max_memory_allocated() / 2**30 if sizes.device == "cuda" else None
    return {"seconds": round(seconds, 3), "peak_gib": None if peak is None else round(peak, 1)}


def _equality(sizes: Sizes) -> dict[str, object]:
    """Share of equal tokens that a small float32 policy decodes on the device and on the CPU."""
    shares = {}
    for filters in ({}, {"top_p": 0.9}, {"top_p": 0.95, "top_k": 20}):
        config = SamplerConfig(steps=8, completion_length=16, temperature=1.0, **filters)
        prompts = [[8 + row, 9] for row in range(16)]
        found = []
        for device in ("cpu", sizes.device):
            policy = random_policy("toy", 2_000, "cpu").to(device)
            found.append([c.tokens for c in sample(policy, prompts, config, list(range(16)))])
        equal = [(a == b).mean() for a, b in zip(*found, strict=True)]
        shares[str(filters)] = round(float(sum(equal) / len(equal)), 4)
    return shares
