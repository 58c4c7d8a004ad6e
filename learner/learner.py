"""The learner: one step is mu optimiser updates over a batch of scored groups (coupled-GRPO, arXiv 2506.20639).

All old and reference log-probabilities, for the masks of every inner update, are computed under the weights before the
first update. What is not covered: where groups come from and how weights travel.

Shapes: P groups, G completions per group, C canvas positions, J draws of masks (one per inner update, or one).
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from couplet.configs.schema import EstimatorConfig, ObjectiveConfig
from couplet.data.trajectory import ScoredGroup
from couplet.learner.batch import MicroBatch, StepBatch, shard, step_batch
from couplet.learner.checkpoint import CheckpointError
from couplet.learner.engine import Engine
from couplet.learner.loss import LEVELS, TokenLoss, grpo_loss, largest_shares, stale_weight
from couplet.learner.reference import Reference
from couplet.model.likelihood import batch_logprobs
from couplet.model.weights import Manifest, pack


class Learner:
    """One rank of the learner. Every rank receives the same groups and trains its share of them.

    Attributes:
        version: learner steps done; the version of the current weights.
    """

    def __init__(
        self,
        engine: Engine,
        policy: Any,
        objective: ObjectiveConfig,
        estimator: EstimatorConfig,
        rank: int = 0,
        ranks: int = 1,
        temperature: float = 1.0,
    ) -> None:
        """Args: `policy` is the module inside `engine`; `temperature` the sampler's, for `match_temperature`."""
        if (engine.rank, engine.ranks) != (rank, ranks):
            raise ValueError(f"engine is rank {engine.rank} of {engine.ranks}, learner {rank} of {ranks}")
        self._engine, self._policy = engine, policy
        self._objective, self._estimator, self._temperature = objective, estimator, temperature
        self._rank, self._ranks = rank, ranks
        self._reference = Reference(engine) if objective.kl_weight > 0 else None
        self.version = 0

    @property
    def policy(self) -> Any:
        """The policy that is trained."""
        return self._policy

    def learn(self, groups: Sequence[ScoredGroup]) -> dict[str, float]:
        """One learner step over `groups` (all of them, on every rank); returns metrics. Collective.

        A step whose groups are all without signal makes no update but counts as a step.

        Raises:
            ValueError: groups that are newer than the weights, or stale ones without behaviour log-probabilities.
        """
        start = time.perf_counter()
        batch = step_batch(groups, self._objective)
        self._check_versions(batch)
        learner = self._engine.config
        micro = shard(
            batch,
            self._objective,
            self._policy.token_ids.pad,
            self._rank,
            self._ranks,
            learner.micro_groups,
            learner.micro_completions,
            self._engine.device,
            self._estimator.bounds,
        )
        metrics = batch.metrics | {"lr": self._engine.learning_rate}
        updates_before = self._engine.updates
        metrics |= self._update(batch, micro) if micro else _no_update()
        self._follow(updates_before)
        self.version += 1
        cost = torch.tensor([[time.perf_counter() - start, _peak_memory_mb(self._engine.device)]])
        seconds, peak_memory_mb = self._engine.gather(cost).amax(dim=0).tolist()
        return metrics | {
            "updates": float(self._engine.updates),
            "learn_seconds": seconds,
            "trained_tokens_per_second": batch.tokens * self._objective.inner_updates / seconds,
            "peak_memory_mb": peak_memory_mb,
        }

    def weights(self, bucket_bytes: int = 256 * 2**20) -> tuple[Manifest, list[np.ndarray]] | None:
        """The current weights, packed for the rollout workers, on rank 0; None elsewhere. Collective."""
        weights = self._gathered()
        return pack(weights.items(), self.version, bucket_bytes) if self._rank == 0 else None

    def save(self, folder: Path) -> None:
        """Write engine, reference, counters and the policy as a Hugging Face folder into `folder`. Collective."""
        folder.mkdir(parents=True, exist_ok=True)
        self._engine.save(folder / "engine")
        weights = self._gathered(frozen=True)
        reference = self._reference.state() if self._reference else {}
        if self._rank == 0:
            self._policy.save_pretrained(folder / "policy", state=weights)
            if self._policy.adapter is not None:
                self._policy.save_adapter(folder / "adapter", weights)
            if reference:
                save_file(reference, str(folder / "reference.safetensors"))
            (folder / "learner.json").write_text(json.dumps({"version": self.version}))

    def restore(self, folder: Path) -> None:
        """Load what `save` wrote. Collective."""
        path = folder / "learner.json"
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist: {folder} is not a learner checkpoint")
        self._engine.restore(folder / "engine")
        if self._reference:
            stored = folder / "reference.safetensors"
            if not stored.is_file():
                raise CheckpointError(
                    f"{stored} does not exist: the checkpoint was written with objective.kl_weight = 0"
                )
            self._reference.load_state(load_file(str(stored)))
        self.version = json.loads(path.read_text())["version"]

    def _gathered(self, frozen: bool = False) -> dict[str, Tensor]:
        """The trained weights, or also the frozen ones, on the CPU of rank 0, empty elsewhere. Collective."""
        return {name: tensor.cpu() for name, tensor in self._engine.named_weights(frozen) if self._rank == 0}

    def _check_versions(self, batch: StepBatch) -> None:
        needed = self._objective.ratio != "current"
        without = [scored.group for scored in batch.groups if scored.group.behaviour_GJC is None]
        for scored in batch.groups:
            if scored.group.version > self.version:
                raise ValueError(
                    f"group {scored.group.group_id} was sampled by version {scored.group.version}, "
                    f"the learner is at {self.version}: restore learner and queue from one checkpoint"
                )
        stale = [scored.group for scored in batch.groups if scored.group.version < self.version]
        if needed and without and (stale or len(without) < len(batch.groups)):
            raise ValueError(
                f"group {without[0].group_id} has no behaviour log-probabilities, which objective.ratio = "
                f"{self._objective.ratio!r} needs for stale groups: have the rollout workers estimate them"
            )

    def _update(self, batch: StepBatch, micro: list[MicroBatch]) -> dict[str, float]:
        own = self._own_logprobs(batch, micro)
        reference = self._reference_logprobs(micro)
        rows: list[Tensor] = []
        contributions: list[Tensor] = []  # of each inner update, [completions, C]
        losses: list[Tensor] = []
        norms: list[float] = []
        for update in range(self._objective.inner_updates):
            total = torch.zeros((), device=self._engine.device)
            parts: list[Tensor] = []
            for index, part in enumerate(micro):
                draw = self._draw(update)
                new_PGC = self._logprobs(part, slice(draw, draw + 1))[0]
                if update == 0 and not self._objective.fresh_masks:
                    own[index] = new_PGC.detach()[None]  # the old ones of every later update
                result = self._loss(part, update, new_PGC, own[index], reference[index])
                (contribution_PGC,) = torch.autograd.grad(result.loss, new_PGC, retain_graph=True)
                parts.append(contribution_PGC.flatten(0, 1))
                self._engine.backward(result.loss, last=index == len(micro) - 1)
                total += result.loss.detach()
                counted = part.weights_PGC > 0
                rows.append(torch.stack([values[counted].float() for values in result[1:]], dim=1))
            losses.append(total)
            contributions.append(torch.cat(parts))
            norms.append(self._engine.step())
        # One row per loss token and inner update: ratio, clipped, KL.
        tokens = self._engine.gather(torch.cat(rows))
        every_NJC = self._engine.gather(torch.stack(contributions, dim=1))
        shares = [largest_shares(update_NC) for update_NC in every_NJC.unbind(dim=1)]
        losses_J = self._engine.gather(torch.stack(losses)[None]).sum(dim=0)
        return _token_metrics(tokens) | _update_metrics(losses_J.tolist(), norms) | _share_metrics(shares)

    def _draw(self, update: int) -> int:
        """Which draw of masks an inner update uses."""
        return min(update, self._objective.mask_draws - 1)

    def _logprobs(self, part: MicroBatch, updates: slice) -> Tensor:
        return batch_logprobs(
            self._engine.module,
            part.tokens,
            part.seeds_JPG[updates],
            part.group_seeds_JP[updates],
            self._estimator,
            self._temperature,
        )

    @torch.no_grad()
    def _own_logprobs(self, batch: StepBatch, micro: list[MicroBatch]) -> list[Tensor | None]:
        """Old log-probabilities of inner updates 2..mu under the current weights, if the objective uses them."""
        behaves = self._objective.ratio == "behaviour" and batch.groups[0].group.behaviour_GJC is not None
        if self._objective.mask_draws == 1 or behaves:
            return [None] * len(micro)
        return [self._logprobs(part, slice(1, None)) for part in micro]

    @torch.no_grad()
    def _reference_logprobs(self, micro: list[MicroBatch]) -> list[Tensor | None]:
        if self._reference is None:
            return [None] * len(micro)
        with self._reference.in_place():
            return [self._logprobs(part, slice(None)) for part in micro]

    def _loss(
        self, part: MicroBatch, update: int, new_PGC: Tensor, own: Tensor | None, reference: Tensor | None
    ) -> TokenLoss:
        old_PGC = self._old(part, update, new_PGC, own)
        stale_PGC = None
        if self._objective.ratio == "proximal" and part.behaviour_JPGC is not None:
            stale_PGC = self._stale_weight(part, old_PGC, part.behaviour_JPGC[self._draw(update)])
        return grpo_loss(
            new_PGC,
            old_PGC,
            part.advantages_PG,
            part.weights_PGC,
            self._objective,
            None if reference is None else reference[self._draw(update)],
            stale_PGC,
        )

    def _stale_weight(self, part: MicroBatch, old_PGC: Tensor, behaviour_PGC: Tensor) -> Tensor:
        """Importance weights of the surrogates; exactly 1 for groups of the current version."""
        objective, mask_PGC = self._objective, part.weights_PGC > 0
        at_level = LEVELS[objective.ratio_level]
        weight_PGC = stale_weight(
            at_level(old_PGC, mask_PGC),
            at_level(behaviour_PGC, mask_PGC),
            objective.proximal_outside,
            objective.proximal_floor,
            objective.proximal_cap,
        )
        return torch.where((part.version_P == self.version)[:, None, None], 1.0, weight_PGC)

    def _old(self, part: MicroBatch, update: int, new_PGC: Tensor, own: Tensor | None) -> Tensor:
        """Old log-probabilities. At the first inner update the learner's are `new` itself: the weights have not moved."""
        if self._objective.ratio == "behaviour" and part.behaviour_JPGC is not None:
            behaviour_PGC = part.behaviour_JPGC[self._draw(update)]
            if update > 0:
                return behaviour_PGC
            same_P11 = (part.version_P == self.version)[:, None, None]
            return torch.where(same_P11, new_PGC.detach(), behaviour_PGC)
        return new_PGC.detach() if own is None or update == 0 else own[min(update, len(own)) - 1]

    def _follow(self, updates_before: int) -> None:
        """Move the reference once per `reference_every` updates, counted over steps, never inside a step."""
        if self._reference is not None:
            every = self._objective.reference_every
            for _ in range(self._engine.updates // every - updates_before // every):
                self._reference.follow(self._objective.reference_alpha)


def _token_metrics(tokens_N3: Tensor) -> dict[str, float]:
    ratio_N, clipped_N, kl_N = tokens_N3.unbind(dim=1)
    return {
        "ratio_mean": float(ratio_N.mean()),
        "ratio_max": float(ratio_N.max()),
        "clip_share": float(clipped_N.mean()),
        "kl_mean": float(kl_N.mean()),
        "kl_median": float(kl_N.median()),
        "kl_max": float(kl_N.max()),
    }


def _update_metrics(losses_J: list[float], norms: list[float]) -> dict[str, float]:
    metrics = {
        "loss": sum(losses_J) / len(losses_J),
        "grad_norm": sum(norms) / len(norms),
        "grad_norm_max": max(norms),
        "skipped_updates": 0.0,
    }
    return metrics | {f"loss_inner_{update}": loss for update, loss in enumerate(losses_J, start=1)}


def _share_metrics(shares_J: list[tuple[float, float]]) -> dict[str, float]:
    tokens, completions = zip(*shares_J)
    return {"token_share_max": max(tokens), "completion_share_max": max(completions)}


def _no_update() -> dict[str, float]:
    nothing = torch.tensor([[1.0, 0.0, 0.0]])
    metrics = _token_metrics(nothing) | _update_metrics([0.0], [0.0]) | _share_metrics([(0.0, 0.0)])
    return metrics | {"skipped_updates": 1.0}


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
