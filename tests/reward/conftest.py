"""Sandboxes shared by the tests of this package."""

from collections.abc import Iterator

import pytest

from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.reward.worker import RewardWorker


@pytest.fixture(scope="session", params=["namespace", "landlock"])
def attacked(request) -> Iterator[RewardWorker]:
    """A worker of each strong tier, with short limits."""
    config = SandboxConfig(tier=request.param, cpu_seconds=0.25, wall_factor=3.0, max_timeouts=1)
    with RewardWorker(RewardConfig(cache_entries=0), config) as worker:
        yield worker


@pytest.fixture(scope="session")
def worker() -> Iterator[RewardWorker]:
    """A worker of the best tier of this machine."""
    with RewardWorker(RewardConfig(), SandboxConfig(cpu_seconds=1.0, wall_factor=30.0)) as worker:
        yield worker
