"""A Ray actor around `rollout.worker.RolloutWorker`: weight receipt, busy time, metric export."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import ray
from ray.exceptions import GetTimeoutError, RayError

from couplet.actors.gauges import Exporter
from couplet.actors.messages import PublishedWeights, SwapReply, WorkerInfo
from couplet.actors.remote import WeightsDamaged, WeightsLate, WeightsLost
from couplet.configs.schema import RunConfig, SamplerConfig
from couplet.data.trajectory import PromptGroup, RolloutRequest
from couplet.training.factory import RolloutSlice, build_rollout_worker


class RolloutActor:
    """Generates prompt groups. Weights are swapped between calls, never inside one."""

    def __init__(self, config: RunConfig, start: str, index: int) -> None:
        self.worker = build_rollout_worker(RolloutSlice.of(config), start)
        self.verify = config.weights.verify
        self.timeout = config.weights.timeout
        self.started = time.monotonic()
        self.busy = 0.0
        self.groups = 0
        self.metrics = Exporter(config.name, role="rollout", index=index)

    def describe(self) -> WorkerInfo:
        """Process and node of the actor."""
        return WorkerInfo.of(ray.get_runtime_context())

    def load_weights(self, weights: PublishedWeights) -> SwapReply:
        """Fetch, verify and swap in this version unless it is held already.

        Raises:
            WeightsLate: they did not arrive within `weights.timeout`.
            WeightsLost: they are nowhere any more.
            WeightsDamaged: their checksum is wrong; weights and version stay what they were.
        """
        from couplet.model.weights import DamagedWeights  # torch, which the driver does without

        started = time.monotonic()
        if self.worker.version != weights.version:
            assert weights.packed is not None, "version 0 is what the actor has loaded"
            try:
                manifest, buckets = ray.get(weights.packed, timeout=self.timeout)
            except GetTimeoutError as error:
                raise WeightsLate(f"weights version {weights.version}: not here after {self.timeout:g} s") from error
            except RayError as error:
                raise WeightsLost(f"weights version {weights.version}: {type(error).__name__}") from error
            try:
                self.worker.load_weights(manifest, buckets, verify=self.verify)
            except DamagedWeights as error:
                raise WeightsDamaged(str(error)) from error
        return SwapReply(self.worker.version, time.monotonic() - started, self.describe())

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        weights: PublishedWeights,
        sampler: SamplerConfig | None = None,
    ) -> PromptGroup | tuple[PromptGroup, ...]:
        """One group per request; with several requests, one return value each."""
        swap = self.load_weights(weights).seconds
        started = time.monotonic()
        groups = self.worker.generate(requests, sampler=sampler)
        self._count(groups, time.monotonic() - started)
        groups = [replace(group, metrics={**(group.metrics or {}), "swap_seconds": swap}) for group in groups]
        return groups[0] if len(groups) == 1 else tuple(groups)

    def _count(self, groups: Sequence[PromptGroup], seconds: float) -> None:
        self.busy += seconds
        self.groups += len(groups)
        self.metrics.export(
            {
                "rollout_busy_share": self.busy / (time.monotonic() - self.started),
                "rollout_groups_total": float(self.groups),
                "rollout_tokens_per_second": sum(g.tokens_GC.size for g in groups) / max(seconds, 1e-9),
                "rollout_weights_version": float(self.worker.version),
            }
        )
