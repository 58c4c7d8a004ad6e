"""A short form of `make chaos`: workers, the queue and a learner rank are killed; the checker finds nothing."""

import json

import pytest

from couplet.studies import chaos, chaos_events

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]
KINDS = ("kill rollout", "kill reward", "kill queue", "kill learner rank")


@pytest.mark.slow
def test_a_short_storm_loses_nothing(tmp_path, start):
    options = [
        "--seed",
        "3",
        "--events",
        "4",
        "--minutes",
        "20",
        "--slowness",
        "8",
        "--undisturbed",
        "0",
        "--steps",
        "150",
    ]
    out = tmp_path / "chaos"
    assert chaos.main([*options, "--kinds", ",".join(KINDS), "--start", str(start), "--out", str(out)]) == 0
    result = json.loads((out / "chaos.json").read_text())
    assert result["violations"] == [] and result["checked"]["steps"] == 150
    assert {event["name"] for event in result["events"]} == set(KINDS)
    assert result["checked"]["completions"] == 150 * 2 * 4


@pytest.mark.parametrize("seed", range(5))
def test_a_schedule_follows_from_its_seed_and_has_every_kind(seed):
    names = chaos_events.schedule(seed, 56)
    assert names == chaos_events.schedule(seed, 56) != chaos_events.schedule(seed + 1, 56)
    assert len(names) == 56 and set(names) == set(chaos_events.KINDS)


def test_an_unknown_kind_is_one_error(tmp_path, capsys):
    assert chaos.main(["--kinds", "kill everyone", "--out", str(tmp_path)]) == 2
    assert "--kinds 'kill everyone': known are kill rollout" in capsys.readouterr().err


def test_a_folder_of_something_else_is_not_deleted(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("kept")
    assert chaos.main(["--out", str(tmp_path)]) == 2
    assert (tmp_path / "mine.txt").exists() and "would be deleted" in capsys.readouterr().err
