"""However a run ends, nothing of it keeps running: no actor, no sandbox, no Ray that it started."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from couplet.learner.checkpoint import latest_checkpoint
from tests.actors.runs import settings
from tests.ray_limits import LIMITS

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]

LAUNCH = """
import sys
from tests.ray_limits import more_time_for_nodes
more_time_for_nodes()
import launch
sys.exit(launch.main())
"""


def run_until(tmp_path, start, text, number="SIGINT", **changes):
    """`launch.py train` on a Ray of its own; Ctrl-C once it has said or logged `text` ("-": not at all)."""
    config = settings(start, "closing", runs_dir=str(tmp_path / "runs"), **changes)
    config["evaluation"] |= {"limit": 1, "samples": 2, "ar_ness_problems": 1}
    recipe = tmp_path / "closing.yaml"
    recipe.write_text(yaml.safe_dump(config))
    logged = tmp_path / "runs" / "closing" / "metrics.jsonl"
    command = [sys.executable, "-m", "tests.actors.keeper", str(tmp_path / "output"), str(logged), text, number]
    command += [sys.executable, "-c", LAUNCH, "train", str(recipe)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {key: str(value) for key, value in LIMITS.items()}
    environment["COUPLET_GRACE_SECONDS"] = "300"  # a busy machine finishes its step too
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_ctrl_c_in_the_middle_leaves_no_process_and_names_the_way_back(tmp_path, start):
    end = run_until(tmp_path, start, '"step": 3,', steps=100_000)
    assert end["returncode"] == 130, end["output"]
    assert end["survivors"] == []
    assert any("--resume" in line for line in end["output"].splitlines()), end["output"]
    assert "Traceback" not in end["output"] and "WARNING" not in end["output"], end["output"]


@pytest.mark.parametrize("number, code", [("SIGTERM", 143), pytest.param("SIGHUP", 129, marks=pytest.mark.slow)])
def test_a_scheduler_s_signal_saves_the_step_and_leaves_no_process(tmp_path, start, number, code):
    end = run_until(tmp_path, start, '"step": 3,', number, steps=100_000, checkpoint={"every": 0})
    assert end["returncode"] == code, end["output"]
    assert end["survivors"] == []
    assert "Traceback" not in end["output"] and "WARNING" not in end["output"], end["output"]
    assert any("--resume" in line for line in end["output"].splitlines()), end["output"]
    path, state = latest_checkpoint(tmp_path / "runs" / "closing" / "checkpoints")
    assert state["step"] >= 3 and path.name in end["output"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["run folder", "Starting Ray on this machine", "Evaluating before"])
def test_ctrl_c_while_a_run_starts_leaves_no_process(tmp_path, start, moment):
    end = run_until(tmp_path, start, moment, steps=100_000)
    assert end["returncode"] == 130, end["output"]
    assert end["survivors"] == []


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_run_that_ends_or_fails_leaves_no_process(tmp_path, start):
    end = run_until(tmp_path, start, "-", steps=2)
    assert (end["returncode"], end["survivors"]) == (0, []), end["output"]
    end = run_until(tmp_path, start, "-", steps=2, reward={"functions": {"coed": 1.0}})
    assert (end["returncode"], end["survivors"]) == (2, []), end["output"]
    assert "did you mean 'code'" in end["output"]
