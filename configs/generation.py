"""How completions are generated: the diffusion decoder, the rollout actors and the weights they receive."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from couplet.configs.section import Rule, Section, Switch
from couplet.configs.system import AutoscaleConfig, NodeLabels

log = logging.getLogger(__name__)


class SamplerConfig(Section):
    """The diffusion decoder. `top_p: 1.0` and `top_k: null` mean off."""

    order: Literal["origin", "maskgit_plus", "topk_margin", "entropy"] = Field(
        "entropy", description="what decides which masked positions are revealed next"
    )
    steps: int = Field(256, gt=0, description="denoising steps of the canvas")
    completion_length: int = Field(256, gt=0, description="tokens of the canvas: the answer with its filler")
    temperature: float = Field(1.0, ge=0, description="of the token distribution; 0 takes the most likely token")
    top_p: float = Field(
        1.0, gt=0, le=1, description="draw from the most likely tokens of this total probability; 1.0 turns it off"
    )
    top_k: int | None = Field(None, ge=1, description="draw from this many most likely tokens; null turns it off")
    alg_temp: float | None = Field(None, ge=0, description="temperature of the order itself; null or 0 = strict order")
    rank_on: Literal["filtered", "unfiltered"] = Field(
        "filtered", description="rank positions on the probabilities after top_p and top_k, or before"
    )
    schedule: Literal["linear_time", "even"] = Field(
        "linear_time", description="tokens revealed per step: as Dream's times fall, or equally many at each (LLaDA)"
    )
    eps: float = Field(1e-3, gt=0, lt=1, description="last time of schedule: linear_time")
    # Declared approximations: each changes the distribution, is off by default and is recorded on the trajectory.
    early_stop: Switch = Field(False, description="a completion is done when its answer has ended")
    block_length: int | None = Field(None, gt=0, description="tokens of a block, decoded left to right; null = one")
    cache: Literal["none", "prefix", "dual"] = Field(
        "none", description="keys and values outside the block that are kept between its forward passes"
    )
    cache_refresh: int | None = Field(
        None, gt=0, description="a full forward pass after every so many of a block; null = one per block"
    )
    confidence_threshold: float | None = Field(
        None, ge=0, le=1, description="also reveal every position whose largest probability reaches it; null = off"
    )

    def rules(self) -> Iterator[Rule]:
        length, block = self.completion_length, self.block_length or self.completion_length
        yield Rule(
            length % block == 0,
            "block_length completion_length",
            f"must divide sampler.completion_length = {length}",
        )
        yield Rule(
            self.cache == "none" or self.block_length is not None,
            "cache block_length",
            "a key/value cache works per block: set sampler.block_length too, or cache: none",
        )
        yield Rule(
            length % block != 0 or self.steps % (length // block) == 0,
            "steps block_length completion_length",
            f"must be divisible by the number of blocks, {length // block}",
        )
        yield Rule(
            self.confidence_threshold is None or self.order != "origin",
            "confidence_threshold order",
            "needs an order that ranks positions; origin reveals at random",
        )
        yield Rule(
            self.schedule == "linear_time" or self.order != "origin",
            "schedule order",
            "needs an order that ranks positions; origin reveals by the times of linear_time",
        )

    def warn(self) -> None:
        """Log that steps are empty: allowed, but they cost a forward pass and reveal nothing."""
        if self.steps > self.completion_length:
            log.warning(
                "sampler.steps = %d: more than sampler.completion_length = %d, so that some steps reveal nothing and only "
                "cost time; lower sampler.steps",
                *(self.steps, self.completion_length),
            )


class RolloutConfig(Section):
    """Rollout actors."""

    actors: int = Field(1, gt=0, description="processes that decode")
    cpus: float = Field(1.0, ge=0, description="CPUs Ray reserves per actor")
    gpus: float = Field(0.0, ge=0, description="GPUs per actor, fractions allowed; 0 = on the CPU")
    labels: NodeLabels = Field({}, description="labels that a Ray node must have to run them")
    threads: int = Field(1, gt=0, description="of torch, on the CPU")
    groups_per_call: int = Field(1, gt=0, description="prompt groups decoded in one batch")
    microbatch_rows: int = Field(256, gt=0, description="completions per forward pass")
    max_restarts: int = Field(-1, ge=-1, description="of one actor; -1 = no limit")
    timeout: float = Field(1800.0, gt=0, description="seconds of one generate call")
    autoscale: AutoscaleConfig = Field(AutoscaleConfig(), description="what waits is the learner, for its groups")

    def rules(self) -> Iterator[Rule]:
        yield Rule(self.autoscale.admits(self.actors), "actors autoscale", "must lie in rollout.autoscale.min .. max")


class WeightsConfig(Section):
    """Broadcast of new weights to the rollout actors."""

    broadcast_every: int = Field(1, gt=0, description="learner steps between broadcasts")
    bucket_mb: int = Field(256, gt=0, description="size of one packed bucket")
    verify: Switch = Field(True, description="rollout actors check the manifest's checksum before the swap")
    timeout: float = Field(120.0, gt=0, description="seconds within which a rollout actor must have taken them")
