"""The command line itself: its default, its help, a reader that goes away, Ctrl-C, and the small commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from couplet.commands import cli, main
from couplet.commands import training_run as trainer
from couplet.data.problem_sets import load_problems

ROOT = Path(__file__).parents[2]


@pytest.fixture
def asked(monkeypatch):
    """What `train` is asked to do, without doing it."""
    found = []
    monkeypatch.setattr(trainer, "run_training", lambda config, **options: found.append((config, options)))
    return found


def test_without_a_command_the_tiny_recipe_is_trained(asked):
    assert main([]) == 0
    assert asked[0][0].name == "tiny" and asked[0][1] == {"resume": False, "local": False}


@pytest.mark.parametrize(
    "words",
    [
        ["train", "configs/tiny.yaml", "seed=3", "--local", "steps=7"],
        ["train", "--local", "seed=3", "steps=7"],
        ["train", "tiny.yaml", "--local", "seed=3", "steps=7"],
    ],
)
def test_settings_may_be_anywhere(asked, words):
    assert main(words) == 0
    config, options = asked[0]
    assert (config.name, config.seed, config.steps, options["local"]) == ("tiny", 3, 7, True)


def test_help_names_every_command_and_every_command_has_help(command):
    code, printed, _ = command("--help")
    assert code == 0
    for name in cli.COMMANDS:
        assert re.search(rf"^    {name} ", printed, re.M)
        code, own, _ = command(name, "--help")
        assert code == 0 and own.startswith(f"usage: launch.py {name}")
    assert command("prepare", "rate", "--help")[0] == 0


def test_a_reader_that_goes_away_leaves_no_traceback():
    """`launch.py train --dry-run | head -1`"""
    script = (
        "import sys, launch\n"
        "from couplet.commands import dry_run\n"
        "dry_run.describe = lambda *_: 'a line\\n' * 100000\n"
        "sys.exit(launch.main(['train', 'configs/tiny.yaml', '--dry-run']))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stderr is not None
    assert child.stdout.readline() == "a line\n"
    child.stdout.close()
    assert child.stderr.read() == "" and child.wait() == cli.BROKEN_PIPE
    child.stderr.close()


def test_an_interrupt_says_how_to_resume(monkeypatch, command):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "run_training", interrupted)
    code, _, error = command("train")
    assert code == 130 and "--resume" in error and "Traceback" not in error


def test_prepare_writes_a_checked_set_and_tells_what_it_left_out(problem_file, tmp_path, command):
    words = ("--source", problem_file, "--columns", "id=task_id", "prompt=text", "tests=test_list", "solution=code")
    code, printed, _ = command("prepare", "columns", *words, "--limit", 3, "--out", tmp_path / "own.parquet")
    assert code == 0 and "3 problems from 4 rows" in printed and "dropped 1: over the limit" in printed
    assert load_problems(str(tmp_path / "own.parquet"))[0].canonical_solution == "def f(x):\n    return x + 601"
    words = ("--source", problem_file, "--benchmarks", problem_file, "--drop", "none", "--split", "train")
    code, printed, _ = command("prepare", "mbpp", *words, "--out", tmp_path / "mbpp.parquet")
    assert code == 0 and "resemble a benchmark problem" in printed


def test_score_judges_a_file_under_the_limits_it_is_given(problem_file, tmp_path, command):
    samples = tmp_path / "samples.jsonl"
    rows = [{"task_id": "MBPP/601", "completion": f"def f(x): return x + {n}"} for n in (601, 600)]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, printed, error = command(
        "score", problem_file, samples, "--out", tmp_path / "v.jsonl", "sandbox.cpu_seconds=3"
    )
    assert code == 0 and "pass@1: 50.00%" in printed and "3 problems without samples" in printed, error
    verdicts = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [verdict["passed"] for verdict in verdicts] == [True, False]


def test_sample_answers_once_with_the_run_s_decoding(run_folder, tmp_path, command):
    first = command("sample", run_folder, "--once", "Write f.", "--seed", 3)
    again = command("sample", run_folder, "--once", "Write f.", "--seed", 3, "--svg", tmp_path / "trace.svg")
    other = command(
        "sample", run_folder, "--once", "Write f.", "--seed", 3, "--order", "origin", "--length", 4, "--steps", 2
    )
    assert first[0] == again[0] == other[0] == 0
    assert first[1] == again[1] != other[1]
    assert (tmp_path / "trace.svg").read_text().startswith("<svg")


def test_report_writes_one_page(run_folder, tmp_path, command):
    code, printed, error = command("report", run_folder, "--out", tmp_path / "page.html")
    assert code == 0 and printed.strip() == str(tmp_path / "page.html"), error
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
