"""Declared approximations of the decoder: faster, off by default, recorded on every trajectory.

* early stop: a row is done once no mask precedes its first committed end token; the tail gets the filler.
* blocks: the canvas is decoded block by block from the left, each with its share of the steps.
* prefix or dual cache: inside a block the keys and values outside it are those of the last full forward pass. `prefix`
  recomputes the block and everything to its right, `dual` the block alone (Fast-dLLM, arXiv 2505.22618).
* confidence threshold: besides the schedule's count, every position is revealed whose largest probability reaches it,
  at temperature 1 and without filters, so that it means the same with any of them.

How many tokens a step reveals depends on the data here, so the host synchronises at each step.

Shapes: B rows, A active rows, L prompt + canvas + suffix, C canvas, W width of a block, N masked positions of the block
in all active rows, R revealed tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from couplet.configs.schema import SamplerConfig
from couplet.model.policy import DiffusionPolicy
from couplet.model.randomness import seed_tensor, uniforms
from couplet.rollout.canvas import Canvas, Revealed
from couplet.rollout.draw import confidence, confidence_and_peak
from couplet.rollout.orders import ORDERS, most_confident
from couplet.rollout.schedule import random_reveal_steps, reveal_counts


@dataclass(frozen=True)
class Block:
    """Canvas positions [start, end), decoded in steps [first_step, first_step + steps)."""

    start: int
    end: int
    first_step: int
    steps: int


def blocks(config: SamplerConfig) -> list[Block]:
    """The canvas cut into blocks, the steps shared evenly; one block without `block_length`."""
    width = config.block_length or config.completion_length
    count = config.completion_length // width
    steps = config.steps // count
    return [Block(i * width, (i + 1) * width, i * steps, steps) for i in range(count)]


def approximate_steps(policy: DiffusionPolicy, canvas: Canvas, config: SamplerConfig) -> Iterator[tuple[int, Revealed]]:
    """What each step reveals; the caller draws and commits between two steps."""
    given_BC = canvas.given_BC.to(policy.device)
    active_B = torch.ones(len(canvas.seeds), dtype=torch.bool, device=policy.device)
    for block in blocks(config):
        states = BlockStates(policy, canvas, block, config)
        plan_BW = _random_plan(canvas, config, block)
        for step in range(block.first_step, block.first_step + block.steps):
            open_BW = active_B.unsqueeze(1) & (canvas.reveal_step_BC < 0)[:, block.start : block.end]
            open_BW &= ~given_BC[:, block.start : block.end]
            reveal = _Reveal(policy, canvas, config, block, step, open_BW, states)
            revealed = reveal.ranked() if plan_BW is None else reveal.planned(plan_BW)
            if revealed is None:
                continue
            yield step, revealed
            if config.early_stop:
                active_B &= ~_finish(policy, canvas)


class BlockStates:
    """Hidden states for the masked positions of a block, from full forward passes or from cached keys and values."""

    def __init__(self, policy: DiffusionPolicy, canvas: Canvas, block: Block, config: SamplerConfig) -> None:
        self._policy = policy
        self._canvas = canvas
        self.cached = config.cache != "none"
        self._refresh = config.cache_refresh
        length = canvas.tokens_BL.shape[1]
        first = int(policy.source_rows(torch.tensor([canvas.prompt_length + block.start]), None, length))
        last = canvas.prompt_length + block.end if config.cache == "dual" else length
        self._window = slice(first, last)
        self._passes = 0
        self._cache = KeyValues()

    def at(self, row_N: Tensor, position_N: Tensor) -> Tensor:
        """Hidden states [N, H] that predict the tokens at canvas positions of rows of the batch."""
        length = self._canvas.tokens_BL.shape[1]
        source_N = self._policy.source_rows(row_N * length + self._canvas.prompt_length + position_N, None, length)
        hidden_BWH, first = self._forward(row_N)
        return hidden_BWH[self._slot_B[source_N // length], source_N % length - first]

    def _forward(self, row_N: Tensor) -> tuple[Tensor, int]:
        """Unshifted states and the position of their first column."""
        due = self._passes == 0 if self._refresh is None else self._passes % self._refresh == 0
        self._passes += 1
        if due or not self.cached:
            self._rows_A = row_N.unique()
            self._slot_B = torch.zeros(len(self._canvas.seeds), dtype=torch.int64, device=row_N.device)
            self._slot_B[self._rows_A] = torch.arange(len(self._rows_A), device=row_N.device)
            self._cache.window = None
            cache = self._cache if self.cached else None
            return self._policy.model(self._canvas.tokens_BL[self._rows_A], cache=cache), 0
        self._cache.window = self._window
        first, last = self._window.start, self._window.stop
        positions_1W = torch.arange(first, last, device=row_N.device).unsqueeze(0)
        tokens_AW = self._canvas.tokens_BL[self._rows_A, first:last]
        return self._policy.model(tokens_AW, cache=self._cache, positions_BL=positions_1W), first


class KeyValues:
    """Keys and values of all layers; a forward over `window` replaces its part and attends to all of them."""

    def __init__(self) -> None:
        self.window: slice | None = None
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Called by each attention layer with [rows, heads, columns, head size]."""
        if self.window is None:
            self._layers[layer] = (keys, values)
            return keys, values
        all_keys, all_values = self._layers[layer]
        all_keys[:, :, self.window] = keys
        all_values[:, :, self.window] = values
        return all_keys, all_values


