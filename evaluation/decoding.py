"""How a policy decodes: the reveal order, its diversity, and the confidence of the first forward pass.

Every measure of the order is on the answer only (positions up to and including the first end token), as in
`rollout.ar_ness`. Shapes: G completions of a prompt, C canvas positions, P problems, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from couplet.configs.schema import EstimatorConfig, SamplerConfig
from couplet.data.problem import Problem
from couplet.data.prompts import PromptSet
from couplet.data.trajectory import ScoredGroup
from couplet.data.verdict import Outcome, Verdict
from couplet.evaluation.pass_at_k import Estimate, bootstrap, pass_at_k
from couplet.evaluation.request import EvalRequest, Evaluate
from couplet.model.policy import DiffusionPolicy
from couplet.rollout.ar_ness import global_ar_ness, local_ar_ness, order_entropy, reveal_order
from couplet.rollout.sampler import sample
from couplet.rollout.worker import RolloutWorker

ANSWER = re.compile(r"answer is (-?\d+)")


def order_diversity(orders_G: Sequence[Sequence[int]]) -> float:
    """How much the reveal orders of one prompt's completions differ: 0 if all are equal, 1 if all differ.

    Mean over s of the entropy of the s-th revealed position among the completions that have one, divided by the log of
    their number; steps s that only one completion reaches are left out.
    """
    entropies = []
    for s in range(max(len(order) for order in orders_G)):
        positions = [order[s] for order in orders_G if len(order) > s]
        if len(positions) < 2:
            break
        share = np.unique(positions, return_counts=True)[1] / len(positions)
        entropies.append(float(-(share * np.log(share)).sum() / np.log(len(positions))))
    return float(np.mean(entropies)) + 0.0 if entropies else 0.0


@torch.inference_mode()
def first_forward_confidence(
    policy: DiffusionPolicy, prompts: Sequence[Sequence[int]], canvas: int
) -> tuple[np.ndarray, np.ndarray]:
    """The entropy sink: the first forward pass, with the whole completion masked, at temperature 1 without filters.

    Returns:
        (largest probability, entropy in nats) of every completion position, without the mask token: float64 [P, C]
        each.
    """
    largest, entropies = [], []
    for prompt in prompts:
        tokens_1L = torch.tensor([[*map(int, prompt), *[policy.token_ids.mask] * canvas]], device=policy.device)
        rows_C = torch.arange(len(prompt), len(prompt) + canvas, device=policy.device)
        logits_CV = policy.head(policy.hidden_at(rows_C, tokens_1L)).float()
        logits_CV[:, policy.token_ids.mask] = -torch.inf
        logp_CV = torch.log_softmax(logits_CV, dim=1)
        p_CV = logp_CV.exp()
        largest.append(p_CV.amax(dim=1).double().cpu().numpy())
        entropies.append(-(p_CV * logp_CV.clamp_min(-1e30)).sum(dim=1).double().cpu().numpy())
    return np.array(largest), np.array(entropies)


@dataclass(frozen=True)
class Decoded:
    """The record of one problem's completions."""

    problem_id: str
    orders: tuple[tuple[int, ...], ...]
    outcomes: tuple[str, ...]
    texts: tuple[str, ...]
    tokens: int  # canvas tokens of all completions
    seconds: float | None  # of sampling alone; None if unknown

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Decoded:
        """From the JSON of `dataclasses.asdict`."""
        orders = tuple(tuple(order) for order in row["orders"])
        return cls(**{**row, "orders": orders, "outcomes": tuple(row["outcomes"]), "texts": tuple(row["texts"])})

    @property
    def counts(self) -> tuple[int, int]:
        """(judged, passed)."""
        judged = [o for o in self.outcomes if Outcome(o).is_verdict]
        return len(judged), judged.count(Outcome.PASSED.value)


Keep = Callable[[Decoded], None]
"""Called with each problem as soon as it is decoded."""


def decode_judged(
    evaluate: Evaluate, prompts: PromptSet, sampler: SamplerConfig, samples: int, seed: int, keep: Keep | None = None
) -> list[Decoded]:
    """Completions with their outcomes: of problems with tests by `Cluster.evaluate`, or of `word_problems`."""

    def done(_: int, scored: ScoredGroup) -> None:
        if keep is not None:
            keep(_judged(scored))

    return [_judged(scored) for scored in evaluate(EvalRequest(prompts, sampler, samples, seed, done))]


