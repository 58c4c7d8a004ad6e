"""Rollout workers compute in the learner's type, whatever type the start is stored in."""

import pytest
import torch

from couplet.configs.schema import LearnerConfig
from couplet.model.policy import DiffusionPolicy
from couplet.training.local_cluster import LocalCluster
from tests.actors.runs import History, run_config


@pytest.mark.parametrize("stored, learner", [(torch.bfloat16, "float32"), (torch.float32, "bfloat16")])
def test_a_start_of_another_type_trains_and_is_published(start, tmp_path, stored, learner):
    policy = DiffusionPolicy.from_pretrained(start, dtype=stored)
    policy.save_pretrained(tmp_path / "start")
    assert LearnerConfig().dtype == "float32"
    config = run_config(tmp_path / "start", "types", learner={"engine": "torch", "dtype": learner})
    cluster, history = LocalCluster(config, str(tmp_path / "start"), tmp_path / "checkpoints"), History()
    try:
        cluster.publish()
        history.steps(cluster, 2)
    finally:
        cluster.close()
    assert cluster.rollout.version == 2
