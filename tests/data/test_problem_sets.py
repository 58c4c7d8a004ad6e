"""Published problem files: recognised by content, checked line by line, stored without loss."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from couplet.configs.schema import ConfigError
from couplet.data.formats.parquet import (
    ProblemFileError,
    decode_value,
    encode_value,
    problem_to_row,
    write_parquet,
)
from couplet.data.problem import Problem
from couplet.data.problem_sets import load_problems

HUMANEVAL_ROW = {
    "task_id": "HumanEval/7",
    "prompt": 'def add(a, b):\n    """Sum of a and b."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
MBPP_ROW = {
    "text": "Write a function to add.",
    "code": "import math\r\ndef helper(): pass\r\ndef add(a, b):\r\n  return a + b",
    "task_id": 12,
    "test_setup_code": "x = 1",
    "test_list": ["assert math.isclose(add(1, 2), 3)", "assert add(0, 0) == 0"],
    "challenge_test_list": [],
}
SANITISED_ROW = {
    "source_file": "b.ipynb",
    "task_id": 601,
    "prompt": "Write a function to add.",
    "code": "def add(a, b):\n  return a + b",
    "test_imports": ["import math", "import re"],
    "test_list": ["assert add(1, 2) == 3"],
}
PLUS_ROW = {
    **{name: HUMANEVAL_ROW[name] for name in ("task_id", "prompt", "entry_point", "canonical_solution")},
    "contract": "",
    "base_input": [[1, 2]],
    "plus_input": [[3, 4], [5, 6]],
    "atol": 1e-6,
}
ACECODE_ROW = {
    "id": "oss_1",
    "source": "oss",
    "question": "Add two numbers.",
    "test_cases": ["assert add(1, 2) == 3"],
    "inferences": [],
}


def write(path, *rows):
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def test_humaneval_row(tmp_path):
    (problem,) = load_problems(write(tmp_path / "h.jsonl.gz", HUMANEVAL_ROW))
    assert problem.question == (
        'Please complete the following problem:\n```\ndef add(a, b):\n    """Sum of a and b."""\n```\n'
    )
    assert problem.code_prefix == HUMANEVAL_ROW["prompt"] and problem.entry_point == "add"
    assert problem.tests == (HUMANEVAL_ROW["test"],)
    namespace = {}
    exec(problem.canonical_solution + problem.tests[0] + "check(add)", namespace)


def test_mbpp_rows(tmp_path):
    (problem,) = load_problems(write(tmp_path / "m.jsonl", MBPP_ROW))
    assert problem.question == ('```\n"""\nWrite a function to add.\nassert math.isclose(add(1, 2), 3)\n"""\n```\n')
    assert problem.problem_id == "MBPP/12" and problem.entry_point == "add" and problem.test_setup == "x = 1"
    assert problem.canonical_solution == MBPP_ROW["code"].replace("\r\n", "\n")
    (tmp_path / "s.json").write_text(json.dumps([SANITISED_ROW]))
    (sanitised,) = load_problems(str(tmp_path / "s.json"))
    assert sanitised.test_setup == "import math\nimport re" and sanitised.metadata["split"] == "train"


def test_a_published_split_of_mbpp_is_kept_by_name(tmp_path):
    path = write(tmp_path / "m.jsonl", *[{**MBPP_ROW, "task_id": number} for number in (10, 11, 510, 511, 600, 601)])
    assert [p.problem_id for p in load_problems(path + "@test")] == ["MBPP/11", "MBPP/510"]
    assert [p.problem_id for p in load_problems(path + "@validation")] == ["MBPP/511", "MBPP/600"]
    with pytest.raises(ProblemFileError, match="no problem of split 'best'; it has prompt, test, train, validation"):
        load_problems(path + "@best")


def test_plus_sets_carry_inputs_and_tolerance(tmp_path):
    (problem,) = load_problems(write(tmp_path / "h.jsonl", PLUS_ROW))
    assert problem.inputs == ([1, 2], [3, 4], [5, 6]) and problem.metadata["base_inputs"] == 1
    assert problem.atol == 1e-6 and problem.tests == () and problem.source == "humaneval+"
    row = {
        **PLUS_ROW,
        "task_id": "Mbpp/2",
        "prompt": '"""\nAdd.\n"""\n',
        "base_input": [[[1, 2], [3]]],
        "plus_input": [],
    }
    (problem,) = load_problems(write(tmp_path / "m.jsonl", row))
    assert problem.inputs == ([(1, 2), (3,)],)
    assert problem.question == '```\n"""\nAdd.\n"""\n```\n' and problem.code_prefix == ""


