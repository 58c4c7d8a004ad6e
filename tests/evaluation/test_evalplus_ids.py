"""Sample files carry the task ids of EvalPlus, and are scored here against either spelling."""

from __future__ import annotations

import json

import pytest

from couplet.data.problem_sets import load_problems
from couplet.evaluation.benchmark import write_samples
from couplet.evaluation.samples import SampleFileError, read_samples

MBPP = {"text": "Add one.", "code": "def f(x):\n    return x + 1", "test_list": ["assert f(1) == 2"]}
HUMANEVAL = {"prompt": "def f(x):\n", "entry_point": "f", "canonical_solution": "    return x + 1\n"}


def problems_of(tmp_path, rows):
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_problems(str(path))


def written(tmp_path, problems):
    records = [{"completions": [{"text": "```python\ndef f(x):\n    return x + 1\n```"}]} for _ in problems]
    write_samples(tmp_path / "samples.jsonl", problems, records)
    return [json.loads(line)["task_id"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()]


def test_mbpp_samples_have_the_ids_of_evalplus(tmp_path):
    problems = problems_of(tmp_path, [MBPP | {"task_id": number} for number in (11, 12)])
    assert written(tmp_path, problems) == ["Mbpp/11", "Mbpp/12"]
    assert [sample.problem for sample in read_samples(tmp_path / "samples.jsonl", problems)] == problems


def test_humaneval_and_mbpp_plus_samples_keep_theirs(tmp_path):
    inputs = {"base_input": [[1]], "plus_input": [[2]]}
    row = HUMANEVAL | {"task_id": "HumanEval/0", "test": "def check(f):\n    assert f(1) == 2\n"}
    assert written(tmp_path, problems_of(tmp_path, [row])) == ["HumanEval/0"]
    row = HUMANEVAL | {"task_id": "Mbpp/11", "prompt": '"""Add one."""\n', **inputs}
    row["canonical_solution"] = "def f(x):\n    return x + 1\n"
    assert written(tmp_path, problems_of(tmp_path, [row])) == ["Mbpp/11"]


@pytest.mark.parametrize("task", ["Mbpp/11", "MBPP/11", "11", 11])
def test_samples_of_either_spelling_are_read(tmp_path, task):
    problems = problems_of(tmp_path, [MBPP | {"task_id": 11}])
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps({"task_id": task, "solution": "def f(x): return x + 1"}) + "\n")
    assert read_samples(path, problems)[0].problem is problems[0]
    path.write_text(json.dumps({"task_id": "mbpp/11", "solution": "x"}) + "\n")
    with pytest.raises(SampleFileError, match="unknown task_id 'mbpp/11'"):
        read_samples(path, problems)
