"""The learning rate of each optimiser update: warm-up, plateau, decay to a floor."""

from __future__ import annotations

import math

from couplet.configs.schema import OptimizerConfig


def warmup_updates(config: OptimizerConfig, total: int) -> int:
    """W = ceil(warmup_ratio · total): a ratio above 0 warms up at least one update."""
    return math.ceil(config.warmup_ratio * total)


def learning_rate(update: int, total: int, config: OptimizerConfig) -> float:
    """Learning rate of update `update` (0-based) of `total`.

    lr·(u+1)/W for u < W, so that the first update already moves; then `config.lr` until `decay_start`, then a cosine
    or straight line down to `min_lr_ratio`·lr, which holds from update `total` on.
    """
    warmup = warmup_updates(config, total)
    if update < warmup:
        return config.lr * (update + 1) / warmup
    start = max(warmup, round(config.decay_start * total))
    if config.schedule == "constant" or update <= start:
        return config.lr
    progress = min(1.0, (update - start) / max(1, total - start))
    if config.schedule == "cosine":
        share = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        share = 1.0 - progress
    return config.lr * (config.min_lr_ratio + (1.0 - config.min_lr_ratio) * share)
