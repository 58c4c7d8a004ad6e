"""A column of another type, or one that is not there, is an error that names file, line and column; never garbage."""

import json

import pytest

from couplet.data.formats.columns import RowError, identifier, number, text, texts
from couplet.data.formats.parquet import ProblemFileError
from couplet.data.problem_sets import load_problems
from tests.data.reading import prepare

MBPP = {"task_id": 12, "text": "Add.", "code": "def add(a, b): return a + b", "test_list": ["assert add(1, 2) == 3"]}
HUMANEVAL = {
    "task_id": "HumanEval/7",
    "prompt": "def add(a, b):\n",
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
PLUS = {
    "task_id": "HumanEval/7",
    "prompt": "def add(a, b):\n",
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "base_input": [[1, 2]],
    "plus_input": [],
}
RATED = {"model_name": "qwen_coder_2.5", "pass_rate": 0.5, "completion": "x"}
ACECODE = {"id": "oss_1", "question": "Add.", "test_cases": ["assert add(1, 2) == 3"], "inferences": [RATED]}
OWN = {"problem_id": "p", "question": "Add.", "tests": ["assert add(1, 2) == 3"]}
COLUMNS = {"id": "a", "prompt": "Add.", "tests": ["assert add(1, 2) == 3"], "fn": "add", "setup": "import math"}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("row", "column", "value", "expected"),
    [
        (MBPP, "test_list", "assert add(1, 2) == 3", "a list of texts"),
        (MBPP, "test_list", ["assert add(1, 2) == 3", 4], "a list of texts"),
        (MBPP, "test_list", ["assert add(1, 2"], "Python"),
        (MBPP, "test_imports", "import math", "a list of texts"),
        (MBPP, "text", ["Add."], "text"),
        (HUMANEVAL, "test", ["assert add(1, 2) == 3"], "text"),
        (HUMANEVAL, "test", "def check(candidate:\n", "Python"),
        (HUMANEVAL, "entry_point", {"name": "add"}, "text"),
        (PLUS, "base_input", "[[1, 2]]", "a list of argument lists"),
        (PLUS, "plus_input", [1, 2], "a list of argument lists"),
        (PLUS, "atol", "1e-6", "a finite number"),
        (ACECODE, "test_cases", "assert add(1, 2) == 3", "a list of texts"),
        (ACECODE, "inferences", [[1]], "a list of inferences"),
        (ACECODE, "question", ["Add."], "text"),
        (OWN, "tests", "assert add(1, 2) == 3", "a list of texts"),
        (OWN, "question", 3, "text"),
        (OWN, "metadata", [1], "a JSON object"),
    ],
)
def test_published_formats_name_the_place_and_the_column(tmp_path, row, column, value, expected):
    source = write(tmp_path / "x.jsonl", row, {**row, column: value})
    with pytest.raises(ProblemFileError, match=rf"x\.jsonl:2: .*'{column}' is .*expected {expected}"):
        load_problems(source)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.5", True, [0.5]])
def test_a_pass_rate_that_is_not_a_finite_number_is_refused_by_its_place(tmp_path, value):
    source = write(tmp_path / "a.jsonl", ACECODE, {**ACECODE, "id": 2, "inferences": [{**RATED, "pass_rate": value}]})
    with pytest.raises(ProblemFileError, match=r"a\.jsonl:2: .*'pass_rate' is .*expected a finite number"):
        prepare("acecode", source, tmp_path / "o.parquet")


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("prompt", ["Add."], "text"),
        ("prompt", {"text": "Add."}, "text"),
        ("tests", {"assert add(1, 2) == 3": 1}, "text or a list of texts"),
        ("tests", [["assert add(1, 2) == 3"]], "text or a list of texts"),
        ("tests", 5, "text or a list of texts"),
        ("tests", "add of 1 and 2 is 3", "Python"),
        ("tests", '["assert add(1, 2) == 3", "assert ("]', "Python"),
        ("tests", ["assert True", "\0"], "Python"),
        ("id", [1], "text or a whole number"),
        ("fn", ["add"], "text"),
        ("setup", "import (", "Python"),
    ],
)
def test_mapped_columns_name_the_place_and_the_column(tmp_path, column, value, expected):
    columns = {"entry_point": "fn", "setup": "setup"}
    source = write(tmp_path / "x.jsonl", COLUMNS, {**COLUMNS, "id": "b", column: value})
    with pytest.raises(ProblemFileError, match=rf"x\.jsonl:2: .*'{column}' is .*expected {expected}"):
        prepare("columns", source, tmp_path / "o.parquet", columns=columns)


