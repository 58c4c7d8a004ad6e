"""The supervised stages that lead to a diffusion policy, through the same engine as reinforcement learning.

Stage 0 is autoregressive pre-training, stage 1 adaptation, stage 2 mid-training (both diffusion over packed text) and
stage 3 instruction tuning; the loss of each is in `learner.supervised`. The caller provides the batches: an iterable
that starts at the engine's update count, so that a restored engine resumes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from couplet.configs.errors import UserError
from couplet.configs.schema import StageConfig
from couplet.data.seeds import derive_seed
from couplet.learner.engine import Engine
from couplet.learner.supervised import OBJECTIVES, Supervised
from couplet.model.cost import ModelSize

Progress = Callable[[int, dict[str, float]], None]
"""Called with (updates done, metrics) after every update."""

Row = tuple[int, dict[str, float]]
"""(updates done, metrics of the updates since the row before)."""

BEST = "best.safetensors"


@dataclass
class EarlyStop:
    """Stops a stage after `patience` validations in a row without a better loss; 0 never stops."""

    patience: int
    best: float = float("inf")
    waited: int = 0

    def update(self, loss: float) -> bool:
        """Record a validation loss; True if the stage should stop."""
        if loss < self.best:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        return self.stopped

    @property
    def stopped(self) -> bool:
        """Whether the stage should stop."""
        return self.patience > 0 and self.waited >= self.patience


class SupervisedLearner:
    """One rank of a supervised stage. Every rank receives the same batches and trains its rows of them."""

    def __init__(self, engine: Engine, policy: Any, stage: StageConfig, seed: int) -> None:
        """Args: `policy` is the module inside `engine`; `seed` decides diffusion times and masks."""
        if stage.objective == "autoregressive" and not policy.config.shift:
            raise UserError(
                f"stages.{stage.name}.objective = 'autoregressive': a model of family {policy.config.family} predicts each "
                "token from its own position, so it cannot predict the next one; use pretrain or instruct"
            )
        self._engine, self._policy, self._stage = engine, policy, stage
        self._validation_stage = stage.replace(anneal_steps=0)
        self._seed = derive_seed(seed, "stage")
        self._validation_seed = derive_seed(seed, "validation")
        self._objective = OBJECTIVES[stage.objective]
        self.early_stop = EarlyStop(stage.patience)
        self._best: dict[str, Tensor] = {}  # weights of the best validation, on rank 0 of a stage that may stop early

    @property
    def updates(self) -> int:
        """Optimiser updates done in this stage."""
        return self._engine.updates

    def learn(self, batch: Any) -> dict[str, float]:
        """One update on a `PackedBatch` or `InstructBatch`; returns metrics. Collective."""
        start = time.perf_counter()
        metrics = {"lr": self._engine.learning_rate}
        whole = self._objective(batch, self._stage, self._seed, self._engine.updates, self._policy.token_ids.mask)
        parts = self._parts(whole)
        total = torch.zeros((), device=self._engine.device)
        for index, part in enumerate(parts):
            loss = self._loss(part)
            self._engine.backward(loss, last=index == len(parts) - 1)
            total += loss.detach()
        grad_norm = self._engine.step()
        loss_sum = float(self._engine.gather(total.reshape(1, 1)).sum())
        seconds = time.perf_counter() - start
        rows, length = whole.tokens_BL.shape
        flops = ModelSize.of(self._policy.config).training_flops(rows, length, int((whole.weight_BL > 0).sum()))
        return metrics | {
            "loss": loss_sum,
            "grad_norm": grad_norm,
            "tokens": float(rows * length),
            "step_seconds": seconds,
            "tokens_per_second": rows * length / seconds,
            "model_flops_per_second": flops / seconds,
        }

    @torch.no_grad()
    def validate(self, batches: Iterable[Any]) -> float:
        """Mean loss over `batches` with full attention, under masks that are the same at every call. Collective."""
        losses: list[Tensor] = []
        for index, batch in enumerate(batches):
            seed, mask = self._validation_seed, self._policy.token_ids.mask
            whole = self._objective(batch, self._validation_stage, seed, index, mask)
            losses.append(sum((self._loss(part) for part in self._parts(whole)), torch.zeros(())))
        if not losses:
            raise UserError(f"stages.{self._stage.name}: validation needs at least one batch")
        return float(self._engine.gather(torch.stack(losses)[None]).sum(dim=0).mean())

    def consider(self, loss: float) -> None:
        """Record the validation loss of the current weights, and keep them if they are the best so far. Collective."""
        best_before = self.early_stop.best
        self.early_stop.update(loss)
        if self._stage.patience > 0 and loss < best_before:
            self._best = self._weights()

    def save(self, folder: Path) -> None:
        """Write the engine, the policy as a Hugging Face folder, and the state of the early stop. Collective.

        A stage that stopped early has the policy of its best validation.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._engine.save(folder / "engine")
        weights = self._weights(frozen=True)
        if self._engine.rank == 0:
            chosen = weights | self._best if self.early_stop.stopped else weights
            self._policy.save_pretrained(folder / "policy", state=chosen)
            if self._policy.adapter is not None:
                self._policy.save_adapter(folder / "adapter", chosen)
            if self._best:
                save_file(self._best, folder / BEST)
            (folder / "stage.json").write_text(json.dumps({"early_stop": asdict(self.early_stop)}))

    def restore(self, folder: Path) -> None:
        """Load what `save` wrote. Collective."""
        path = folder / "stage.json"
        if not path.is_file():
            raise UserError(f"{path} does not exist: {folder} is not a checkpoint of a supervised stage")
        self._engine.restore(folder / "engine")
        self.early_stop = EarlyStop(**json.loads(path.read_text())["early_stop"])
        best = folder / BEST
        self._best = load_file(best) if best.is_file() and self._engine.rank == 0 else {}

    def _weights(self, frozen: bool = False) -> dict[str, Tensor]:
        """A copy of the trained weights, or also of the frozen ones, in host memory, on rank 0. Collective."""
        named = self._engine.named_weights(frozen)
        own = self._engine.rank == 0
        return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in named if own}

    def _loss(self, part: Supervised) -> Tensor:
        select_BL = part.weight_BL > 0
        if not bool(select_BL.any()):
            select_BL[0, 0] = True  # a part without masked tokens still runs every layer
        logp_N = self._engine.module(
            part.tokens_BL,
            part.attention_BL,
            part.visible_BLL,
            select_BL=select_BL,
            targets_BL=part.targets_BL,
        )
        return -(part.weight_BL[select_BL] * logp_N).sum()

    def _parts(self, whole: Supervised) -> list[Supervised]:
        """This rank's rows in micro-batches, as many on every rank: row 0 with zero weight fills up."""
        rows, rank, ranks = len(whole.tokens_BL), self._engine.rank, self._engine.ranks
        most = -(-rows // ranks)
        size = self._stage.micro_rows or most
        own = torch.arange(rank, rows, ranks)
        parts: list[Supervised] = []
        for start in range(0, most, size):
            index = own[start : start + size]
            part = whole.rows(index) if len(index) else whole.rows(torch.zeros(1, dtype=torch.int64), scale=0.0)
            parts.append(part.to(self._engine.device))
        return parts


def run_stage(
    learner: SupervisedLearner,
    stage: StageConfig,
    batches: Iterable[Any],
    validation: Sequence[Any] = (),
    progress: Progress | None = None,
    until: int | None = None,
) -> dict[str, float]:
    """Train for `stage.steps` updates or until the early stop; returns the last metrics.

    Args:
        batches: from the engine's update count on; may be endless.
        validation: batches of the fixed validation set, evaluated every `stage.validate_every` updates.
        until: return at this update count; a later call continues.

    Raises:
        ValueError: `batches` ends before the stage does.
    """
    metrics: dict[str, float] = {}
    source: Iterator[Any] = iter(batches)
    target = stage.steps if until is None else min(until, stage.steps)
    while learner.updates < target and not learner.early_stop.stopped:
        batch = next(source, None)
        if batch is None:
            raise UserError(
                f"stages.{stage.name}: the corpus ended after {learner.updates} of {stage.steps} updates; "
                "lower steps or give more text"
            )
        metrics = learner.learn(batch)
        if stage.validate_every and learner.updates % stage.validate_every == 0:
            metrics["validation_loss"] = learner.validate(validation)
            learner.consider(metrics["validation_loss"])
        if progress:
            progress(learner.updates, metrics)
    return metrics


def run_rows(
    learner: SupervisedLearner,
    stage: StageConfig,
    batches: Iterable[Any],
    validation: Sequence[Any] = (),
    until: int | None = None,
) -> list[Row]:
    """`run_stage` as rows for a log: one row per validation, and one at the end of the call."""
    rows: list[Row] = []
    since: list[dict[str, float]] = []

    def note(done: int, metrics: dict[str, float]) -> None:
        since.append(metrics)
        if "validation_loss" in metrics or done == target or learner.early_stop.stopped:
            rows.append((done, joined(since)))
            since.clear()

    target = stage.steps if until is None else min(until, stage.steps)
    run_stage(learner, stage, batches, validation, note, until)
    return rows


MEANS = ("loss", "grad_norm", "tokens", "step_seconds")
RATES = ("tokens_per_second", "model_flops_per_second")


def joined(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics of several updates as one row: means per update, rates over their time, else the last value."""
    seconds = sum(metrics["step_seconds"] for metrics in updates)
    means = {name: sum(metrics[name] for metrics in updates) / len(updates) for name in MEANS}
    rates = {name: sum(metrics[name] * metrics["step_seconds"] for metrics in updates) / seconds for name in RATES}
    return {**updates[-1], **means, **rates}


def fastest_threads(policy: Any, learner: SupervisedLearner, batch: Any) -> int:
    """1 or the number of cores, whichever evaluates `batch` faster now: cores may be shared with other work."""
    candidates = sorted({1, os.cpu_count() or 1})
    if len(candidates) == 1 or policy.device.type != "cpu":
        return candidates[0]
    seconds: dict[int, float] = {}
    for count in candidates:
        with threads(count):
            learner.validate([batch])
            start = time.perf_counter()
            learner.validate([batch] * 3)
            seconds[count] = time.perf_counter() - start
    return min(seconds, key=lambda count: seconds[count])


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch computes with `count` threads inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
