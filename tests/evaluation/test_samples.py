"""Sample files in every form they come in, and what is wrong with them, by name."""

import gzip
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from couplet.configs.schema import SandboxConfig
from couplet.data.problem import Problem
from couplet.data.problem_sets import load_problems
from couplet.evaluation.samples import SampleFileError, read_samples
from couplet.evaluation.score_file import score_file

PROBLEMS = [Problem(f"p/{i}", "q", (f"assert f(1) == {i}",), "f") for i in range(3)]
ROWS = [
    {"task_id": "p/1", "solution": "def f(x): return 1"},
    {"task_id": 0, "completion": "```python\ndef f(x): return 0\n```"},
    {"task_id": "1", "completion": None},
    {"task_id": "p/1", "completion": "no", "solution": "def f(x): return x"},
    {"task_id": "p/2", "completion": "def f(x): return 2", "solution": None},
]
READ = [
    ("p/1", 0, "def f(x): return 1", "p/1"),
    ("p/0", 0, "def f(x): return 0\n", 0),
    ("p/1", 1, "", "1"),
    ("p/1", 2, "def f(x): return x", "p/1"),
    ("p/2", 0, "def f(x): return 2", "p/2"),
]


def jsonl(path, rows=ROWS, start=""):
    path.write_text(start + "".join(json.dumps(row) + "\n" for row in rows))


def parquet(path, kind):
    rows = [{**row, "task_id": str(row["task_id"])} for row in ROWS]
    columns = ("task_id", "completion", "solution")
    arrays = [pa.array([row.get(name) for row in rows], pa.string()) for name in columns]
    made = [array.dictionary_encode() if kind == "dictionary" else array.cast(kind) for array in arrays]
    pq.write_table(pa.table(dict(zip(columns, made))), path)


WRITERS = {
    "a.jsonl": jsonl,
    "b.txt": jsonl,
    "c.jsonl ": lambda path: jsonl(path, start="\ufeff"),
    "d.json": lambda path: path.write_text(json.dumps(ROWS)),
    "e.json": lambda path: path.write_text("\ufeff" + json.dumps(ROWS, indent=1)),
    "f.jsonl": lambda path: path.write_text(json.dumps(ROWS)),
    "g.jsonl.gz": lambda path: path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in ROWS).encode())),
    "h.parquet": lambda path: parquet(path, pa.string()),
    "i.parquet": lambda path: parquet(path, pa.large_string()),
    "j.parquet": lambda path: parquet(path, pa.string_view()),
    "k.parquet": lambda path: parquet(path, "dictionary"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_of_a_sample_file_gives_the_same_samples(tmp_path, name, caplog):
    path = tmp_path / name.strip()
    WRITERS[name](path)
    with caplog.at_level(logging.WARNING):
        found = [(s.problem.problem_id, s.number, s.program, s.task_id) for s in read_samples(path, PROBLEMS)]
    expected = [(*row[:3], str(row[3])) if name.endswith(".parquet") else row for row in READ]
    assert found == expected
    if not name.endswith(".parquet"):
        assert [r.getMessage() for r in caplog.records] == [
            f"{path}: 1 samples have a completion and a solution; the solution counts"
        ]


def test_generations_are_lists_of_programs_in_the_order_of_the_problems(tmp_path):
    path = tmp_path / "generations.json"
    path.write_text(json.dumps([["def f(x): return 0", None], [], ["def f(x): return 2"]]))
    found = [(s.task_id, s.number, s.program) for s in read_samples(path, PROBLEMS)]
    assert found == [("p/0", 0, "def f(x): return 0"), ("p/0", 1, ""), ("p/2", 0, "def f(x): return 2")]
    path.write_text(json.dumps([["def f(x): return 0"]]))
    with pytest.raises(
        SampleFileError, match=r"generations\.json: holds programs for 1 problems; the problem file has 3"
    ):
        read_samples(path, PROBLEMS)
    path.write_text(json.dumps([["x"], ["y"], [3]]))
    with pytest.raises(
        SampleFileError, match=r"generations\.json: item 3, program 1: solution must be a string, not int"
    ):
        read_samples(path, PROBLEMS)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[" * 100_000, "s.jsonl:2: JSON that cannot be read"),
        ('{"task_id": "p/1", "solution": ' + "[" * 100_000, "s.jsonl:2: JSON that cannot be read"),
        ('{"task_id": "p/1", "solution": ' + "9" * 5000 + "}", "s.jsonl:2: JSON that cannot be read"),
        ('{"task_id": true, "solution": "x"}', "s.jsonl:2: a sample is an object with a task_id"),
        ('{"task_id": ["p/1"], "solution": "x"}', "s.jsonl:2: a sample is an object with a task_id"),
        ('{"task_id": "p/1"', "s.jsonl:2: broken JSON"),
    ],
    ids=["brackets", "nested", "digits", "true", "list", "broken"],
)
def test_a_broken_line_among_good_ones_is_named(tmp_path, line, said):
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + line + "\n" + json.dumps(ROWS[1]) + "\n")
    with pytest.raises(SampleFileError, match=said):
        read_samples(path, PROBLEMS)


def test_a_file_of_null_bytes_and_a_missing_one_are_errors(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SampleFileError, match=r"s\.jsonl"):
        read_samples(path, PROBLEMS)
    with pytest.raises(SampleFileError, match=r"absent\.jsonl: cannot be read: no such file"):
        read_samples(tmp_path / "absent.jsonl", PROBLEMS)


def test_base_and_additional_tests_are_counted_apart_and_brackets_only_fail(tmp_path):
    row = {
        "task_id": 9,
        "prompt": '"""\nAdd one.\n"""\n',
        "entry_point": "inc",
        "canonical_solution": "\ndef inc(x):\n    return x + 1\n",
        "base_input": [[1]],
        "plus_input": [[2], [3]],
        "atol": 0,
    }
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    programs = ("def inc(x): return x + 1", "def inc(x): return 2", "def inc(x): return 0", "x = " + "(" * 100_000)
    jsonl(tmp_path / "s.jsonl", [{"task_id": 9, "solution": program} for program in programs])
    score = score_file(tmp_path / "p.jsonl", tmp_path / "s.jsonl", sandbox=SandboxConfig(cpu_seconds=2.0))
    assert [row["passed"] for row in score.rows] == [True, False, False, False]
    assert [row["task_id"] for row in score.rows] == [9] * 4
    assert score.counts == {"Mbpp/9": (4, 1)} and score.base_counts == {"Mbpp/9": (4, 2)}
    assert load_problems(str(tmp_path / "p.jsonl"))[0].metadata["plus_tests"] == 2
