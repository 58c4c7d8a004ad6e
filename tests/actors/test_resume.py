"""kill -9 of the driver, then --resume: every group is trained exactly once."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
import yaml

from couplet.data.metric_table import is_learner_step
from tests.actors.runs import TIME_LIMIT, P, assert_identity, settings, wait_for

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.ray


def rows(run):
    """Whole lines of metrics.jsonl that are of a learner step; the last one may be torn."""
    path = run / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [row for row in map(json.loads, text.split("\n")[:-1]) if is_learner_step(row)]


def launch(recipe, *arguments):
    return subprocess.Popen(
        [sys.executable, "launch.py", "train", str(recipe), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.timeout(900)
def test_a_killed_driver_resumes_and_trains_every_group_once(ray_cluster, start, tmp_path):
    steps = 60
    config = settings(start, "driver", runs_dir=str(tmp_path), steps=steps, checkpoint={"every": 5})
    config["evaluation"] |= {"limit": 1, "samples": 2, "ar_ness_problems": 1}
    config["ray"] |= {
        "address": ray.get_runtime_context().gcs_address,
        "connect_timeout": TIME_LIMIT,
        "require_auth": False,
    }
    recipe, run = tmp_path / "driver.yaml", tmp_path / "driver"
    recipe.write_text(yaml.safe_dump(config))

    first = launch(recipe)
    wait_for(lambda: len(rows(run)) >= 8 or first.poll() is not None)
    os.kill(first.pid, signal.SIGKILL)
    said = first.communicate()[0]
    assert first.returncode == -signal.SIGKILL, said
    done = len(rows(run))
    assert 8 <= done < steps

    second = launch(recipe, "--resume")
    said = second.communicate(timeout=500)[0]
    assert second.returncode == 0, said
    assert "resumed at learner step " in said
    assert [row["step"] for row in rows(run)] == list(range(1, steps + 1))
    summary = json.loads((run / "summary.json").read_text())
    assert_identity(summary["ledger"])
    assert summary["ledger"]["trained"] + summary["ledger"]["filtered"] == steps * P
    assert summary["ledger"]["in_flight"] == 0
    trained = Counter()
    for path in sorted((run / "trajectories").iterdir()):
        table = pq.read_table(path, columns=["epoch", "problem_id", "step", "version"]).to_pylist()
        trained.update({(row["epoch"], row["problem_id"]) for row in table})
        assert all(0 <= row["step"] - 1 - row["version"] <= 1 for row in table)
    assert set(trained.values()) == {1} and len(trained) == steps * P
    assert {epoch for epoch, _ in trained} == set(range(steps * P // 24))