@dataclass(frozen=True)
class _Reveal:
    """The choice of one step inside a block."""

    policy: DiffusionPolicy
    canvas: Canvas
    config: SamplerConfig
    block: Block
    step: int
    open_BW: Tensor
    states: BlockStates

    def planned(self, plan_BW: Tensor) -> Revealed | None:
        """Order "origin": the step was drawn in advance."""
        chosen_BW = self.open_BW & (plan_BW == self.step)
        # A cache is given every open row at every step, so that its age and content do not depend on other rows.
        row_N, column_N = (self.open_BW if self.states.cached else chosen_BW).nonzero(as_tuple=True)
        if len(row_N) == 0:
            return None
        position_N = column_N + self.block.start
        hidden_NH = self.states.at(row_N, position_N)
        chosen_N = chosen_BW[row_N, column_N]
        return Revealed(row_N[chosen_N], position_N[chosen_N], hidden_NH[chosen_N]) if bool(chosen_N.any()) else None

    def ranked(self) -> Revealed | None:
        """The schedule's count of most confident positions, and those beyond the threshold."""
        opened = self.canvas.open_Un[0]
        inside = int(((opened >= self.block.start) & (opened < self.block.end)).sum())
        counts = reveal_counts(inside, self.block.steps, self.config.eps, self.config.schedule)
        count = counts[self.step - self.block.first_step]
        threshold = self.config.confidence_threshold
        row_N, column_N = self.open_BW.nonzero(as_tuple=True)
        if len(row_N) == 0 or (count == 0 and threshold is None):
            return None
        position_N = column_N + self.block.start
        hidden_NH = self.states.at(row_N, position_N)
        if self.step == self.block.first_step + self.block.steps - 1:
            return Revealed(row_N, position_N, hidden_NH)
        confidence_N, sure_N = self._measure(row_N, position_N, hidden_NH)
        confidence_BW = torch.full(self.open_BW.shape, float("-inf"), device=row_N.device)
        confidence_BW[row_N, column_N] = confidence_N
        columns_W = torch.arange(self.block.start, self.block.end, device=row_N.device)
        noise_BW = uniforms(self.canvas.seeds_B, "order", self.step, columns_W) if self.config.alg_temp else None
        chosen_Bk = most_confident(confidence_BW, count, noise_BW, self.config.alg_temp)
        chosen_N = torch.zeros_like(self.open_BW).scatter_(1, chosen_Bk, True)[row_N, column_N]
        if sure_N is not None:
            chosen_N |= sure_N
        if not bool(chosen_N.any()):
            return None
        return Revealed(row_N[chosen_N], position_N[chosen_N], hidden_NH[chosen_N])

    def _measure(self, row_N: Tensor, position_N: Tensor, hidden_NH: Tensor) -> tuple[Tensor, Tensor | None]:
        """The order's confidence [N], and whether the threshold, if there is one, is reached."""
        order, threshold = ORDERS[self.config.order], self.config.confidence_threshold
        assert order.confidence is not None
        seeds_N = self.canvas.seeds_B[row_N]
        u_N = uniforms(seeds_N, "token", self.step, position_N.unsqueeze(1)).squeeze(1) if order.needs_draw else None
        if threshold is None:
            return confidence(self.policy, self.config, order.confidence, hidden_NH, u_N), None
        measured_N, peak_N = confidence_and_peak(self.policy, self.config, order.confidence, hidden_NH, u_N)
        return measured_N, peak_N >= threshold


def _random_plan(canvas: Canvas, config: SamplerConfig, block: Block) -> Tensor | None:
    """Order "origin": the step of each position of the block, [B, W]."""
    if ORDERS[config.order].confidence is not None:
        return None
    plan_BC = random_reveal_steps(seed_tensor(tuple(canvas.seeds)), config.completion_length, block.steps, config.eps)
    return (plan_BC[:, block.start : block.end] + block.first_step).to(canvas.tokens_BL.device)


def _finish(policy: DiffusionPolicy, canvas: Canvas) -> Tensor:
    """Rows [B] whose answer is complete; masks after their end token become filler."""
    tokens_BC = canvas.completion_BC
    masked_BC = tokens_BC == policy.token_ids.mask
    ends_BC = torch.isin(tokens_BC, torch.tensor(policy.token_ids.end, device=tokens_BC.device))
    first_end_B = torch.where(ends_BC.any(1), ends_BC.to(torch.uint8).argmax(1), -1)
    first_mask_B = torch.where(masked_BC.any(1), masked_BC.to(torch.uint8).argmax(1), tokens_BC.shape[1])
    done_B = first_end_B > -1
    done_B &= first_mask_B > first_end_B
    tokens_BC.masked_fill_(masked_BC & done_B.unsqueeze(1), policy.token_ids.filler)
    return done_B
