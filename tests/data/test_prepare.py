"""`prepare`: AceCode's rules on hand-computed percentiles, decontamination, column mapping, deterministic bytes."""

import json

import pytest

from couplet.data.decontaminate import find_overlaps, ngrams
from couplet.data.formats.columns import RowError
from couplet.data.formats.parquet import ProblemFileError
from couplet.data.levels import choose
from couplet.data.prepare import Request
from couplet.data.prepare import prepare as prepare_request
from couplet.data.problem import Comparison, Problem
from couplet.data.problem_sets import load_problems
from tests.data.reading import prepare

Q, L, OTHER = "qwen_coder_2.5", "llama3_instruct", "gpt"


def row(number, rates, question="Add a and b.", **changes):
    """A problem in AceCode's schema; `rates` are (model, pass rate, completion)."""
    inferences = [
        {"model_name": model, "completion_id": i, "pass_rate": rate, "completion": text}
        for i, (model, rate, text) in enumerate(rates)
    ]
    base = {"id": f"oss_{number}", "source": "oss", "question": question, "inferences": inferences}
    tests = ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]
    return {**base, "test_cases": tests, "context_messages": [], **changes}


def simple(number, *rates, **changes):
    return row(number, [(Q if i % 2 else L, rate, "x = 1") for i, rate in enumerate(rates)], **changes)


def write(path, rows):
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))
    return str(path)


# Means 0.0, 0.2, 0.4, 0.6, 0.8, 1.0; deviations 0, 0.2, 0, 0.4, 0.2, 0.
RATES = [(0.0, 0.0), (0.0, 0.4), (0.4, 0.4), (0.2, 1.0), (0.6, 1.0), (1.0, 1.0)]


def test_levels_by_hand():
    # Sorted means at index 0..5: P20 -> 1.0 -> 0.2, P25 -> 1.25 -> 0.25, P75 -> 3.75 -> 0.75.
    # Sorted deviations 0, 0, 0, 0.2, 0.2, 0.4: P40 -> 2.0 -> 0.0.
    hard = choose(RATES, "hard")
    assert hard.thresholds == {"mean_p20": pytest.approx(0.2), "std_p40": pytest.approx(0.0)}
    assert hard.keep_N.tolist() == [True, True, False, False, False, False]
    medium = choose(RATES, "medium")
    assert medium.thresholds == {"mean_p25": pytest.approx(0.25), "mean_p75": pytest.approx(0.75)}
    assert medium.keep_N.tolist() == [False, False, True, True, False, False]
    assert choose(RATES, "easy").keep_N.tolist() == [False, False, False, False, True, True]
    assert choose(RATES, "all").keep_N.all()
    # Deviations of all problems set the limit, not those of the hard ones: 0, 0.2, 0.2, 0.2, 0.4, 0.4 -> P40 = 0.2.
    spread = choose([(0.0, 0.0), (0.0, 0.4), (0.4, 0.8), (0.2, 1.0), (0.6, 1.0), (0.2, 1.0)], "hard")
    assert spread.keep_N.tolist() == [False, True, False, False, False, False]
    assert spread.dropped == {"mean above P20": 4, "deviation below P40": 1}


def test_acecode_pools_the_two_models_and_drops_the_unrated_first(tmp_path):
    rows = [simple(i, *rates) for i, rates in enumerate(RATES)]
    rows.append(row(6, [(OTHER, 0.0, "x")]))
    source = write(tmp_path / "a.jsonl", rows)
    summary = prepare("acecode", source, tmp_path / "o.parquet", level="hard")
    assert summary.read == 7 and summary.kept == 2
    assert summary.dropped == {"no pass rate": 1, "mean above P20": 4}
    assert [p.problem_id for p in load_problems(str(tmp_path / "o.parquet"))] == ["oss_0", "oss_1"]
    assert "dropped 4: mean above P20" in summary.text()
    rows[1]["test_cases"] = []
    summary = prepare("acecode", write(tmp_path / "b.jsonl", rows), tmp_path / "b.parquet", level="hard")
    assert summary.kept == 1 and summary.dropped["no tests"] == 1
    assert json.loads((tmp_path / "o.parquet.summary.json").read_text())["thresholds"]["mean_p20"] == pytest.approx(0.2)


