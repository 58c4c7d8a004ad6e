"""A right program passes and a wrong one fails, for a problem of every published format."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.formats.table import PROBLEM_FORMATS
from couplet.data.problem_sets import load_problems
from couplet.evaluation.score_file import score_file
from couplet.evaluation.soundness import unsound_problems
from couplet.reward.worker import RewardWorker
from tests.data.test_formats import CALLS, PROGRAM, ROWS, write

RIGHT = {
    "own": PROGRAM,
    "mbpp+": "def top(xs):\n    return {1, -float('inf')} if len(xs) == 2 else (1.5, None) if xs else set()\n",
}
INC = "def inc(x):\n    return x + 1\n"
SOLUTION = "class Solution:\n    def inc(self, x: int) -> int:\n        return x + 1\n"


def right(problem, name):
    if problem.stdio:
        return PROGRAM
    return {"leetcode": SOLUTION, "humaneval-infilling": "    y = x + 1\n"}.get(name) or RIGHT.get(name, INC)


@pytest.fixture(scope="module")
def worker():
    with RewardWorker(RewardConfig(), SandboxConfig(cpu_seconds=3.0)) as found:
        yield found


@pytest.mark.parametrize("name", sorted(PROBLEM_FORMATS))
def test_right_passes_and_wrong_fails(tmp_path, name):
    row = dict(ROWS[name][0])
    if name == "mbpp+":
        row["test_list"] = ["assert top([1, 2, 3]) == (1.5, None)"]
    if name == "bigcodebench":
        row["libs"] = "['os']"
    source = write(tmp_path / "f.jsonl", row)
    (problem,) = load_problems(source)
    program = right(problem, name)
    rows = [{"task_id": problem.problem_id, "completion": text} for text in (program, program.replace("1", "2"), "")]
    score = score_file(source, write(tmp_path / "s.jsonl", *rows), sandbox=SandboxConfig(cpu_seconds=3.0))
    assert [row["passed"] for row in score.rows] == [True, False, False]


def test_calls_of_apps_in_a_class_and_as_a_function(tmp_path):
    row = {**ROWS["apps"][0], "input_output": json.dumps(CALLS)}
    source = write(tmp_path / "f.jsonl", row)
    rows = [{"task_id": "4", "solution": text} for text in (INC, SOLUTION, INC.replace("1", "2"), "print(2)")]
    score = score_file(source, write(tmp_path / "s.jsonl", *rows), sandbox=SandboxConfig(cpu_seconds=3.0))
    assert [row["passed"] for row in score.rows] == [True, True, False, False]
    assert {row["verdict"] for row in score.rows} == {"strong"}


def test_a_checker_decides_when_several_answers_are_right(tmp_path):
    program = "import sys\nread = lambda p: open(p).read().split()\ni, e, a = map(read, sys.argv[1:])\nprint(int(sorted(e) == sorted(a)))\n"
    row = {
        **ROWS["codeforces"][0],
        "generated_checker": program,
        "examples": [],
        "official_tests": [{"input": "3 4\n", "output": "3 4\n"}],
    }
    source = write(tmp_path / "f.jsonl", row)
    programs = ("print(*input().split()[::-1])", "print(input())", "print(3)", "print('3 4 4')", "print(1)")
    rows = [{"task_id": "1/A", "solution": text} for text in programs]
    score = score_file(source, write(tmp_path / "s.jsonl", *rows), sandbox=SandboxConfig(cpu_seconds=3.0))
    assert [row["passed"] for row in score.rows] == [True, True, False, False, False]


def test_parquet_of_verl_with_nested_columns(tmp_path):
    pq.write_table(pa.Table.from_pylist([ROWS["verl"][0]]), tmp_path / "v.parquet")
    source = str(tmp_path / "v.parquet")
    rows = [{"task_id": "taco/7", "solution": text} for text in (PROGRAM, "print(2)")]
    score = score_file(source, write(tmp_path / "s.jsonl", *rows), sandbox=SandboxConfig(cpu_seconds=3.0))
    assert [row["passed"] for row in score.rows] == [True, False]


def test_the_problems_of_every_format_are_sound(tmp_path, worker):
    problems = [
        load_problems(write(tmp_path / f"{number}.jsonl", row))[0] for number, (row, _) in enumerate(ROWS.values())
    ]
    assert unsound_problems(problems, worker.judge) == {}
