"""Every published format is recognised by its columns, read in full, and survives our Parquet."""

import base64
import json
import os
import pickle
import zlib

import pytest

from couplet.configs.errors import UserError
from couplet.data.formats.cases import read_tests
from couplet.data.formats.columns import RowError, UnjudgeableRow
from couplet.data.formats.parquet import ProblemFileError, write_parquet
from couplet.data.formats.table import PROBLEM_FORMATS, format_of
from couplet.data.problem import CallCase, Comparison, StdioCase, Suite
from couplet.data.problem_sets import load_problems
from couplet.data.syntax import parses
from tests.data.reading import prepare

CHECK = "def check(candidate):\n    assert candidate(1) == 2\n"
PROMPT = 'def inc(x):\n    """Add one."""\n'
PROGRAM = "print(int(input()) + 1)\n"
IO = {"inputs": ["1\n", "2\n"], "outputs": ["2\n", "3\n"]}
CASES = (StdioCase("1\n", "2\n"), StdioCase("2\n", "3\n"))
CALLS = {"fn_name": "inc", "inputs": [[1], [2]], "outputs": [2, [3]]}
LCB = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]
LCB_MORE = [{"input": "2\n", "output": "3\n", "testtype": "stdin"}]
LCB_CALL = [{"input": '[1, 2]\n"a"', "output": "[3]", "testtype": "functional"}]
TESTCASE = (
    "import unittest\nclass TestCases(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(inc(1), 2)\n"
)
PYTEST = "from solution import inc\n\ndef test_a():\n    assert inc(1) == 2\n"


def packed(cases):
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


HELPERS = (
    "import numpy as np\nfrom math import inf\n\ndef is_floats(x) -> bool:\n    return isinstance(x, float)\n\n"
    "def assertion(out, exp, atol):\n    if out != exp:\n        assert np.allclose(out, exp, rtol=1e-07, atol=atol)\n\n"
)
LOOP = "inputs = [[[1, 2]], [[]], [[1]]]\nresults = [{1, -inf}, set(), (1.5, None)]\n"
LOOP += "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(top(*inp), exp, 1e-6)\n"
REFERENCE = "def ref_func(xs):\n    return xs\n\ndef check(candidate):\n    inputs = [[[1]], [[2]]]\n"
REFERENCE += "    for i, inp in enumerate(inputs):\n        assertion(candidate(*inp), ref_func(*inp), 0)\n"


def indented(source):
    return "".join(f"    {line}\n" for line in source.splitlines())


