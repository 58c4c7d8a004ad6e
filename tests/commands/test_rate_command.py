"""`prepare rate`: a served model, our own policy, and a server that is started and always ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from couplet.configs.schema import ConfigError
from couplet.data.problem_sets import load_problems
from couplet.data.rate import read_ratings
from couplet.learner.rendezvous import free_port
from couplet.serving.vllm_server import VllmServer, serve_command

ROOT = Path(__file__).parents[2]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=90.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def test_a_served_model_is_rated_by_the_program_in_its_answers(server, problem_file, tmp_path, command):
    out = tmp_path / "rated.parquet"
    words = ("--endpoint", server.url, "--samples", 4, "--level", "all", "--local", "--out", out)
    code, printed, error = command("prepare", "rate", problem_file, *words)
    assert code == 0, error
    assert "pass@1: 50.0" in printed and "pass@4: 100.0" in printed
    assert [r.rates for r in read_ratings(tmp_path / "rated.ratings.jsonl")] == [(1.0, 0.0, 1.0, 0.0)] * 4
    assert [p.metadata["pass_rate"] for p in load_problems(str(out))] == [0.5] * 4
    assert {body["model"] for body in server.asked} == {"toy-coder"}
    assert server.asked[0]["messages"][0] == {"role": "system", "content": "You are a helpful assistant."}
    asked = len(server.asked)
    assert command("prepare", "rate", problem_file, *words)[0] == 0
    assert len(server.asked) == asked  # everything was rated already
    code, _, error = command("prepare", "rate", problem_file, *words, "--temperature", "0.1")
    assert code == 2 and "sampling" in error  # ratings of two settings never mix


def test_a_base_model_continues_an_answer_begun_for_it(server, problem_file, tmp_path, command):
    words = (
        "--endpoint",
        server.url,
        "--base",
        "--samples",
        1,
        "--level",
        "all",
        "--local",
        "--out",
        tmp_path / "r.parquet",
    )
    code, printed, error = command("prepare", "rate", problem_file, *words)
    assert code == 0 and "pass@1: 100.0" in printed, error
    assert server.asked[0]["prompt"].endswith("```python\n") and server.asked[0]["stop"] == ["```"]


def test_our_own_policy_is_rated_by_the_verdicts_it_is_trained_with(run_folder, problem_file, tmp_path, command):
    words = ("--policy", run_folder, "--samples", 2, "--level", "all", "--local", "--out", tmp_path / "r.parquet")
    code, printed, error = command("prepare", "rate", problem_file, *words)
    assert code == 0 and "pass@1: 0.0" in printed, error
    assert [len(r.rates) for r in read_ratings(tmp_path / "r.ratings.jsonl")] == [2] * 4


def test_a_server_is_started_for_the_rating_and_ended_after_it(vllm_python, problem_file, tmp_path, command):
    pids = tmp_path / "pids"
    words = ("--vllm", "toy", "--vllm-python", vllm_python, "--vllm-options", f"--engine-file {pids}", "--samples", 2)
    code, printed, error = command(
        "prepare", "rate", problem_file, *words, "--level", "all", "--local", "--out", tmp_path / "r.parquet"
    )
    assert code == 0 and "pass@1: 25.0" in printed, error
    assert not any(alive(int(pid)) for pid in pids.read_text().split())


def test_the_server_and_its_engine_die_with_the_process_that_owns_it(vllm_python, tmp_path):
    pids = tmp_path / "pids"
    program = (
        "import sys, time; from couplet.learner.rendezvous import free_port; from couplet.serving.vllm_server import VllmServer; "
        f"s = VllmServer('toy', free_port(), python={str(vllm_python)!r}, options=['--engine-file', {str(pids)!r}]); "
        "s.wait_ready(240); print('ready', flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None and owner.stdout.readline() == "ready\n"
    server, engine = map(int, pids.read_text().split())
    assert alive(server) and alive(engine)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    wait_until(lambda: not alive(server) and not alive(engine))


def test_a_server_that_fails_or_is_slow_says_its_last_words(vllm_python):
    cases = (
        ("broken", 240.0, "ended with code 3", "no kernel for this device"),
        ("slow", 1.0, "not ready after 1 s", "loading slow"),
    )
    for model, seconds, message, words in cases:
        server = VllmServer(model, free_port(), python=str(vllm_python))
        try:
            wait_until(lambda: words in server.log.read_text())  # noqa: B023
            with pytest.raises(ConfigError, match=message) as caught:
                server.wait_ready(seconds)
        finally:
            server.close()
        assert words in str(caught.value)
        assert server.process.poll() is not None and not server.folder.exists()


def test_a_missing_vllm_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match=r"--vllm: vLLM is not installed here.*--vllm-python.*--endpoint"):
        serve_command(None)
    with pytest.raises(ConfigError, match="no such interpreter"):
        serve_command("/nowhere/python")
    with pytest.raises(ConfigError, match="has no vLLM; install it there"):
        serve_command(sys.executable)


def test_the_program_on_the_path_is_used_where_the_module_is_not_here(tmp_path, monkeypatch):
    (tmp_path / "vllm").write_text("#!/bin/sh\n")
    (tmp_path / "vllm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert serve_command(None) == [str(tmp_path / "vllm"), "serve"]


def test_levels_need_ratings_that_differ(server, problem_file, tmp_path, command):
    words = ("--endpoint", server.url, "--samples", 2, "--level", "hard", "--local", "--out", tmp_path / "r.parquet")
    code, printed, _ = command("prepare", "rate", problem_file, *words)
    assert code == 0 and "4 of 4 problems are hard" in printed  # all means and spreads are equal
    summary = json.loads((tmp_path / "r.summary.json").read_text())
    assert summary["thresholds"] == {"mean_p20": 0.5, "std_p40": 0.5} and summary["model"] == "toy-coder"
