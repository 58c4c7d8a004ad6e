"""Reward workers scale by themselves: with programs that sleep, four judge four times as fast as one."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from tests.actors.runs import status, wait_for

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.ray, pytest.mark.slow]
SECONDS = 10.0  # of one measurement
WAITING = {"groups_per_step": 100, "max_staleness": 9}  # 1000 groups are admitted at once: the queue never runs dry


def scale(cluster, wanted):
    """`launch.py scale` from a second process, while the driver supervises its workers."""
    address = ray.get_runtime_context().gcs_address
    arguments = ["scale", f"reward={wanted}", "--run", cluster.config.name, "--address", address]
    process = subprocess.Popen([sys.executable, "launch.py", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        cluster._reconcile()
        time.sleep(0.1)
    assert process.returncode == 0, process.communicate()[1]


def judged_per_second(cluster):
    """Groups that became ready per second."""
    first, began = status(cluster)["ledger"]["ready"], time.monotonic()
    time.sleep(SECONDS)
    last, ended = status(cluster)["ledger"]["ready"], time.monotonic()
    assert status(cluster)["queue"]["waiting_for_reward"] > 0
    return (last - first) / (ended - began)


def test_throughput_follows_the_number_of_reward_workers(scripted, capsys):
    cluster = scripted("sleepers", "RealReward", replay=WAITING, problems={"limit": None})
    rates = {}
    for wanted in (1, 2, 4):
        scale(cluster, wanted)
        rates[wanted] = judged_per_second(cluster)
    with capsys.disabled():
        print("\ngroups judged per second by workers:", json.dumps({n: round(rate, 2) for n, rate in rates.items()}))
    assert rates[2] >= 1.7 * rates[1]
    assert rates[4] >= 3.5 * rates[1]
    scale(cluster, 1)
    wait_for(lambda: len(status(cluster)["workers"]["reward"]) == 1)
    totals = cluster.totals()
    assert totals["reissued"] == 0
    assert totals["quarantined"] == 0
    ready = status(cluster)["ledger"]["ready"]
    wait_for(lambda: status(cluster)["ledger"]["ready"] > ready)
