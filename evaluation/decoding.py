"""How a policy decodes: order of the reveals, its diversity, and where the first forward is sure of itself.

Every measure of the order looks at the answer only (positions up to and including the first end token), as in
`rollout.ar_ness`. Shapes: G completions of a prompt, C canvas positions, P problems, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from configs.schema import SamplerConfig
from data.prompts import PromptSet
from data.seeds import derive_seed
from data.trajectory import ScoredGroup
from data.verdict import Outcome
from evaluation.benchmark import Evaluate
from evaluation.pass_at_k import Estimate, bootstrap, pass_at_k
from model.policy import DiffusionPolicy
from rollout.ar_ness import answer_length, global_ar_ness, local_ar_ness, order_entropy, reveal_order
from rollout.sampler import sample

ANSWER = re.compile(r"answer is (-?\d+)")


def order_diversity(orders_G: Sequence[Sequence[int]]) -> float:
    """How much the completions of one prompt disagree about the order: 0 all alike, 1 all different.

    Mean over s of the entropy of the s-th revealed position among the completions, divided by log G; completions that
    have ended by then are left out, and so is an s that only one reaches.
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
    """The entropy sink: what the first forward, all of the completion masked, says at temperature 1 without filters.

    Returns:
        (largest probability, entropy in nats) of every completion position, MASK left out: float64 [P, C] each.
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
    """What is kept of the completions of one problem."""

    problem_id: str
    orders: tuple[tuple[int, ...], ...]
    outcomes: tuple[str, ...]
    texts: tuple[str, ...]
    tokens: int  # canvas tokens of all completions
    seconds: float | None  # of sampling; None where unknown

    @property
    def counts(self) -> tuple[int, int]:
        """(judged, passed)."""
        judged = [o for o in self.outcomes if Outcome(o).is_verdict]
        return len(judged), judged.count(Outcome.PASSED.value)


def decode_judged(
    evaluate: Evaluate, prompts: PromptSet, sampler: SamplerConfig, samples: int, seed: int
) -> list[Decoded]:
    """Completions of problems with tests, by `Cluster.evaluate`."""
    found = []
    for scored in evaluate(prompts, sampler, samples, seed, None):
        group = scored.group
        found.append(
            Decoded(
                group.problem_id,
                _orders(scored),
                tuple(verdict.outcome.value for verdict in scored.verdicts),
                group.texts,
                int(group.tokens_GC.size),
                (group.metrics or {}).get("seconds"),
            )
        )
    return found


def decode_word_problems(
    policy: DiffusionPolicy,
    decode: Callable[[Sequence[int]], str],
    prompts: PromptSet,
    sampler: SamplerConfig,
    samples: int,
    seed: int,
    rows: int | None = None,
) -> list[Decoded]:
    """Completions of arithmetic word problems, sampled here; passed where the last "answer is N" names the result.

    Args:
        policy, decode: the model, and token ids to text.
        prompts: problems with `metadata["result"]`.
        rows: most completions per forward.
    """
    flat = [prompt.tolist() for prompt in prompts.prompts for _ in range(samples)]
    seeds = [derive_seed(seed, "evaluation", 0, i, 0, g) for i in range(len(prompts)) for g in range(samples)]
    completions = sample(policy, flat, sampler, seeds, microbatch_rows=rows)
    found = []
    for i, problem in enumerate(prompts.problems):
        mine = completions[i * samples : (i + 1) * samples]
        lengths = [answer_length(c.tokens, policy.token_ids.end) for c in mine]
        texts = tuple(decode(c.tokens[:length].tolist()) for c, length in zip(mine, lengths))
        right = [(ANSWER.findall(text) or [""])[-1] == str(problem.metadata["result"]) for text in texts]
        found.append(
            Decoded(
                problem.problem_id,
                tuple(tuple(reveal_order(c.tokens, c.reveal_step, policy.token_ids.end)) for c in mine),
                tuple((Outcome.PASSED if ok else Outcome.FAILED).value for ok in right),
                texts,
                sum(c.tokens.size for c in mine),
                None,
            )
        )
    return found


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

    Values are floats; an interval stands beside its mean as `<name>_low` and `<name>_high`.
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
    seconds = [d.seconds for d in decoded]
    if all(s is not None for s in seconds):
        row["tokens_per_second"] = sum(d.tokens for d in decoded) / max(sum(s for s in seconds if s), 1e-9)
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
    """The sampler at another temperature, and at another number of steps where one is given."""
    return dataclasses.replace(sampler, temperature=temperature, steps=steps or sampler.steps)