ROWS = {  # name -> (row, fields of the problem it becomes)
    "own": (
        {
            "problem_id": "a",
            "question": "q",
            "stdio": [["1\n", "2\n"], ["2\n", "3\n"]],
            "comparison": {"rule": "exact"},
        },
        {"stdio": CASES, "comparison": Comparison("exact")},
    ),
    "verl": (
        {
            "data_source": "taco",
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add one."}],
            "ability": "code",
            "reward_model": {"style": "rule", "ground_truth": json.dumps(IO)},
            "extra_info": {"index": 7, "split": "train"},
        },
        {"problem_id": "taco/7", "question": "Add one.", "metadata": {"system": "Be brief."}, "stdio": CASES},
    ),
    "livecodebench": (
        {
            "question_title": "A",
            "question_content": "Add one.",
            "question_id": "1873_A",
            "starter_code": "",
            "difficulty": "easy",
            "public_test_cases": json.dumps(LCB),
            "private_test_cases": packed(LCB_MORE),
            "metadata": "{}",
        },
        {"problem_id": "1873_A", "stdio": CASES, "comparison": Comparison("tokens"), "source": "livecodebench"},
    ),
    "codeforces": (
        {
            "id": "1/A",
            "title": "A",
            "description": "Add one.",
            "input_format": "n",
            "time_limit": 2.0,
            "examples": [{"input": "1\n", "output": "2\n"}],
            "official_tests": [{"input": "2\n", "output": "3\n"}],
            "input_mode": "stdio",
        },
        {"problem_id": "1/A", "stdio": CASES, "metadata": {"time_limit": 2.0}},
    ),
    "codecontests": (
        {
            "name": "1_A",
            "description": "Add one.",
            "public_tests": {"input": ["1\n"], "output": ["2\n"]},
            "private_tests": {"input": ["2\n"], "output": ["3\n"]},
            "generated_tests": {"input": [], "output": []},
            "solutions": {"language": [2, 3], "solution": ["int main() {}", PROGRAM]},
            "time_limit": {"seconds": 1, "nanos": 500000000},
            "input_file": "",
        },
        {"problem_id": "1_A", "stdio": CASES, "canonical_solution": PROGRAM, "metadata": {"time_limit": 1.5}},
    ),
    "cure": (
        {"task_id": 3, "question": "Add one.", "test_input": IO["inputs"], "test_output": IO["outputs"]},
        {"problem_id": "3", "stdio": CASES},
    ),
    "apps": (
        {
            "problem_id": 4,
            "question": "Add one.",
            "solutions": json.dumps(["print 'python 2'", PROGRAM]),
            "input_output": json.dumps(IO),
            "difficulty": "interview",
            "starter_code": "",
        },
        {"problem_id": "4", "stdio": CASES, "canonical_solution": PROGRAM, "metadata": {"difficulty": "interview"}},
    ),
    "synthetic-1": (
        {
            "problem_id": "p1",
            "prompt": "Add one.",
            "verification_info": json.dumps(
                {"language": "python", "test_cases": [{"type": "stdin_stdout", "input": "1\n", "output": "2\n"}]}
            ),
            "gold_standard_solution": f"```python\n{PROGRAM}```",
        },
        {"problem_id": "p1", "stdio": CASES[:1], "canonical_solution": PROGRAM},
    ),
    "deepcoder": (
        {"problem": "Add one.", "solutions": [PROGRAM], "tests": json.dumps(IO)},
        {"problem_id": "f/0", "stdio": CASES, "canonical_solution": PROGRAM},
    ),
    "evalplus": (
        {
            "task_id": 2,
            "prompt": '"""\nAdd one.\n"""\n',
            "entry_point": "inc",
            "canonical_solution": "\ndef inc(x):\n    return x + 1\n",
            "base_input": [[1]],
            "plus_input": [[2], [3]],
            "atol": 0,
        },
        {"problem_id": "Mbpp/2", "source": "mbpp+", "code_prefix": "", "metadata": {"plus_tests": 2}},
    ),
    "acecode": (
        {"id": "o1", "question": "Add one.", "test_cases": ["assert inc(1) == 2"], "inferences": []},
        {"problem_id": "o1", "tests": ("assert inc(1) == 2",), "entry_point": "inc"},
    ),
    "mbpp+": (
        {
            "task_id": 2,
            "code": "def top(xs):\n    return set(xs)\n",
            "prompt": "Top.",
            "test_imports": [],
            "test_list": ["assert top([1]) == {1}"],
            "test": HELPERS + LOOP,
        },
        {
            "problem_id": "MBPP/2",
            "tests": ("assert top([1]) == {1}",),
            "calls": (
                CallCase(([1, 2],), {1, float("-inf")}),
                CallCase(([],), set()),
                CallCase(([1],), (1.5, None)),
            ),
            "comparison": Comparison("equal", 1e-6),
            "metadata": {"plus_tests": 3},
        },
    ),
    "mbpp": (
        {"task_id": 12, "text": "Add one.", "code": "def inc(x): return x + 1", "test_list": ["assert inc(1) == 2"]},
        {"problem_id": "MBPP/12", "entry_point": "inc", "tests": ("assert inc(1) == 2",)},
    ),
    "bigcodebench": (
        {
            "task_id": "BigCodeBench/0",
            "complete_prompt": PROMPT,
            "instruct_prompt": "Add one.",
            "code_prompt": "import os\ndef inc(x):",
            "canonical_solution": "    return x + 1\n",
            "test": TESTCASE,
            "entry_point": "inc",
            "libs": "['os', 'numpy.random', 'pandas']",
        },
        {
            "suite": Suite("unittest", TESTCASE),
            "packages": ("numpy", "pandas"),
            "code_prefix": PROMPT,
            "canonical_solution": PROMPT + "    return x + 1\n",
        },
    ),
    "humaneval-infilling": (
        {
            "task_id": "SingleLineInfilling/HumanEval/0/L0",
            "entry_point": "inc",
            "prompt": PROMPT,
            "suffix": "    return y\n",
            "canonical_solution": "    y = x + 1\n",
            "test": CHECK,
        },
        {"code_prefix": PROMPT, "suffix": "    return y\n", "tests": (CHECK,), "source": "humaneval-infilling"},
    ),
    "leetcode": (
        {
            "task_id": "inc",
            "prompt": "from typing import *\n",
            "starter_code": "class Solution:\n    def inc(self, x: int) -> int:\n        ",
            "problem_description": "Add one.",
            "completion": "class Solution:\n    def inc(self, x: int) -> int:\n        return x + 1\n",
            "entry_point": "Solution().inc",
            "test": "def check(candidate):\n    assert candidate(x=1) == 2\n",
        },
        {"entry_point": "Solution().inc", "preamble": "from typing import *\n"},
    ),
    "humaneval": (
        {
            "task_id": "HumanEval/0",
            "prompt": PROMPT,
            "entry_point": "inc",
            "canonical_solution": "    return x + 1\n",
            "test": CHECK,
        },
        {"tests": (CHECK,), "source": "humaneval"},
    ),
    "kodcode": (
        {
            "question_id": "k1",
            "question": "Add one.",
            "solution": "def inc(x):\n    return x + 1\n",
            "test": PYTEST,
            "test_info": [{"function_name": "inc", "function_declaration": "def inc(x):"}],
        },
        {"problem_id": "k1", "suite": Suite("pytest", PYTEST), "entry_point": "inc"},
    ),
    "cases": ({"id": "c", "question": "Add one.", **IO}, {"problem_id": "c", "stdio": CASES}),
}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_rows_are_of_every_format():
    assert set(ROWS) == set(PROBLEM_FORMATS)


