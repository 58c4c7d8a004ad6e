"""How learner ranks find each other."""

from __future__ import annotations

import os
import socket

from couplet.configs.schema import LearnerConfig


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def join_environment(address: str, port: int, rank: int, learner: LearnerConfig) -> None:
    """Set the variables torch.distributed and DeepSpeed read in this process."""
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(learner.ranks),
        "LOCAL_RANK": "0",
        "LOCAL_SIZE": "1",
    }
    if learner.gpus == 0:
        os.environ["DS_ACCELERATOR"] = "cpu"
