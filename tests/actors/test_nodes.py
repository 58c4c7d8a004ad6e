"""Two nodes: actors spread over them, the storage is checked, and a killed node costs time, not data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.actors.runs import assert_identity

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", params=["scripted", pytest.param("real", marks=pytest.mark.slow)])
def outcome(request, start, tmp_path_factory):
    """What a run over two nodes came to; its Ray is its own."""
    folder = tmp_path_factory.mktemp("nodes")
    arguments = [sys.executable, "-m", "tests.actors.two_nodes", str(start), str(folder), request.param]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_workers_spread_over_the_nodes(outcome):
    assert len(set(outcome["before"]["reward"])) == 2
    assert len({node for nodes in outcome["before"].values() for node in nodes}) == 2


def test_a_folder_that_a_node_does_not_see_is_refused(outcome):
    assert "the run folder" in outcome["refused"] and "needs it on storage that all of them mount" in outcome["refused"]


def test_a_killed_node_costs_no_group(outcome):
    totals, numbers = outcome["totals"], outcome["numbers"]
    assert_identity(totals)
    assert len(numbers) == len(set(numbers)) == totals["trained"] + totals["filtered"]
    assert totals["quarantined"] == 0
    assert totals["issued"] - totals["in_flight"] == len(numbers)


def test_the_workers_of_a_killed_node_come_back_elsewhere(outcome):
    assert outcome["second"] not in outcome["alive"]
    for role in ("rollout", "reward"):
        assert len(outcome["after"][role]) == 2
        assert set(outcome["after"][role]) <= set(outcome["alive"])
    lost = sum(outcome["second"] in nodes for nodes in outcome["before"].values())
    assert sum(count > 0 for count in outcome["restarts"].values()) >= lost