def test_an_explicitly_mapped_column_must_exist(tmp_path):
    source = write(tmp_path / "x.jsonl", COLUMNS, {**COLUMNS, "id": "b"})
    with pytest.raises(ProblemFileError, match=r"x\.jsonl:2: missing column 'nope' \(role entry_point\), as in every"):
        prepare("columns", source, tmp_path / "o.parquet", columns={"entry_point": "nope"})
    with pytest.raises(ProblemFileError, match=r"x\.jsonl:1: problem 'a': missing column 'nope' \(role id\)"):
        prepare("columns", source, tmp_path / "o.parquet", columns={"id": "nope"})
    sparse = write(
        tmp_path / "y.jsonl", {**COLUMNS, "fn": None}, {**COLUMNS, "id": "b"}, {"prompt": "p", "tests": "assert f()"}
    )
    prepare("columns", sparse, tmp_path / "o.parquet", columns={"entry_point": "fn"})
    found = load_problems(str(tmp_path / "o.parquet"))
    assert [(p.problem_id, p.entry_point) for p in found] == [("a", None), ("b", "add"), ("y/2", None)]


@pytest.mark.parametrize(
    ("set_name", "options", "named"),
    [
        ("mbpp", {"level": "easy"}, "--level, which is for acecode"),
        ("mbpp", {"columns": {"prompt": "text"}}, "--columns, which is for columns"),
        ("mbpp", {"double": False}, "--no-double, which is for acecode"),
        ("columns", {"level": "hard"}, "--level, which is for acecode"),
        ("humaneval", {"split": "test"}, "--split, which is for mbpp and katas"),
        ("acecode", {"split": "test"}, "--split, which is for mbpp and katas"),
        ("humaneval+", {"seed": 3}, "--seed, which is for katas"),
        ("mbpp", {"drop_overlaps": "any"}, "--ngram and --drop have no effect without --benchmarks"),
        ("katas", {"split": "rl"}, "--source .* and --split rl; give one of them"),
    ],
)
def test_an_option_that_a_set_does_not_use_is_refused(tmp_path, set_name, options, named):
    source = write(tmp_path / "m.jsonl", MBPP)
    with pytest.raises(ProblemFileError, match=rf"prepare {set_name.replace('+', '.')}: .*{named}"):
        prepare(set_name, source, tmp_path / "o.parquet", **options)
    assert not (tmp_path / "o.parquet").exists()


def test_the_readers_take_what_they_should_and_their_defaults():
    row = {"text": "a", "texts": ["a", "b"], "whole": 3, "part": 0.5, "null": None}
    assert text(row, "text") == "a" and text(row, "null", "d") == "d" and text(row, "absent", None) is None
    assert texts(row, "texts") == ("a", "b") and texts(row, "null", ()) == ()
    assert number(row, "whole") == 3.0 and number(row, "part") == 0.5 and number(row, "null", 1.0) == 1.0
    assert identifier(row, "whole") == "3" and identifier(row, "null", "d") == "d"
    for read in (text, texts, number, identifier):
        with pytest.raises(RowError, match=r"missing column 'null' \(found text, texts, whole, part, null\)"):
            read(row, "null")