@pytest.mark.parametrize("name", PROBLEM_FORMATS)
def test_a_row_is_recognised_read_and_survives_our_parquet(tmp_path, name):
    row, fields = ROWS[name]
    assert format_of(row)[0] == name
    (problem,) = load_problems(write(tmp_path / "f.jsonl", row))
    for field, expected in fields.items():
        found = getattr(problem, field)
        assert (found.items() >= expected.items()) if field == "metadata" else (found == expected), field
    assert problem.is_judgeable and problem.question
    write_parquet([problem], tmp_path / "p.parquet")
    assert load_problems(str(tmp_path / "p.parquet")) == [problem]


@pytest.mark.parametrize("name", PROBLEM_FORMATS)
def test_ids_do_not_decide_the_format(name):
    row = ROWS[name][0]
    changed = {**row, **{key: "MBPP/3" for key in ("task_id", "id", "name", "question_id") if key in row}}
    assert format_of(changed)[0] == name


def test_columns_of_older_problem_files_are_enough(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {
        "problem_id": "a",
        "question": "q",
        "tests": ["assert f() == 1"],
        "inputs": "[]",
        "metadata": "{}",
        "atol": 0.0,
    }
    table = pa.Table.from_pylist([row]).replace_schema_metadata({"couplet.problems": "1"})
    pq.write_table(table, tmp_path / "old.parquet")
    (problem,) = load_problems(str(tmp_path / "old.parquet"))
    assert problem.tests == ("assert f() == 1",) and problem.calls == () and problem.suite is None


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        (LOOP.replace("top(*inp)", "set(top(*inp))").replace("exp, 1", "set(exp), 1"), ("calls", 3)),
        (REFERENCE, ("inputs", 2)),
        ("def check(candidate):\n" + indented(LOOP.replace("top(", "candidate(")), ("calls", 3)),
        (LOOP.replace("assertion(top", "assertion(other"), ("tests", 1)),
        (LOOP.replace("{1, -inf}", "open('x')"), ("tests", 1)),
        (LOOP + "assert top([5]) == {5}\n", ("tests", 1)),
        (LOOP.replace("[[1, 2]], ", ""), ("tests", 1)),
    ],
)
def test_loops_of_evalplus_become_calls_and_other_tests_stay(tmp_path, source, fields):
    row = {**ROWS["humaneval"][0], "entry_point": "top", "test": HELPERS + source}
    if "check" not in source:
        row = {**ROWS["mbpp+"][0], "test": HELPERS + source}
    (problem,) = load_problems(write(tmp_path / "f.jsonl", row))
    name, count = fields
    extra = len(row.get("test_list", ())) if name == "tests" else 0
    assert len(getattr(problem, name)) == count + extra


