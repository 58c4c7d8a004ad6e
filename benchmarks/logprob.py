"""Log-probabilities of target tokens, forward and backward: in blocks of logits against all logits at once."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.measure import interleaved, peak_mib, ratio
from benchmarks.plain import plain_logprob
from couplet.model.logprob import chunked_logprob

WHAT = "log-probabilities with gradients to states and head: CPU seconds interleaved, peak memory in separate processes"
LEFT_OUT = "GPUs and bfloat16; the rows are those of half a group (a view of 10 completions of 256 tokens keeps 2,560)"

CASES = [(152_064, 64, 1280), (4_096, 256, 1280)]  # vocabulary, hidden size, rows
TOY = [(600, 16, 64)]
WAYS = ("ours", "plain")


def prepared(way: str, vocabulary: int, hidden: int, rows: int) -> Callable[[], None]:
    """A forward and backward pass of one way."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(rows, hidden, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, hidden, generator=generator).requires_grad_()
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    logprob = chunked_logprob if way == "ours" else plain_logprob

    def run() -> None:
        logprob(states, weight, targets).sum().backward()
        states.grad = weight.grad = None

    return run


def measure(toy: bool = False) -> dict[str, object]:
    """Every case."""
    cases: list[dict[str, object]] = []
    for sizes in TOY if toy else CASES:
        seconds = interleaved({way: prepared(way, *sizes) for way in WAYS}, 1 if toy else None)
        peaks = {way: None if toy else round(peak_mib(prepared, way, *sizes)) for way in WAYS}
        cases.append(
            {
                "vocabulary": sizes[0],
                "hidden": sizes[1],
                "rows": sizes[2],
                "times_less_cpu": ratio(seconds["plain"], seconds["ours"]),
                **{f"{way}_peak_mib": peak for way, peak in peaks.items()},
                "times_less_memory": None if toy else ratio([peaks["plain"]], [peaks["ours"]]),
            }
        )
        print(cases[-1], flush=True)
    return {"cases": cases}
