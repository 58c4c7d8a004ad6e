"""The rollout worker: requests in, prompt groups out, all of a group by one version of the weights.

Shapes: G completions per group, C canvas positions, J draws of masks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from couplet.configs.schema import EstimatorConfig, SamplerConfig
from couplet.data.seeds import mask_seed
from couplet.data.trajectory import PromptGroup, RolloutRequest, answer_length, answer_tokens
from couplet.model.likelihood import GroupTokens, batch_bounds
from couplet.model.policy import DiffusionPolicy
from couplet.model.weights import Manifest, unpack_into
from couplet.rollout.ar_ness import global_ar_ness, local_ar_ness, order_entropy, reveal_order
from couplet.rollout.sampler import Completion, approximations, sample


class RolloutWorker:
    """A policy that serves rollout requests and swaps its weights between them.

    Attributes:
        version: learner steps that produced its weights.
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        decode: Callable[[Sequence[int]], str],
        sampler: SamplerConfig,
        estimator: EstimatorConfig,
        mask_draws: int = 1,
        estimate_behaviour: bool = False,
        microbatch_rows: int | None = None,
        ar_ness_k: int = 1,
        draw: Callable[..., list[Completion]] = sample,
    ) -> None:
        """
        Args:
            policy: the model; used in evaluation mode.
            decode: token ids → text without special tokens.
            sampler: how to decode, unless a call overrides it.
            estimator: how behaviour log-probabilities are estimated.
            mask_draws: how many draws of masks to estimate them for.
            estimate_behaviour: whether groups carry behaviour log-probabilities.
            microbatch_rows: most rows per forward pass; a behaviour estimate has at least those of one completion.
            ar_ness_k: the k of the AR-ness metrics.
            draw: the decoder, called as `sample`.
        """
        self.version = 0
        self._policy = policy.eval()
        self._decode = decode
        self._sampler = sampler
        self._estimator = estimator
        self._mask_draws = mask_draws
        self._estimate_behaviour = estimate_behaviour
        self._microbatch_rows = microbatch_rows
        self._ar_ness_k = ar_ness_k
        self._draw = draw

    def load_weights(self, manifest: Manifest, buckets: Sequence[np.ndarray], verify: bool = True) -> int:
        """Copy packed weights in and return their version.

        Raises:
            WeightsError: they do not fit or arrived damaged; weights and version are unchanged.
        """
        unpack_into(self._policy, manifest, buckets, verify)
        self.version = manifest.version
        return self.version

    def generate(self, requests: Sequence[RolloutRequest], sampler: SamplerConfig | None = None) -> list[PromptGroup]:
        """One group per request, decoded together.

        Args:
            requests: what to generate; prompts of any length.
            sampler: decode by these options instead; such groups (an evaluation) carry no behaviour estimate.

        Raises:
            ValueError: a prompt that the sampler rejects.
        """
        config = sampler or self._sampler
        prompts = [request.prompt_tokens.tolist() for request in requests for _ in request.seeds_G]
        seeds = [seed for request in requests for seed in request.seeds_G]
        started = time.perf_counter()
        suffixes = [request.suffix_tokens.tolist() for request in requests for _ in request.seeds_G]
        rows = self._microbatch_rows
        completions = self._draw(self._policy, prompts, config, seeds, suffixes=suffixes, microbatch_rows=rows)
        share = (time.perf_counter() - started) / max(len(completions), 1)
        groups = []
        for request in requests:
            mine, completions = completions[: len(request.seeds_G)], completions[len(request.seeds_G) :]
            groups.append(self._group(request, mine, config, share * len(mine), trained=sampler is None))
        return groups

    def _group(
        self,
        request: RolloutRequest,
        completions: Sequence[Completion],
        config: SamplerConfig,
        seconds: float,
        trained: bool,
    ) -> PromptGroup:
        tokens_GC = np.stack([completion.tokens for completion in completions])
        reveal_step_GC = np.stack([completion.reveal_step for completion in completions])
        lengths_G = [answer_length(tokens_C, self._policy.token_ids.end) for tokens_C in tokens_GC]
        answer_GC = np.arange(tokens_GC.shape[1]) < np.array(lengths_G)[:, None]
        whole = trained and self._estimator.tokens == "canvas"
        loss_mask_GC = answer_GC | (reveal_step_GC >= 0) if whole else answer_GC
        started = time.perf_counter()
        behaviour_GJC = (
            self._behaviour(request, (tokens_GC, loss_mask_GC, reveal_step_GC), config.temperature)
            if trained and self._estimate_behaviour
            else None
        )
        metrics = self._metrics(completions, answer_GC, seconds)
        metrics["seconds"] = seconds + time.perf_counter() - started
        return PromptGroup(
            group_id=request.group_id,
            attempt=request.attempt,
            version=self.version,
            problem_id=request.problem_id,
            prompt_tokens=request.prompt_tokens,
            tokens_GC=tokens_GC,
            reveal_step_GC=reveal_step_GC,
            loss_mask_GC=loss_mask_GC,
            texts=tuple(request.answer_prefix + self._text(tokens_C) for tokens_C in tokens_GC),
            seeds_G=request.seeds_G,
            group_seed=request.group_seed,
            behaviour_GJC=behaviour_GJC,
            approximations=approximations(config),
            metrics=metrics,
            suffix_tokens=request.suffix_tokens,
        )

    @torch.inference_mode()
    def _behaviour(
        self, request: RolloutRequest, arrays: tuple[np.ndarray, np.ndarray, np.ndarray], temperature: float
    ) -> np.ndarray:
        """float32 [G, J, C] under the weights that sampled the group, J per bound of the estimator.

        `arrays`: tokens, loss mask, reveal steps.
        """
        draws = range(1, self._mask_draws + 1)
        views = max(1, self._estimator.views(arrays[0].shape[1]) * self._mask_draws)  # rows of one completion
        completions = len(request.seeds_G)
        size = max(1, self._microbatch_rows // views) if self._microbatch_rows else completions
        parts = []
        for some in (slice(first, first + size) for first in range(0, completions, size)):
            tokens, loss_mask, reveal_step = (array[None, some] for array in arrays)
            pad, device = self._policy.token_ids.pad, self._policy.device
            logp_KJPgC = batch_bounds(
                self._policy,
                GroupTokens.of(
                    [request.prompt_tokens], tokens, loss_mask, pad, device, reveal_step, [request.suffix_tokens]
                ),
                [[[mask_seed(seed, j) for seed in request.seeds_G[some]]] for j in draws],
                [[mask_seed(request.group_seed, j)] for j in draws],
                self._estimator,
                temperature,
            )
            parts.append(logp_KJPgC[:, :, 0].flatten(0, 1).transpose(0, 1).float().cpu().numpy())
        return np.concatenate(parts)

    def _text(self, tokens_C: np.ndarray) -> str:
        return self._decode(answer_tokens(tokens_C, self._policy.token_ids.end))

    def _metrics(self, completions: Sequence[Completion], loss_mask_GC: np.ndarray, seconds: float) -> dict[str, float]:
        """Entropies (nats) of drawn tokens and of the order, AR-ness, tokens per second of the whole canvas."""
        end, k = self._policy.token_ids.end, self._ar_ness_k
        orders = [reveal_order(c.tokens, c.reveal_step, end) for c in completions]
        entropy_GC = np.stack([c.entropy for c in completions])
        return {
            "draw_entropy": float(entropy_GC[loss_mask_GC].mean()),
            "local_ar_ness": float(np.mean([local_ar_ness(order, k) for order in orders])),
            "global_ar_ness": float(np.mean([global_ar_ness(order, k) for order in orders])),
            "order_entropy": order_entropy(orders),
            "answer_end_share": float(np.mean([bool(np.isin(c.tokens, end).any()) for c in completions])),
            "sampler_tokens_per_second": loss_mask_GC.size / max(seconds, 1e-9),
        }
