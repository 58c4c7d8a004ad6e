"""Scoring files: every published problem format, samples of every kind, mistakes named by file and line."""

import gzip
import json
import os
import signal
import time
from pathlib import Path

import pytest
from rich.console import Console

from couplet.commands.score import run_score
from couplet.configs.schema import ConfigError, RewardConfig, SandboxConfig
from couplet.data.formats.parquet import write_parquet
from couplet.data.problem import Problem
from couplet.data.retry import Retry
from couplet.evaluation import score_file as module
from couplet.evaluation.score_file import score_file

QUICK = SandboxConfig(cpu_seconds=1.0, wall_factor=30.0)


def write(path: Path, *rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def humaneval(path: Path) -> Path:
    row = {
        "task_id": "HumanEval/900",
        "prompt": 'from typing import List\n\n\ndef shift(x: int) -> int:\n    return x + 1\n\n\ndef total(xs: List[int]) -> int:\n    """Sum."""\n',
        "entry_point": "total",
        "canonical_solution": "    return sum(xs)\n",
        "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n    assert abs(candidate([shift(1)]) - 2) < 1e-6\n    assert True\n",
    }
    with gzip.open(path, "wt") as lines:
        lines.write(json.dumps(row) + "\n" + json.dumps({**row, "task_id": "HumanEval/901"}) + "\n")
    return path


def mbpp(path: Path) -> Path:
    base = {
        "text": "Double.",
        "code": "def f(x):\r\n  return 2 * x",
        "test_list": ["assert f(1) == 2", "assert f(2) == 4"],
    }
    setup = {
        "text": "Depth.",
        "code": "class Node:\n  def __init__(self, v): self.v = v\ndef g(n): return n.v",
        "test_list": ["assert g(root) == 5"],
        "test_setup_code": "root = Node(5)",
    }
    return write(path, {"task_id": 1, "test_setup_code": "", **base}, {"task_id": 2, **setup})


def test_humaneval_samples_of_every_form(tmp_path):
    problems = humaneval(tmp_path / "problems.jsonl.gz")
    whole = "def total(xs):\n    return sum(xs)\n"
    samples = write(
        tmp_path / "samples.jsonl",
        {"task_id": "HumanEval/900", "completion": "    return sum(xs)\n"},
        {"task_id": "HumanEval/900", "completion": whole},
        {"task_id": "HumanEval/900", "completion": f"Sure!\n```python\n{whole}```\nDone."},
        {"task_id": "HumanEval/900", "solution": "def total(xs: List[int]):\n    return sum(xs)\n"},
        {"task_id": "HumanEval/900", "completion": "    return shift(1)\n"},
        {"task_id": "HumanEval/900", "completion": "    return None\n"},
        {"task_id": "HumanEval/900", "completion": "    return (\n"},
    )
    score = score_file(problems, samples, sandbox=QUICK)
    assert [row["passed"] for row in score.rows] == [True, True, True, True, False, False, False]
    assert [row["sample"] for row in score.rows] == [0, 1, 2, 3, 4, 5, 6]
    assert [row["pass_rate"] for row in score.rows] == [1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert score.counts == {"HumanEval/900": (7, 4)} and (score.problems, score.unanswered) == (2, 1)
    assert score.out == tmp_path / "samples.verdicts.jsonl"
    written = [json.loads(line) for line in score.out.read_text().splitlines()]
    assert written == score.rows
    row = written[4]
    assert (row["task_id"], row["verdict"], row["reason"]) == ("HumanEval/900", "strong", "wrong_value")
    assert [(test["passed"], test["reason"]) for test in row["tests"]] == [(False, "wrong_value"), (True, "")]
    assert row["cpu_seconds"] > 0


def test_mbpp_by_number_with_setup_after_the_program(tmp_path):
    problems = mbpp(tmp_path / "mbpp.jsonl")
    node = "class Node:\n  def __init__(self, v): self.v = v\n"
    samples = write(
        tmp_path / "s.jsonl",
        {"task_id": 2, "completion": node + "def g(n): return n.v"},
        {"task_id": "MBPP/1", "completion": "def f(x): return 2"},
        {"task_id": "2", "solution": node + "def g(n): return 0"},
    )
    score = score_file(problems, samples, tmp_path / "deep" / "v.jsonl", sandbox=QUICK)
    assert [(row["task_id"], row["sample"], row["passed"]) for row in score.rows] == [
        (2, 0, True),
        ("MBPP/1", 0, False),
        ("2", 1, False),
    ]
    assert (tmp_path / "deep" / "v.jsonl").exists()


def test_sanitised_mbpp(tmp_path):
    row = {
        "task_id": 7,
        "prompt": "Pi.",
        "code": "import math\ndef f(x):\n  return math.pi * x",
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(f(2), 6.283185307179586)"],
    }
    problems = tmp_path / "sanitized-mbpp.json"
    problems.write_text(json.dumps([row]))
    samples = write(
        tmp_path / "s.jsonl",
        {"task_id": 7, "completion": row["code"]},
        {"task_id": 7, "completion": "import math\nmath.isclose = lambda a, b: True\ndef f(x): return 0"},
    )
    assert [row["passed"] for row in score_file(problems, samples, sandbox=QUICK).rows] == [True, False]


def test_evalplus_inputs_with_a_tolerance(tmp_path):
    row = {
        "task_id": "HumanEval/902",
        "prompt": 'def third(x):\n    """A third."""\n',
        "canonical_solution": "    return x / 3\n",
        "entry_point": "third",
        "test": "",
        "contract": "",
        "base_input": [[1], [2.5]],
        "plus_input": [[-7], [100]],
        "atol": 1e-6,
    }
    problems = write(tmp_path / "HumanEvalPlus.jsonl", row)
    samples = write(
        tmp_path / "s.jsonl",
        {"task_id": "HumanEval/902", "completion": "    return x * (1 / 3)\n"},
        {"task_id": "HumanEval/902", "completion": "    return abs(x) / 3\n"},
    )
    score = score_file(problems, samples, sandbox=QUICK)
    assert [(row["passed"], row["pass_rate"]) for row in score.rows] == [(True, 1.0), (False, 0.75)]


def test_acecode(tmp_path):
    row = {
        "id": "ace_1",
        "source": "oss",
        "question": "Double a number.",
        "test_cases": ["assert f(1) == 2", "assert f(3) == 6"],
        "inferences": [{"model_name": "qwen_coder_2.5", "pass_rate": 0.5, "completion": "def f(x):\n    return 2 * x"}],
    }
    problems = write(tmp_path / "acecode.jsonl", row)
    samples = write(tmp_path / "s.jsonl", {"task_id": "ace_1", "completion": "def f(x): return 2 * x"})
    assert score_file(problems, samples, sandbox=QUICK).rows[0]["passed"] is True


def test_our_own_parquet(tmp_path):
    path = tmp_path / "own.parquet"
    write_parquet([Problem("toy/1", "q", ("assert f(1) == 2",), "f")], path)
    samples = write(tmp_path / "s.jsonl", {"task_id": "toy/1", "completion": "def f(x): return 2"})
    assert score_file(path, samples, sandbox=QUICK).rows[0]["passed"] is True


@pytest.mark.parametrize(
    "rows, message",
    [
        (['{"task_id": 1,'], r"s.jsonl:1: broken JSON"),
        ([{"task_id": 1, "completion": "x"}, "", {"task_id": 3, "completion": "x"}], r"s.jsonl:3: unknown task_id '3'; did you mean"),
        ([{"completion": "x"}], r"s.jsonl:1: a sample is an object with a task_id"),
        ([[1]], r"s.jsonl:1: expected a JSON object, found list"),
        ([{"task_id": 1}], r"s.jsonl:1: give a completion or a solution \(found task_id\)"),
        ([{"task_id": 1, "completion": 5}], r"s.jsonl:1: completion must be a string, not int"),
        ([""], r"s.jsonl: the file has no samples"),
    ],
)  # fmt: skip
def test_mistakes_in_samples_are_named_before_anything_runs(tmp_path, monkeypatch, rows, message):
    monkeypatch.setattr(module, "RewardWorker", None)
    with pytest.raises(ValueError, match=message):
        score_file(mbpp(tmp_path / "mbpp.jsonl"), write(tmp_path / "s.jsonl", *rows))


def test_mistakes_in_problems_are_named_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RewardWorker", None)
    samples = write(tmp_path / "s.jsonl", {"task_id": 1, "completion": "x"})
    row = {"task_id": 1, "text": "q", "code": "", "test_list": ["assert f(1) == 2"], "test_setup_code": ""}
    for rows, message in (
        ([row, row], r"p.jsonl.*2.*MBPP/1"),
        (['{"task_id": 1,'], r"p.jsonl.*1"),
        ([], r"p.jsonl.*empty"),
        ([{**row, "test_list": ["assert f("]}], r"p\.jsonl:1: .*'test_list'.*expected Python"),
    ):
        with pytest.raises(ValueError, match=message):
            score_file(write(tmp_path / "p.jsonl", *rows), samples)
    with pytest.raises(ValueError, match=r"missing\.jsonl"):
        score_file(write(tmp_path / "p.jsonl", row), tmp_path / "missing.jsonl")
    with pytest.raises(ConfigError, match="workers = 0"):
        score_file(write(tmp_path / "p.jsonl", row), samples, workers=0)


def many(tmp_path: Path, samples: int = 24) -> tuple[Path, Path]:
    rows = [
        {"task_id": 1 + k % 2, "completion": f"def f(x): return {2 + k % 3 // 2} * x + {k} - {k}\nclass Node: v = 5\ng = lambda n: 5"}
        for k in range(samples)
    ]  # fmt: skip
    for row in rows:
        row["completion"] = row["completion"].replace("class Node: v = 5", "class Node:\n  def __init__(self, v): pass")
    return mbpp(tmp_path / "mbpp.jsonl"), write(tmp_path / "s.jsonl", *rows)


def test_several_workers_give_the_verdicts_of_one(tmp_path):
    problems, samples = many(tmp_path)
    one = score_file(problems, samples, tmp_path / "one.jsonl", sandbox=QUICK)
    seen = []
    two = score_file(problems, samples, tmp_path / "two.jsonl", 2, sandbox=QUICK, progress=lambda *at: seen.append(at))
    for row in (*one.rows, *two.rows):
        row.pop("cpu_seconds")
        for test in row["tests"]:
            test.pop("cpu_seconds")
    assert one.rows == two.rows and one.counts == two.counts
    assert seen[-1] == (24, 24) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_killed_worker_process_changes_no_verdict(tmp_path, monkeypatch):
    slow = "def f(x):\n    import time\n    time.sleep(0.05)\n    return 2 * x + {k} - {k}"
    rows = [{"task_id": 1, "completion": slow.format(k=k)} for k in range(40)]
    problems, samples = mbpp(tmp_path / "mbpp.jsonl"), write(tmp_path / "s.jsonl", *rows)
    killed: list[int] = []
    as_completed = module.as_completed

    def kill_one_first(futures):
        deadline = time.monotonic() + 240
        while not killed and time.monotonic() < deadline:
            for pid in workers()[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.02)
        return as_completed(futures)

    def workers() -> list[int]:
        """Pool processes of this process that have a zygote already."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
        ours = [pid for pid, parent in parents.items() if parent == os.getpid() and pid in parents.values()]
        return [pid for pid in ours if b"spawn_main" in command(pid)]

    def command(pid: int) -> bytes:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:  # it has just ended
            return b""

    monkeypatch.setattr(module, "as_completed", kill_one_first)
    score = score_file(problems, samples, workers=2, sandbox=QUICK)
    assert killed
    assert [row["passed"] for row in score.rows] == [True] * 40 and score.infra == 0


def test_infrastructure_faults_are_null_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("couplet.reward.judgement.PAUSE", 0.0)
    monkeypatch.setattr("couplet.reward.runner.RETRY", Retry(3, 0.0))
    problems, samples = many(tmp_path, 4)
    from couplet.reward.sandbox.faults import SandboxFault
    from couplet.reward.sandbox.local import LocalSandbox

    def broken(self, kind, cpu_limit, ahead=b""):
        raise SandboxFault("spawn", "no more processes")

    monkeypatch.setattr(LocalSandbox, "spawn", broken)
    score = score_file(problems, samples, reward=RewardConfig(retries=1), sandbox=QUICK)
    assert [row["passed"] for row in score.rows] == [None] * 4
    assert [(row["pass_rate"], row["verdict"], row["reason"]) for row in score.rows] == [(None, None, "spawn")] * 4
    assert score.infra == 4 and score.counts == {"MBPP/1": (0, 0), "MBPP/2": (0, 0)}


def test_the_report_says_pass_at_k_and_counts(tmp_path):
    problems, samples = many(tmp_path, 12)
    console = Console(record=True, width=120, file=open(os.devnull, "w"))  # noqa: SIM115
    score = run_score(problems, samples, sandbox=QUICK, console=console)
    console.file.close()
    said = console.export_text()
    assert score.counts == {"MBPP/1": (6, 4), "MBPP/2": (6, 6)}
    assert "pass@1: 83.33%" in said and "pass@5: 100.00%" in said and "pass@10" not in said
    assert "12 samples of 2 problems; 0 problems without samples" in said
    assert "weak verdicts: 0, timeouts: 0, quarantined: 0, lost to the sandbox: 0" in said
    assert "programs/s" in said and "sandbox tier" in said