def test_functional_cases_of_livecodebench_are_calls(tmp_path):
    row = {
        **ROWS["livecodebench"][0],
        "public_test_cases": json.dumps(LCB_CALL),
        "private_test_cases": packed(LCB_CALL),
    }
    row["metadata"], row["starter_code"] = (
        json.dumps({"func_name": "inc"}),
        "class Solution:\n    def inc(self, a, b):\n",
    )
    (problem,) = load_problems(write(tmp_path / "f.jsonl", row))
    assert problem.calls == (CallCase(([1, 2], "a"), [3]),) * 2 and problem.entry_point == "inc"
    assert problem.comparison.rule == "json" and "class Solution" in problem.question and parses(problem.preamble)
    nameless = write(tmp_path / "g.jsonl", {**row, "metadata": "{}"})
    with pytest.raises(ProblemFileError, match=r"g\.jsonl:1: problem '1873_A': .*without the name of the function"):
        load_problems(nameless)


def test_calls_of_apps_accept_an_element_for_a_list_of_it(tmp_path):
    row = {**ROWS["apps"][0], "input_output": json.dumps(CALLS), "starter_code": "def inc(x):"}
    (problem,) = load_problems(write(tmp_path / "f.jsonl", row))
    assert problem.calls == (CallCase((1,), 2), CallCase((2,), [3])) and problem.comparison.rule == "json_or_element"
    numbered = json.dumps({"fn_name": "f", "inputs": [[{"1": 2}, {"a": 1}]], "outputs": [0]})
    (problem,) = load_problems(write(tmp_path / "g.jsonl", {**row, "input_output": numbered}))
    assert problem.calls[0].arguments == ({1: 2}, {"a": 1})


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/never",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps(Evil()), "names posix.system"),
        (pickle.dumps(json.dumps(LCB_MORE))[:-5], "truncated|stack underflow|ran out"),
        (pickle.dumps(7), "must be str"),
        (b"\xff\xfe", "codec"),
    ],
)
def test_compressed_tests_are_never_executed(tmp_path, content, said):
    row = {**ROWS["livecodebench"][0], "private_test_cases": base64.b64encode(zlib.compress(content)).decode()}
    with pytest.raises(ProblemFileError, match=rf"f\.jsonl:1: problem '1873_A': .*private_test_cases.*({said})"):
        load_problems(write(tmp_path / "f.jsonl", row))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("codeforces", {"interaction_format": "ask"}, "'interaction_format' is given: interactive"),
        ("codeforces", {"input_mode": "file"}, "'input_mode' is 'file'"),
        ("codecontests", {"input_file": "in.txt"}, "'input_file' is 'in.txt'"),
        ("apps", {"input_output": ""}, "'input_output' holds no test"),
        ("apps", {"input_output": json.dumps({"inputs": [], "outputs": []})}, "'input_output' holds no case"),
        ("synthetic-1", {"verification_info": {"language": "rust", "test_cases": []}}, "'rust'; only Python"),
        ("deepcoder", {"tests": "1 + 1"}, "neither asserts nor calls"),
        ("mbpp", {"test_list": []}, "has no tests"),
    ],
)
def test_what_nothing_can_judge_is_refused_by_name_and_left_out_by_prepare(tmp_path, name, change, said):

    good = ROWS[name][0]
    bad = {**good, **{key: 99 for key in ("task_id", "id", "name", "problem_id") if key in good}, **change}
    source = write(tmp_path / "f.jsonl", good, bad)
    with pytest.raises(ProblemFileError, match=rf"f\.jsonl:2: .*{said}"):
        load_problems(source)
    summary = prepare("published", source, tmp_path / "o.parquet")
    assert (summary.read, summary.kept, summary.dropped) == (2, 1, {"nothing can judge them": 1})
    assert said.split("'")[-1] in summary.refused[0] and summary.refused[0] in summary.text()
    assert issubclass(UnjudgeableRow, UserError) and len(load_problems(str(tmp_path / "o.parquet"))) == 1


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("apps", {"input_output": json.dumps({"inputs": ["1"], "outputs": []})}, "1 inputs and 0 outputs"),
        ("apps", {"input_output": json.dumps({"fn_name": "f", "inputs": [3], "outputs": [3]})}, "a list of arguments"),
        (
            "apps",
            {"input_output": json.dumps({"inputs": [{"a": 1}], "outputs": ["1"]})},
            "needs? the name of the function",
        ),
        ("apps", {"input_output": json.dumps({"a": 1})}, "cases with inputs and outputs"),
        ("deepcoder", {"tests": json.dumps([{"input": "1"}])}, r"'tests\[0\]'"),
        ("deepcoder", {"tests": "[" * 100_000}, "cases with inputs and outputs"),
        ("verl", {"prompt": [{"role": "user", "content": 3}]}, "each with text as content"),
        ("verl", {"prompt": [{"role": "assistant", "content": "x"}]}, "one of role user"),
        ("bigcodebench", {"libs": "numpy, pandas"}, "a list of packages"),
        ("leetcode", {"prompt": "from typing import ("}, "expected Python"),
        ("own", {"calls": "[[1]]"}, "a JSON list"),
        ("own", {"comparison": {"rules": 1}}, "a JSON object"),
    ],
)
def test_what_is_broken_is_an_error_that_names_place_problem_and_column(tmp_path, name, change, said):
    source = write(tmp_path / "f.jsonl", {**ROWS[name][0], **change})
    with pytest.raises(ProblemFileError, match=rf"f\.jsonl:1: .*'{next(iter(change))}.*{said}|f\.jsonl:1: .*{said}"):
        load_problems(source)