@pytest.mark.parametrize(
    ("number", "stored", "meant"),
    [
        (63, [[[1, 2]]], [[(1, 2)]]),
        (75, [[[1, 2]], 3], [[(1, 2)], 3]),
        (106, [[1], [2]], [[1], (2,)]),
        (115, [[[1], [], {}]], [[{1}, {}, {}]]),
        (124, ["1", "2j"], [1.0, 2j]),
        (252, ["1+2j"], [1 + 2j]),
        (259, [[[1], [2]]], [((1,), (2,))]),
        (278, [[1, [2]]], [(1, (2,))]),
        (307, [[1], 2, 3], [(1,), 2, 3]),
        (580, [[1, [2]]], [(1, (2,))]),
        (722, [{"a": [1]}, 2], [{"a": (1,)}, 2]),
        (3, [[1]], [[1]]),
    ],
)
def test_mbpp_plus_inputs_regain_their_types(tmp_path, number, stored, meant):
    row = {**PLUS_ROW, "task_id": f"Mbpp/{number}", "prompt": '"""Add."""\n', "base_input": [stored], "plus_input": []}
    (problem,) = load_problems(write(tmp_path / "m.jsonl", row))
    assert problem.inputs == (meant,) and repr(problem.inputs[0]) == repr(meant)


def test_parquet_in_a_published_format_is_recognised_too(tmp_path):
    pq.write_table(pa.Table.from_pylist([HUMANEVAL_ROW]), tmp_path / "h.parquet")
    assert load_problems(str(tmp_path / "h.parquet")) == load_problems(write(tmp_path / "h.jsonl", HUMANEVAL_ROW))


def test_acecode_file_loads_whole_without_ratings(tmp_path):
    (problem,) = load_problems(write(tmp_path / "a.jsonl", ACECODE_ROW))
    assert problem.question == "Add two numbers.\nTest cases: assert add(1, 2) == 3" and problem.entry_point == "add"


def sample_problem(number=0):
    return Problem(
        problem_id=f"p/{number}",
        question="q é",
        tests=("assert f(1) == 2", "assert f(2) == 3"),
        entry_point="f",
        code_prefix="def f(x):",
        test_setup="import math",
        canonical_solution="def f(x): return x + 1",
        inputs=([(1, {2, 3}), {"k": 1j, 2: None}], [float("inf"), [True]]),
        atol=0.5,
        source="s",
        metadata={"b": [1], "a": "x"},
    )


def test_parquet_round_trip_is_exact_and_bytes_are_deterministic(tmp_path):
    problems = [sample_problem(i) for i in range(3)] + [Problem("bare", "q", tests=("assert f()",))]
    write_parquet(problems, tmp_path / "one.parquet")
    write_parquet(problems, tmp_path / "sub" / "two.parquet")
    assert load_problems(str(tmp_path / "one.parquet")) == problems
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "sub" / "two.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.parquet", "sub"]


def test_own_columns_as_json_lines_and_limit(tmp_path):
    path = write(tmp_path / "own.jsonl", *[problem_to_row(sample_problem(i)) for i in range(4)])
    assert load_problems(path, limit=2) == [sample_problem(0), sample_problem(1)]


@pytest.mark.parametrize("value", [(), set(), {"tuple": 1}, {(1, 2): {3}}, [[1.5], "x", None], 1 + 2j, True])
def test_values_survive_their_encoding(value):
    decoded = decode_value(json.loads(json.dumps(encode_value(value))))
    assert decoded == value and type(decoded) is type(value)


def test_generated_sets_load_by_name():
    assert [p.problem_id for p in load_problems("katas:rl", seed=2, limit=3)] != [
        p.problem_id for p in load_problems("katas:rl", seed=3, limit=3)
    ]
    assert len(load_problems("arithmetic:heldout")) == 120
    with pytest.raises(ProblemFileError, match="no split 'best'"):
        load_problems("katas:best")


def test_faults_name_file_and_line(tmp_path):
    def fails(match, *rows, name="x.jsonl"):
        path = tmp_path / name
        path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
        with pytest.raises(ProblemFileError, match=match):
            load_problems(str(path))

    other = {**HUMANEVAL_ROW, "task_id": "HumanEval/8"}
    fails(r"x\.jsonl:2: broken JSON", HUMANEVAL_ROW, '{"task_id": \n')
    fails(r"x\.jsonl:3: problem id 'HumanEval/7' occurs before, at .*x\.jsonl:1", HUMANEVAL_ROW, other, HUMANEVAL_ROW)
    without = {name: value for name, value in other.items() if name != "test"}
    fails(r"x\.jsonl:2: problem 'HumanEval/8': missing column 'test' of HumanEval", HUMANEVAL_ROW, without)
    fails(r"x\.jsonl:1: problem 'HumanEval/7': 'test' holds no test", {**HUMANEVAL_ROW, "test": " "})
    fails(r"x\.jsonl:1: problem 'MBPP/12' has no tests", {**MBPP_ROW, "test_list": []})
    fails(r"x\.jsonl:1: problem 12: a column holds something unexpected", {**MBPP_ROW, "code": 3})
    fails(r"x\.jsonl:1: expected a JSON object, found list", "[1]\n")
    fails(r"x\.jsonl: the file is empty", "\n\n")
    fails(r"unknown problem format \(columns a, b\)", {"a": 1, "b": 2})
    fails(r"x\.txt: not a JSONL\(\.gz\), JSON or Parquet file", "{}", name="x.txt")
    with pytest.raises(ProblemFileError, match="no such file"):
        load_problems(str(tmp_path / "absent.jsonl"))


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", refuse)
    with pytest.raises(ConfigError, match=r"cannot write .*p\.parquet: No space left on device; free some space"):
        write_parquet([sample_problem()], tmp_path / "p.parquet")
