"""Objectives of the supervised stages: from a corpus batch to inputs, targets and loss weights.

Diffusion stages minimise, per batch, the sum over masked tokens of cross-entropy / t, divided by the number of
*maskable* tokens (not of masked ones), with t ~ U(t_min, 1] per sequence: an unbiased estimate of the negative ELBO
per token (arXiv 2506.20639, section 3; Shi et al., arXiv 2406.04329). The autoregressive objective is the usual mean
cross-entropy under a causal mask. Every draw is a hash of (seed, step, row, position).

What is not covered: the first token of a packed document is never predicted, because the logit shift would read it
from the document before.

Shapes: B rows, L length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from couplet.configs.schema import StageConfig
from couplet.data.seeds import derive_seed
from couplet.model.randomness import seed_tensor, uniforms


@dataclass(frozen=True)
class Supervised:
    """Inputs of one forward pass, and the weight of each token's cross-entropy in the loss (0 = not predicted)."""

    tokens_BL: Tensor
    attention_BL: Tensor | None
    visible_BLL: Tensor | None
    targets_BL: Tensor
    weight_BL: Tensor

    def rows(self, index: Tensor, scale: float = 1.0) -> Supervised:
        """Some rows, their weights times `scale`."""
        return Supervised(
            self.tokens_BL[index],
            None if self.attention_BL is None else self.attention_BL[index],
            None if self.visible_BLL is None else self.visible_BLL[index],
            self.targets_BL[index],
            self.weight_BL[index] * scale,
        )

    def to(self, device: torch.device) -> Supervised:
        """The same on another device."""
        return Supervised(
            self.tokens_BL.to(device),
            None if self.attention_BL is None else self.attention_BL.to(device),
            None if self.visible_BLL is None else self.visible_BLL.to(device),
            self.targets_BL.to(device),
            self.weight_BL.to(device),
        )


def diffusion_times(seed: int, step: int, rows: int, t_min: float, stratified: bool = False) -> Tensor:
    """t of each row of batch `step`, in (t_min, 1]: float32 [B].

    Stratified: one draw for the batch, the rows spread evenly over the range from there (low discrepancy); each row
    alone is still uniform.
    """
    u_B = uniforms(seed_tensor((seed,)), "corpus_ratio", step, torch.arange(rows))[0]
    if stratified:
        u_B = (u_B[0] + torch.arange(rows) / rows) % 1.0
    return 1.0 - (1.0 - t_min) * u_B


def corrupted(maskable_BL: Tensor, t_B: Tensor, seed: int, step: int) -> Tensor:
    """bool [B, L]: each maskable token with probability t of its row."""
    rows, length = maskable_BL.shape
    u = uniforms(seed_tensor((seed,)), "corpus_mask", step, torch.arange(rows * length))
    return maskable_BL & (u.reshape(rows, length) < t_B[:, None])


def causal(length: int) -> Tensor:
    """bool [L, L], query × key: each position sees itself and what is before it."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def annealed(length: int, seed: int, step: int, anneal_steps: int) -> Tensor | None:
    """Visibility [L, L] on the way from causal to full attention; None once everything is visible.

    Each position sees each later one with probability step / anneal_steps, redrawn at every step (Gong et al., arXiv
    2410.17891).
    """
    if step >= anneal_steps:
        return None
    u = uniforms(seed_tensor((derive_seed(seed, "anneal"),)), "corpus_mask", step, torch.arange(length * length))
    return causal(length) | (u.reshape(length, length) < step / anneal_steps)


def document_starts(document_BL: Tensor) -> Tensor:
    """bool [B, L]: the first token of each document of a packed row, the row's first token included."""
    starts_BL = torch.ones_like(document_BL, dtype=torch.bool)
    starts_BL[:, 1:] = document_BL[:, 1:] != document_BL[:, :-1]
    return starts_BL


def autoregressive(batch: Any, stage: StageConfig, seed: int, step: int, mask_id: int) -> Supervised:
    """Next-token prediction inside each document of a packed batch."""
    tokens_BL, document_BL = _packed(batch)
    predicted_BL = (document_BL >= 0) & ~document_starts(document_BL)
    visible_BLL = _within_documents(document_BL, causal(tokens_BL.shape[1]))
    return Supervised(tokens_BL, None, visible_BLL, tokens_BL, predicted_BL / predicted_BL.sum().clamp(min=1))


def pretrain(batch: Any, stage: StageConfig, seed: int, step: int, mask_id: int) -> Supervised:
    """Diffusion over every token of a packed batch, attention optionally annealed from causal to full."""
    tokens_BL, document_BL = _packed(batch)
    starts_BL = document_starts(document_BL)
    starts_BL[:, 0] = False  # read from its own row, so it can be predicted
    seen = annealed(tokens_BL.shape[1], seed, step, stage.anneal_steps)
    visible_BLL = _within_documents(document_BL, seen)
    maskable_BL = (document_BL >= 0) & ~starts_BL
    return _diffusion(tokens_BL, maskable_BL, None, visible_BLL, stage, seed, step, mask_id)


def instruct(batch: Any, stage: StageConfig, seed: int, step: int, mask_id: int) -> Supervised:
    """Diffusion over the answer with its filler; the prompt is always visible."""
    attention_BL = _bool(batch.attention_BL)
    return _diffusion(
        _ids(batch.tokens_BL),
        _bool(batch.answer_BL),
        None if bool(attention_BL.all()) else attention_BL,
        None,
        stage,
        seed,
        step,
        mask_id,
    )


OBJECTIVES: dict[str, Callable[[Any, StageConfig, int, int, int], Supervised]] = {
    "autoregressive": autoregressive,
    "pretrain": pretrain,
    "instruct": instruct,
}


def _diffusion(
    tokens_BL: Tensor,
    maskable_BL: Tensor,
    attention_BL: Tensor | None,
    visible_BLL: Tensor | None,
    stage: StageConfig,
    seed: int,
    step: int,
    mask_id: int,
) -> Supervised:
    t_B = diffusion_times(seed, step, len(tokens_BL), stage.t_min, stage.stratified_t)
    masked_BL = corrupted(maskable_BL, t_B, seed, step)
    weight_BL = masked_BL / (t_B[:, None] * maskable_BL.sum().clamp(min=1))
    return Supervised(tokens_BL.masked_fill(masked_BL, mask_id), attention_BL, visible_BLL, tokens_BL, weight_BL)


def _within_documents(document_BL: Tensor, visible_LL: Tensor | None) -> Tensor | None:
    one_document = bool((document_BL == document_BL[:, :1]).all())
    if one_document and visible_LL is None:
        return None
    if one_document:
        assert visible_LL is not None
        return visible_LL.expand(len(document_BL), -1, -1)
    same_BLL = document_BL[:, :, None] == document_BL[:, None, :]
    return same_BLL if visible_LL is None else same_BLL & visible_LL


def _packed(batch: Any) -> tuple[Tensor, Tensor]:
    return _ids(batch.tokens_BL), _ids(batch.document_BL)


def _ids(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.int64))


def _bool(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=bool))
