"""Decontamination against benchmarks that share problems, and of sets that do not name their functions."""

import json

import pytest

from couplet.data.decontaminate import FRAME_PROBLEMS, find_overlaps
from couplet.data.problem import Problem
from couplet.data.syntax import called_function
from tests.data.reading import prepare

LEAK = "Write a function to find the shared elements from the given two lists of whole numbers."
TESTS = ["assert similar_elements((3, 4), (5, 4)) == (4,)"]
MBPP = {"task_id": 2, "text": LEAK, "code": "def similar_elements(a, b):\n    return a", "test_list": TESTS}
PLUS = {
    "task_id": "Mbpp/2",
    "prompt": f'"""\n{LEAK}\n{TESTS[0]}\n"""\n',
    "entry_point": "similar_elements",
    "canonical_solution": "def similar_elements(a, b):\n    return a\n",
    "base_input": [[[3, 4], [5, 4]]],
    "plus_input": [],
}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def acecode(number, question, test):
    return {"id": f"oss_{number}", "source": "oss", "question": question, "test_cases": [test], "inferences": []}


def reasons(found):
    return [(overlap.problem_id, overlap.reason) for overlap in found]


def test_one_problem_in_two_benchmark_files_is_still_found(tmp_path):
    files = [write(tmp_path / "mbpp.jsonl", MBPP), write(tmp_path / "plus.jsonl", PLUS)]
    rows = [acecode(0, LEAK, "assert g(1) == 1"), acecode(1, "Count the vowels.", "assert vowels('a') == 1")]
    source = write(tmp_path / "ace.jsonl", *rows)
    for benchmarks in (files, files[::-1], files[:1], files[1:]):
        summary = prepare("acecode", source, tmp_path / "o.parquet", level="all", benchmarks=benchmarks)
        assert reasons(summary.overlaps) == [("oss_0", "ngram")] and summary.kept == 1


def numbered(kind, count, frame):
    return [Problem(f"{kind}/{i}", f"{frame} word{i}") for i in range(count)]


FRAME = "please write one short function that solves the problem below with"
TRAINED = [Problem("t", f"{FRAME} something else")]


def test_a_frame_is_what_several_problems_of_one_file_share():
    assert FRAME_PROBLEMS == 5
    assert find_overlaps(TRAINED, numbered("B", 5, FRAME)) == []
    assert reasons(find_overlaps(TRAINED, numbered("B", 4, FRAME))) == [("t", "ngram")]
    # Three problems of each of two files do not make a frame of either; the frame of one is not the other's content.
    assert reasons(find_overlaps(TRAINED, numbered("B", 3, FRAME), numbered("C", 3, FRAME))) == [("t", "ngram")]
    assert find_overlaps(TRAINED, numbered("B", 5, FRAME), numbered("C", 1, FRAME)) == []


def test_ids_that_differ_in_case_are_one_problem():
    both = [*numbered("MBPP", 4, FRAME), *numbered("Mbpp", 4, FRAME)]
    assert reasons(find_overlaps(TRAINED, both)) == [("t", "ngram")]


@pytest.mark.parametrize(
    ("tests", "solution", "name"),
    [
        (("assert add(1, 2) == 3",), None, "add"),
        (("assert sorted(merge([1], [2])) == [1, 2]",), None, "merge"),
        (("import math\nassert math.isclose(area(2), 4)",), None, "area"),
        (("from math import isclose\nassert isclose(area(2), 4)",), None, "area"),
        (("def check(candidate):\n    assert candidate(1) == 2\ncheck(plus)",), None, None),
        (("assert close(area(2), 4)",), "def area(r): return r", "area"),
        (("assert x == 3",), None, None),
        (("assert (",), None, None),
        ((), "def f(): pass", None),
    ],
)
def test_the_function_that_tests_call(tests, solution, name):
    assert called_function(tests, solution) == name


def test_sets_without_an_entry_point_are_checked_by_the_function_their_tests_call(tmp_path):
    benchmark = write(tmp_path / "mbpp.jsonl", MBPP)
    rows = [{"prompt": "Which do both have?", "tests": TESTS}, {"prompt": "Sub.", "tests": ["assert sub(2, 1) == 1"]}]
    source = write(tmp_path / "own.jsonl", *rows)
    options = {"benchmarks": [benchmark], "drop_overlaps": "any"}
    summary = prepare("columns", source, tmp_path / "o.parquet", **options)
    assert reasons(summary.overlaps) == [("own/0", "name")] and summary.kept == 1


def test_acecode_without_benchmarks_says_so_in_one_line(tmp_path):
    source = write(tmp_path / "ace.jsonl", acecode(0, "Add.", "assert add(1, 2) == 3"))
    text = prepare("acecode", source, tmp_path / "o.parquet", level="all").text()
    assert [line for line in text.splitlines() if "warning" in line] == [
        "  warning: not checked against any benchmark; --benchmarks HumanEval.jsonl mbpp.jsonl leaves out what "
        "resembles them"
    ]
    benchmark = write(tmp_path / "mbpp.jsonl", MBPP)
    checked = prepare("acecode", source, tmp_path / "o.parquet", level="all", benchmarks=[benchmark])
    assert "warning" not in checked.text() and checked.kept == 1