def test_bigcodebench_has_two_kinds_of_prompts(tmp_path):
    source = write(tmp_path / "b.jsonl", ROWS["bigcodebench"][0])
    assert load_problems(f"{source}@complete") == load_problems(source)
    (problem,) = load_problems(f"{source}@instruct")
    assert problem.question == "Add one." and problem.code_prefix == "" and parses(problem.preamble)
    with pytest.raises(ProblemFileError, match="no problem of split 'best'; it has complete, instruct"):
        load_problems(f"{source}@best")


def test_the_imports_of_a_bigcodebench_test_are_the_programs_too(tmp_path):
    row = ROWS["bigcodebench"][0]
    imports = "from __future__ import annotations\nimport os\nfrom math import pi\n"
    (problem,) = load_problems(write(tmp_path / "b.jsonl", {**row, "test": imports + row["test"]}))
    assert problem.test_setup.startswith("import os\nfrom math import pi")
    assert "__future__" not in problem.test_setup


def test_a_checker_that_is_a_program_becomes_a_function(tmp_path):
    program = "import sys\ndef read(p):\n    with open(p) as f:\n        return f.read().split()\n"
    program += "if __name__ == '__main__':\n    i, e, a = map(read, sys.argv[1:])\n    print(1 if sorted(e) == sorted(a) else 0)\n"
    row = {**ROWS["codeforces"][0], "generated_checker": program}
    (problem,) = load_problems(write(tmp_path / "f.jsonl", row))
    assert problem.comparison.rule == "checker"
    namespace = {}
    exec(problem.comparison.checker, namespace)
    assert namespace["check"]("1", "1 2", "2 1") is True and namespace["check"]("1", "1 2", "2 2") is False