def test_doubling_takes_the_first_best_inference_of_any_model(tmp_path):
    best = "def add(a, b):\n    return a + b"
    rates = [(Q, 0.1, "def low(a):\n  pass"), (OTHER, 0.9, best), (L, 0.9, "def late(a):\n  pass")]
    path = write(tmp_path / "a.jsonl", [row(0, rates), row(1, rates, question="Can YOU add?")])
    summary = prepare("acecode", path, tmp_path / "o.parquet", level="all")
    plain, doubled, polite = load_problems(str(tmp_path / "o.parquet"))
    assert summary.doubled == 1 and summary.kept == 3
    assert plain.question == "Add a and b.\nTest cases: assert add(1, 2) == 3"
    assert doubled.problem_id == "oss_0/complete" and doubled.tests == plain.tests
    assert doubled.question == (
        'Please complete the following problem:\n```\ndef add(a, b):\n    """\n    Add a and b.\n    """\n```\n'
    )
    assert polite.question.startswith("Can YOU add?\nTest cases: ")
    assert plain.metadata["system"] == "You are a helpful assistant."
    assert prepare("acecode", path, tmp_path / "p.parquet", level="all", double=False).kept == 2


def test_no_doubling_without_a_function_and_no_test_case_beside_a_fence(tmp_path):
    rates = [(Q, 0.5, "import os\ndef add(a, b):\n    pass")]
    fenced = "Add a and b.\n```\nadd(1, 2)\n```\nThanks."
    prepare(
        "acecode", write(tmp_path / "a.jsonl", [row(0, rates, question=fenced)]), tmp_path / "o.parquet", level="all"
    )
    (problem,) = load_problems(str(tmp_path / "o.parquet"))
    assert problem.question == fenced


def test_same_input_same_bytes(tmp_path):
    source = write(tmp_path / "a.jsonl", [simple(i, *rates) for i, rates in enumerate(RATES)])
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        prepare("acecode", source, tmp_path / name / "o.parquet", level="medium")
    assert (tmp_path / "one" / "o.parquet").read_bytes() == (tmp_path / "two" / "o.parquet").read_bytes()


def test_acecode_faults_name_their_place(tmp_path):
    source = write(tmp_path / "a.jsonl", [simple(0, 0.5), {"id": "x", "question": "q", "test_cases": ["t"]}])
    with pytest.raises(ProblemFileError, match=r"a\.jsonl:2: problem 'x': missing column 'inferences' of AceCode"):
        prepare("acecode", source, tmp_path / "o.parquet")
    source = write(tmp_path / "b.jsonl", [row(0, [])])
    with pytest.raises(ProblemFileError, match=r"b\.jsonl: no problem with a pass rate of qwen_coder_2\.5"):
        prepare("acecode", source, tmp_path / "o.parquet")
    with pytest.raises(ProblemFileError, match=r"c\.jsonl: no such file"):
        prepare("acecode", str(tmp_path / "c.jsonl"), tmp_path / "o.parquet")


def test_decontamination_by_words_and_by_name():
    text = "find the longest common prefix of all the words in a list of strings"
    benchmark = [
        Problem("B/1", f"Please solve the following problem with one function now: {text}", entry_point="prefix"),
        Problem("B/2", "Please solve the following problem with one function now: add", entry_point="add"),
    ]
    problems = [
        Problem("t/1", f"Task. {text.upper()}!"),
        Problem("t/2", "Compute the sum.", entry_point="add"),
        Problem("t/3", "Please solve the following problem with one function now: subtract"),
    ]
    found = find_overlaps(problems, benchmark, n=10)
    assert [(o.problem_id, o.benchmark_id, o.reason) for o in found] == [
        ("t/1", "B/1", "ngram"),
        ("t/2", "B/2", "name"),
    ]
    numbers = [Problem("B/3", "Given 1 2 3 4 5 6 7 8 9 10 find it", entry_point="solve")]
    assert find_overlaps([Problem("t/4", "Sort 1 2 3 4 5 6 7 8 9 10", entry_point="solve")], numbers) == []
    assert found[0].detail == "common prefix of all the words in a list of"
    assert ngrams("One two", 3) == {("one", "two")} and ngrams("a b c d", 3) == {("a", "b", "c"), ("b", "c", "d")}


def test_overlaps_are_reported_and_dropped_as_asked(tmp_path):
    text = "Return the number of vowels that occur in the given string of small letters."
    mbpp = {"task_id": 11, "text": text, "code": "def add(a, b): pass", "test_list": ["assert add(1, 2) == 3"]}
    benchmark = write(tmp_path / "mbpp.jsonl", [mbpp])
    source = write(tmp_path / "a.jsonl", [simple(0, 0.5, question=text), simple(1, 0.5, question="Other.")])
    kept = {}
    for drop in ("none", "ngram", "any"):
        rule = {"level": "all", "benchmarks": [benchmark], "drop_overlaps": drop}
        if drop == "any":
            with pytest.raises(ProblemFileError, match="no problem left to write"):
                prepare("acecode", source, tmp_path / "o.parquet", **rule)
            continue
        summary = prepare("acecode", source, tmp_path / "o.parquet", **rule)
        kept[drop] = summary.kept
        assert [(o.problem_id, o.reason) for o in summary.overlaps] == [
            ("oss_0", "ngram"),
            ("oss_0", "name"),
            ("oss_1", "name"),
        ]
    assert kept == {"none": 2, "ngram": 1}


