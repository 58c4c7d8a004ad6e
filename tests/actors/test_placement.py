"""The learner's ranks: the room they keep, what counts as their loss, and how far a rebuilt one has to go back."""

import time

import pytest
from ray.exceptions import OutOfMemoryError

from actors.learner_group import LearnerGroup
from tests.actors.fakes import ScriptedLearner, ScriptedReward, ScriptedRollout
from tests.actors.runs import run_config

pytestmark = pytest.mark.ray


class BlockedLearner(ScriptedLearner):
    """Rank 0 has a defect; the others wait for it in a collective."""

    def __init__(self, config, start, rank):
        super().__init__(config, start, rank)
        self.rank = rank

    def learn(self, groups):
        if self.rank > 0:
            time.sleep(1000)
        raise RuntimeError("the loss is a banana")


@pytest.fixture
def with_learner(open_cluster, monkeypatch):
    """`with_learner(name, Fake, **changes)`: a cluster of scripted workers and this learner."""

    def open_one(name, fake, **changes):
        monkeypatch.setattr("actors.workers.RolloutActor", ScriptedRollout)
        monkeypatch.setattr("actors.workers.RewardActor", ScriptedReward)
        monkeypatch.setattr("actors.learner_group.LearnerActor", fake)
        return open_cluster(name, **changes)

    return open_one


def test_a_defect_of_one_rank_that_blocks_the_others_is_told_when_it_comes_again(with_learner):
    changes = {"learner": {"ranks": 2}, "ray": {"connect_timeout": 1.5}}
    cluster = with_learner("blocked", BlockedLearner, **changes)
    with pytest.raises(RuntimeError, match="^the loss is a banana"):
        cluster.learn(cluster.take(2))
    assert cluster.learner.restarts == 1


def test_a_rank_that_the_memory_monitor_ended_is_a_loss(tmp_path, monkeypatch):
    group, rebuilt = LearnerGroup(run_config(tmp_path, "monitor"), ""), []
    monkeypatch.setattr(group, "_rebuild", rebuilt.append)

    def work():
        if len(rebuilt) == 1:
            raise OutOfMemoryError("1 worker(s) were killed due to the node running low on memory")
        return "done"

    assert group._surviving(work, 7) == "done"
    assert rebuilt == [7, 7]