@pytest.mark.parametrize(
    "tests",
    [
        IO,
        json.dumps(IO),
        str(IO),
        {"test_cases": [{"input": "1\n", "output": "2\n"}, {"input": "2\n", "output": "3\n"}]},
        [{"input": ["1"], "output": ["2"]}, {"input": "2\n", "output": 3}],
        packed([{"input": "1\n", "output": "2\n"}, {"input": "2\n", "output": "3\n"}]),
    ],
)
def test_runs_of_the_program_in_every_form(tests):
    found = read_tests("t", tests)["stdio"]
    assert [(case.input.strip(), case.output.strip()) for case in found] == [("1", "2"), ("2", "3")]
    assert read_tests("t", {"input": "1\n", "output": "2\n"})["stdio"] == CASES[:1]


@pytest.mark.parametrize(
    ("tests", "expected"),
    [
        (["assert f(1) == 2", " "], ("assert f(1) == 2",)),
        ('["assert f(1) == 2", "assert f(2) == 3"]', ("assert f(1) == 2", "assert f(2) == 3")),
        ("assert f(1) == 2\nassert f(2) == 3  # three", ("assert f(1) == 2", "assert f(2) == 3")),
        (
            "import math\nassert f(1) == 2\nassert f(2) == 3",
            ("import math\nassert f(1) == 2", "import math\nassert f(2) == 3"),
        ),
        ("x = f(1)\nassert x == 2\nassert f(x) == 3", ("x = f(1)\nassert x == 2\nassert f(x) == 3",)),
        ({"functional": "assert f(1) == 2"}, ("assert f(1) == 2",)),
        ({"assert_case": ["assert f(1) == 2"]}, ("assert f(1) == 2",)),
        (CHECK, (CHECK,)),
        ("def test_a():\n    assert f()\n\ntest_a()", ("def test_a():\n    assert f()\n\ntest_a()",)),
    ],
)
def test_python_tests_in_every_form(tests, expected):
    assert read_tests("t", tests) == {"tests": expected}


@pytest.mark.parametrize(
    ("source", "framework"),
    [
        (PYTEST, "pytest"),
        ("class TestF:\n    def test_a(self):\n        assert f() == 1\n", "pytest"),
        ("async def test_a():\n    assert f() == 1\n", "pytest"),
        (TESTCASE, "unittest"),
        (
            "from unittest import TestCase\nclass A(TestCase):\n    def test_a(self):\n        self.assertTrue(f())\n",
            "unittest",
        ),
    ],
)
def test_suites_are_recognised_by_their_source(source, framework):
    assert read_tests("t", [source]) == {"suite": Suite(framework, source)}


@pytest.mark.parametrize(
    "tests", ["1", "{'a': 1}", '{"a": 1}', "'text'", "x = 1", "[1, 2]", [3], {"inputs": [1]}, None, 3.5]
)
def test_what_is_not_a_test_is_refused(tests):
    with pytest.raises(RowError, match="'t"):
        read_tests("t", tests)


def test_decimal_outputs_are_compared_by_value(tmp_path):
    row = {"id": "c", "question": "q", "inputs": ["1"], "outputs": ["0.50 yes"]}
    (problem,) = load_problems(write(tmp_path / "f.jsonl", row))
    assert problem.comparison == Comparison("float", 1e-6)


def test_a_folder_of_apps(tmp_path):
    for number in ("0001", "0002"):
        folder = tmp_path / "apps" / number
        folder.mkdir(parents=True)
        (folder / "question.txt").write_text("Add one.")
        (folder / "input_output.json").write_text(json.dumps(IO if number == "0001" else CALLS))
        (folder / "solutions.json").write_text(json.dumps([PROGRAM]))
    one, two = load_problems(str(tmp_path / "apps"))
    assert (one.problem_id, one.stdio, one.canonical_solution) == ("0001", CASES, PROGRAM)
    assert two.entry_point == "inc" and len(two.calls) == 2
    (tmp_path / "apps" / "0002" / "input_output.json").unlink()
    with pytest.raises(ProblemFileError, match=r"0002: problem '0002': 'input_output' holds no test"):
        load_problems(str(tmp_path / "apps"))