def _judged(scored: ScoredGroup) -> Decoded:
    group, metrics = scored.group, scored.group.metrics or {}
    tokens, speed = int(group.tokens_GC.size), metrics.get("sampler_tokens_per_second")
    return Decoded(
        group.problem_id,
        _orders(scored),
        tuple(verdict.outcome.value for verdict in scored.verdicts),
        group.texts,
        tokens,
        tokens / speed if speed else None,
    )


def word_problems(policy: DiffusionPolicy, decode: Callable[[Sequence[int]], str], rows: int | None = None) -> Evaluate:
    """Samples arithmetic word problems here; passed if the last "answer is N" is the problem's `metadata["result"]`.

    Args:
        policy, decode: the model, and token ids to text.
        rows: most completions per forward pass; None decodes all together.
    """
    rollout = RolloutWorker(policy, decode, SamplerConfig(), EstimatorConfig(), microbatch_rows=rows, draw=sample)

    def evaluate(request: EvalRequest) -> list[ScoredGroup]:
        requests, found = request.rollouts(), list[ScoredGroup]()
        size = len(requests) if rows is None else max(1, rows // request.samples)
        for first in range(0, len(requests), max(1, size)):
            for group in rollout.generate(requests[first : first + size], request.sampler):
                problem = request.prompts.problems[group.group_id.problem]
                found.append(ScoredGroup(replace(group, metrics=None), tuple(_solved(problem, t) for t in group.texts)))
                request.report(found[-1])
        return found

    return evaluate


def _solved(problem: Problem, text: str) -> Verdict:
    right = (ANSWER.findall(text) or [""])[-1] == str(problem.metadata["result"])
    return Verdict(Outcome.PASSED if right else Outcome.FAILED, float(right))


def _orders(scored: ScoredGroup) -> tuple[tuple[int, ...], ...]:
    group = scored.group
    found = []
    for tokens_C, step_C, loss_C in zip(group.tokens_GC, group.reveal_step_GC, group.loss_mask_GC):
        length = int(loss_C.sum())
        found.append(tuple(reveal_order(tokens_C[:length], step_C[:length], (), "canvas")))
    return tuple(found)


def measures(
    decoded: Sequence[Decoded], ar_ness_ks: Sequence[int], pass_ks: Sequence[int], seed: int
) -> dict[str, Any]:
    """Means over problems with 95% bootstrap intervals: AR-ness@k, order entropy and diversity, pass@k, tokens/s.

    Values are floats; the interval of a mean is `<name>_low` and `<name>_high`. Tokens per second are the median over
    problems, because the first calls of the workers are slow.
    """
    row: dict[str, Any] = {"problems": len(decoded), "completions": sum(len(d.orders) for d in decoded)}
    for k in ar_ness_ks:
        for name, measure in (("local", local_ar_ness), ("global", global_ar_ness)):
            per_problem = [float(np.mean([measure(order, k) for order in d.orders])) for d in decoded]
            row |= _with_interval(f"{name}_ar_ness_{k}", bootstrap(np.array(per_problem), seed))
    row["order_entropy"] = order_entropy(order for d in decoded for order in d.orders)
    diversity = np.array([order_diversity(d.orders) for d in decoded])
    row |= _with_interval("order_diversity", bootstrap(diversity, seed))
    for k in pass_ks:
        counts = [d.counts for d in decoded if d.counts[0] >= k]
        if counts:
            row |= _with_interval(f"pass_{k}", bootstrap(np.array([pass_at_k(n, c, k) for n, c in counts]), seed))
    speeds = [d.tokens / max(d.seconds, 1e-9) for d in decoded if d.seconds is not None]
    if len(speeds) == len(decoded):
        row["tokens_per_second"] = float(np.median(speeds))
    return row


def completion_rows(decoded: Sequence[Decoded], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per completion, for Parquet."""
    return [
        {**facts, "problem_id": d.problem_id, "completion": g, "outcome": outcome, "order": list(order), "text": text}
        for d in decoded
        for g, (order, outcome, text) in enumerate(zip(d.orders, d.outcomes, d.texts, strict=True))
    ]


def _with_interval(name: str, found: Estimate) -> dict[str, float]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def at(sampler: SamplerConfig, temperature: float, steps: int | None = None) -> SamplerConfig:
    """The sampler at another temperature and, if given, another number of steps."""
    return sampler.replace(temperature=temperature, steps=steps or sampler.steps)
