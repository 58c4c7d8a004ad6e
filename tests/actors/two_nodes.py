"""A run over two nodes of one machine, the second of which is killed; run by test_nodes.py in a process of its own.

usage: python -m tests.actors.two_nodes POLICY FOLDER real|scripted       prints one JSON object
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"
NODE = {"num_cpus": 5, "object_store_memory": 150 * 2**20, "wait": False}
QUICK = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 30_000,  # of a busy node; one that is gone refuses at once
    "health_check_failure_threshold": 3,
}


def blind_away_from_home(probe: str | None, config: str) -> tuple[bool, str | None]:
    """What a node sees that does not mount the storage of the driver's node."""
    import ray

    home = probe is not None and ray.get_runtime_context().get_node_id() == Path(probe).with_name("home").read_text()
    return home, "the same"


def use_fakes() -> None:
    from couplet.actors import learner_group
    from couplet.actors import worker_pool as workers
    from tests.actors import fakes

    workers.RolloutActor, workers.RewardActor = fakes.ScriptedRollout, fakes.ScriptedReward
    learner_group.LearnerActor = fakes.ScriptedLearner


def refusal(folder: Path, policy: str) -> str:
    """The message if the second node does not see the run folder."""
    import ray

    from couplet.actors import storage
    from couplet.configs.schema import ConfigError

    (folder / "home").write_text(ray.get_runtime_context().get_node_id())
    look, storage._look = storage._look, blind_away_from_home
    try:
        storage.require_shared(folder, Path(policy))
    except ConfigError as error:
        return str(error)
    finally:
        storage._look = look
    return ""


def main(policy: str, folder: str, parts: str) -> None:
    """Start, train, kill the second node, add a third, train on."""
    from tests.ray_limits import give_ray_time

    give_ray_time()
    import ray
    from ray.cluster_utils import Cluster

    from couplet.actors.ray_cluster import RayCluster
    from couplet.actors.ray_init import alive_nodes
    from tests.actors.runs import History, run_config, status, wait_for

    if parts == "scripted":
        use_fakes()
    head = NODE | {"_system_config": QUICK, "include_dashboard": False}
    machines = Cluster(initialize_head=True, head_node_args=head)
    second = machines.add_node(**NODE)
    ray.init(address=machines.address, log_to_driver=False, logging_level="error")

    def alive() -> set[str]:
        return {node["NodeID"] for node in alive_nodes()}

    wait_for(lambda: second.node_id in alive())
    refused = refusal(Path(folder), policy)
    config = run_config(
        policy, "nodes", steps=100_000, rollout={"actors": 2}, reward={"actors": 2}, weights={"timeout": 20.0}
    )
    cluster, history = RayCluster(config, policy, Path(folder) / "checkpoints"), History()
    cluster.publish()
    history.steps(cluster, 3)
    before = {role: [w["node"] for w in some] for role, some in status(cluster)["workers"].items()}
    before["learner"] = [place.node for place in cluster.learner.ranks.places]

    machines.remove_node(second, allow_graceful=False)
    third = machines.add_node(**NODE)
    wait_for(lambda: second.node_id not in alive() and third.node_id in alive())
    history.steps(cluster, 6)

    def whole() -> bool:
        """Two workers of each role, all known to be on living nodes."""
        history.steps(cluster, 1)
        nodes = [[worker["node"] for worker in some] for some in status(cluster)["workers"].values()]
        return all(len(some) == 2 and set(some) <= alive() for some in nodes)

    wait_for(whole, seconds=400)
    result = {
        "refused": refused,
        "second": second.node_id,
        "before": before,
        "after": {role: [w["node"] for w in some] for role, some in status(cluster)["workers"].items()},
        "alive": sorted(alive()),
        "numbers": history.numbers,
        "totals": cluster.totals(),
        "restarts": cluster.restarts(),
    }
    cluster.close()
    ray.shutdown()
    machines.shutdown()
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