def test_any_file_through_a_column_mapping(tmp_path):
    rows = [{"instruction": "Add.", "checks": '["assert add(1, 2) == 3"]', "fn": "add"}, {"instruction": "Sub."}]
    source = write(tmp_path / "a.jsonl", rows[:1])
    columns = {"prompt": "instruction", "tests": "checks", "entry_point": "fn"}
    assert prepare("columns", source, tmp_path / "o.parquet", columns=columns).kept == 1
    (problem,) = load_problems(str(tmp_path / "o.parquet"))
    assert problem == Problem("a/0", "Add.", ("assert add(1, 2) == 3",), entry_point="add", source="a")
    with pytest.raises(
        ProblemFileError, match=r"a\.jsonl:2: missing column 'checks' \(role tests\); it has instruction"
    ):
        prepare("columns", write(tmp_path / "a.jsonl", rows), tmp_path / "o.parquet", columns=columns)
    with pytest.raises(ProblemFileError, match="no role question"):
        prepare("columns", source, tmp_path / "o.parquet", columns={"question": "instruction"})


def test_katas_and_mbpp_splits_and_wrong_sets(tmp_path):
    assert prepare("katas", None, tmp_path / "k.parquet", split="rl-lists", limit=10).kept == 10
    rows = [
        {"task_id": i, "text": "t", "code": "def f(): pass", "test_list": ["assert f() is None"]} for i in (1, 11, 601)
    ]
    source = write(tmp_path / "m.jsonl", rows)
    summary = prepare("mbpp", source, tmp_path / "m.parquet", split="test")
    assert summary.kept == 1 and summary.dropped == {"not of split test": 2}
    with pytest.raises(ProblemFileError, match=r"m\.jsonl: holds problems of mbpp, not of humaneval"):
        prepare("humaneval", source, tmp_path / "m.parquet")
    with pytest.raises(ProblemFileError, match="no set 'apps'; use one of acecode"):
        prepare("apps", source, tmp_path / "m.parquet")
    with pytest.raises(ProblemFileError, match="needs --source"):
        prepare("mbpp", None, tmp_path / "m.parquet")


def test_a_preamble_and_a_comparison_are_the_sets(tmp_path):
    row = {
        "id": "c",
        "question": "Add one.",
        "fn_name": "f",
        "inputs": [[1]],
        "outputs": [2],
        "solution": "def f(x):\n    return x + 1",
    }
    program = {"id": "p", "question": "Add one.", "inputs": ["1"], "outputs": ["2"]}
    source = write(tmp_path / "c.jsonl", [row, program])
    prepare("published", source, tmp_path / "o.parquet", preamble="import os", comparison=Comparison("float", 0.5))
    call, run = load_problems(str(tmp_path / "o.parquet"))
    assert call.preamble.endswith("import os") and run.preamble == "import os"
    assert call.canonical_solution.startswith("import os\n") and run.comparison == Comparison("float", 0.5)
    assert call.comparison.rule == "json_or_element"  # float is a rule for stdout only
    with pytest.raises(RowError, match=r"'--preamble' is .*expected Python"):
        prepare("published", source, tmp_path / "o.parquet", preamble="import (")


def test_problems_whose_tests_cannot_be_trusted_are_named_and_left_out_unless_kept(tmp_path):
    rows = [{"id": f"p{i}", "question": "Add one.", "inputs": ["1"], "outputs": ["2"]} for i in range(3)]
    source, out = write(tmp_path / "c.jsonl", rows), tmp_path / "o.parquet"

    def find(problems):
        return {"p1": "a program that defines nothing passes all its tests"}

    summary = prepare_request(Request("published", source, out), find)
    assert [p.problem_id for p in load_problems(str(out))] == ["p0", "p2"]
    assert summary.dropped == {"their tests check nothing": 1} and all(
        p.metadata["checked"] for p in load_problems(str(out))
    )
    assert "its tests cannot be trusted: problem 'p1': a program that defines nothing passes" in summary.text()
    summary = prepare_request(Request("published", source, out, keep_unsound=True), find)
    assert summary.kept == 3 and len(summary.unsound) == 1
    with pytest.raises(ProblemFileError, match=r"no problem left to write: .*first problem 'p0': hollow"):
        prepare_request(Request("published", source, out), lambda problems: {p.problem_id: "hollow" for p in problems})
