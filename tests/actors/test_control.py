"""`status` and `scale` from a second process, on a running job."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from couplet.actors.ray_init import NoCluster
from couplet.commands import job as control
from couplet.configs.schema import ConfigError
from tests.actors.runs import assert_identity, assert_trained_once, wait_for

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parent.parent.parent
PAUSE = 0.3  # seconds between two steps, in which the other process gets a core
LAUNCH = """
import functools, sys, launch
from couplet.commands import job as control
control.CALL_SECONDS = control.SCALE_SECONDS = 600.0
control.RayConfig = functools.partial(control.RayConfig, connect_timeout=300.0)
sys.exit(launch.main())
"""


def command(*arguments):
    address = ray.get_runtime_context().gcs_address
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *arguments, "--address", address],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def serving(cluster):
    """Workers that are given work, by role."""
    return {role: len(indices) for role, indices in cluster.queue.call("roster").serving.items()}


def run_while(process, shared_run):
    """Learner steps until `process` has ended; its output."""
    while process.poll() is None:
        shared_run.history.steps(shared_run.cluster, 1)
        time.sleep(PAUSE)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def test_status_shows_workers_ledger_and_rates_of_a_running_job(shared_run):
    shown = json.loads(run_while(command("status", "--json", "--run", "shared"), shared_run))
    assert {role: len(some) for role, some in shown["workers"].items()} == {"rollout": 2, "reward": 2}
    assert_identity(shown["totals"])
    assert 0 < shown["step"] <= shared_run.cluster.step
    assert shown["rates"]["groups_per_second"] > 0
    assert shown["rates"]["tokens_per_second"] == pytest.approx(4 * 32 * shown["rates"]["groups_per_second"])


def test_scale_changes_the_number_of_workers_and_loses_no_lease(shared_run):
    cluster = shared_run.cluster
    lost = lambda totals: totals["reissued"] - totals["stale_dropped"]  # noqa: E731
    before = lost(cluster.totals())
    said = run_while(command("scale", "reward=3", "rollout=1", "--run", "shared"), shared_run)
    assert said.splitlines()[-1] == "rollout: 1 in service, reward: 3 in service"
    said = run_while(command("scale", "reward=2", "rollout=2", "--run", "shared"), shared_run)
    assert said.splitlines()[-1] == "rollout: 2 in service, reward: 2 in service"
    shared_run.history.steps(cluster, 3)
    assert_trained_once(shared_run.history, cluster.totals())
    assert lost(cluster.totals()) == before


def test_a_rebuilt_queue_keeps_the_scale(shared_run):
    cluster = shared_run.cluster
    for wanted in (3, 2):
        cluster.queue.call("set_targets", {"reward": wanted})
        wait_for(lambda: shared_run.history.steps(cluster, 1) and serving(cluster)["reward"] == wanted)  # noqa: B023
        ray.kill(cluster.queue.handle)
        shared_run.history.steps(cluster, 1)
        assert cluster.queue.call("roster").targets == {"rollout": 2, "reward": wanted}
        assert serving(cluster) == {"rollout": 2, "reward": wanted}


def test_scale_refuses_what_it_cannot_read(shared_run):
    process = command("scale", "learner=2")
    _, err = process.communicate()
    assert process.returncode == 2
    assert "error: scale 'learner=2': write reward=N or rollout=N" in err


def test_an_unknown_run_is_named(shared_run):
    process = command("status", "--run", "nobody")
    _, err = process.communicate()
    assert process.returncode == 2
    pattern = r"error: no running job named 'nobody' on this cluster; running: .*shared.*"
    assert re.fullmatch(pattern, err.splitlines()[-1]), err


def test_a_machine_without_ray_has_no_job(monkeypatch):
    def attach(config, local):
        raise NoCluster(f"{config.address}: no Ray cluster there")

    monkeypatch.setattr(control, "attach", attach)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="no job is running on this machine; --address"):
        control.show_status(None, None)
    with pytest.raises(ConfigError, match="head:1: no Ray cluster there"):
        control.show_status(None, "head:1")
