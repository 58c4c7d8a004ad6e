"""The table of published problem formats: a file's first row decides, by its columns and never by the form of an id.

To add a format: write its reader (a row becomes a `Problem`; errors are `RowError`s that name the column), add it here,
and describe it in `docs/problems.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from couplet.data.formats import competition, evalplus, humaneval, mbpp, parquet, suites, verl
from couplet.data.formats.columns import Row, column
from couplet.data.problem import Problem

Reader = Callable[[Row], Problem]


@dataclass(frozen=True)
class ProblemFormat:
    """A form in which problems are published.

    Attributes:
        publisher: who publishes sets in it.
        recognises: whether a row is of this format.
        read: the problem of a row; None for AceCode, whose rows are chosen among. An empty problem id is numbered.
        variants: other readers, by the name in `FILE@NAME`.
    """

    publisher: str
    recognises: Callable[[Row], bool]
    read: Reader | None
    variants: Mapping[str, Reader] = field(default_factory=dict)


def _has(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(column(row, name) is not None for name in names)


def _is_own(row: Row) -> bool:
    return {"problem_id", "question"} <= set(row) and bool({"tests", "calls", "stdio", "suite", "atol"} & set(row))


def _is_bigcodebench(row: Row) -> bool:
    return "entry_point" in row and ("complete_prompt" in row or "prompt_wo_doc" in row)


PROBLEM_FORMATS: dict[str, ProblemFormat] = {  # the first that recognises a row counts
    "own": ProblemFormat("this program (`prepare`)", _is_own, parquet.problem_from_row),
    "verl": ProblemFormat("verl; PRIME-RL/Eurus-2-RL-Data", _has("prompt", "reward_model"), verl.verl),
    "livecodebench": ProblemFormat(
        "livecodebench/code_generation_lite", lambda row: "public_test_cases" in row, competition.livecodebench
    ),
    "codeforces": ProblemFormat("open-r1/codeforces", lambda row: "official_tests" in row, competition.codeforces),
    "codecontests": ProblemFormat(
        "deepmind/code_contests", lambda row: "public_tests" in row, competition.code_contests
    ),
    "cure": ProblemFormat(
        "Gen-Verse/CodeContests_train", lambda row: "test_input" in row and "question" in row, competition.cure
    ),
    "apps": ProblemFormat(
        "codeparrot/apps, BAAI/TACO", lambda row: {"question", "input_output"} <= set(row), competition.apps
    ),
    "synthetic-1": ProblemFormat(
        "PrimeIntellect/SYNTHETIC-1", lambda row: "verification_info" in row, competition.verified
    ),
    "deepcoder": ProblemFormat(
        "agentica-org/DeepCoder-Preview-Dataset", lambda row: {"problem", "tests"} <= set(row), competition.deepcoder
    ),
    "evalplus": ProblemFormat(
        "evalplus (HumanEvalPlus.jsonl, MbppPlus.jsonl)",
        lambda row: "base_input" in row or "plus_input" in row,
        evalplus.evalplus,
    ),
    "acecode": ProblemFormat("TIGER-Lab/AceCode-87K", lambda row: "test_cases" in row, None),
    "mbpp+": ProblemFormat("evalplus/mbppplus", lambda row: {"test_list", "test"} <= set(row), mbpp.mbpp_plus),
    "mbpp": ProblemFormat("google-research (full and sanitised)", lambda row: "test_list" in row, mbpp.mbpp),
    "bigcodebench": ProblemFormat(
        "bigcode/bigcodebench, also Hard",
        _is_bigcodebench,
        suites.bigcodebench,
        {"complete": suites.bigcodebench, "instruct": suites.bigcodebench_instruct},
    ),
    "humaneval-infilling": ProblemFormat(
        "openai/human-eval-infilling", lambda row: {"suffix", "entry_point"} <= set(row), humaneval.infilling
    ),
    "leetcode": ProblemFormat(
        "newfacade/LeetCodeDataset", lambda row: {"starter_code", "entry_point"} <= set(row), humaneval.leetcode
    ),
    "humaneval": ProblemFormat(
        "openai/human-eval; evalplus/humanevalplus", lambda row: "entry_point" in row, humaneval.humaneval
    ),
    "kodcode": ProblemFormat(
        "KodCode/KodCode-V1", lambda row: {"question", "solution", "test"} <= set(row), suites.kodcode
    ),
    "cases": ProblemFormat(
        "any set with inputs and outputs", lambda row: {"inputs", "outputs"} <= set(row), competition.inputs_and_outputs
    ),
}


def format_of(row: Row) -> tuple[str, ProblemFormat] | None:
    """Name and format of a row; None if no format recognises it."""
    return next(((name, one) for name, one in PROBLEM_FORMATS.items() if one.recognises(row)), None)
