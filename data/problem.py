"""A programming problem: what the policy is asked, and every kind of test that judges an answer.

This is the seam between `data` (which reads, checks and stores problems) and `reward` (which runs them). No torch and
no ray here: the reward workers import this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Rule = Literal["exact", "tokens", "float", "unordered_lines", "checker", "equal", "json", "json_or_element"]
STDIO_RULES: tuple[Rule, ...] = ("exact", "tokens", "float", "unordered_lines", "checker")
CALL_RULES: tuple[Rule, ...] = ("equal", "json", "json_or_element", "checker")


@dataclass(frozen=True)
class StdioCase:
    """One run of the whole program: `input` is all of its stdin, `output` what it must write to stdout.

    The program runs as `__main__` in a new process for each case. It passes if it ends (normally, or by `SystemExit` of
    code 0 or None) and its stdout agrees with `output` under `Problem.comparison`. stderr is ignored.
    """

    input: str
    output: str


@dataclass(frozen=True)
class CallCase:
    """One call of the entry point: `entry_point(*arguments, **keywords)` must return `expected`.

    Values are plain Python values (JSON's, also tuples, sets, complex numbers and dicts with any plain key). If
    `Problem.entry_point` is a plain name `f` and the program defines no `f` but a class `Solution` at its top level,
    the callee is `Solution().f`, with a new instance for each case; `Solution().f` may also be the entry point itself.
    """

    arguments: tuple[Any, ...]
    expected: Any
    keywords: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """How an answer is compared with what a case expects; always outside the candidate's process.

    Rules for `Problem.stdio` (`STDIO_RULES`), with Windows line ends read as "\\n":
        exact: equal texts, but for blanks at line ends and blank lines at the end.
        tokens: equal sequences of words separated by white space.
        float: as tokens; two words that are both numbers agree if they are within `tolerance`.
        unordered_lines: as tokens within a line; non-blank lines in any order, each as often as expected.
        checker: see `checker`.

    Rules for `Problem.calls` (`CALL_RULES`):
        equal: as the outputs of `Problem.inputs` are compared (EvalPlus): Python's `==`, floats within `tolerance`, and
            the rules of `Problem.source` for tasks whose answer is not unique.
        json: `==` after both sides are written as JSON would be: tuples are lists, keys are strings; two numbers of
            which one is a float agree within `tolerance` (1e-6 if that is 0).
        json_or_element: as json; if `expected` is a list of one element, that element alone is also accepted (APPS).
        checker: see `checker`; the arguments are its input.

    Attributes:
        rule: one of the above.
        tolerance: a and b agree if |a - b| <= tolerance * max(1, |b|).
        checker: trusted source that defines `check(input, expected, actual)`; an answer passes if it returns a true
            value. Runs in a judge's process. For stdio all three are texts; for calls they are the list of arguments,
            `expected`, and the returned value.
    """

    rule: Rule = "tokens"
    tolerance: float = 0.0
    checker: str = ""


@dataclass(frozen=True)
class Suite:
    """Tests in a framework's form, collected and run one by one; each collected test is one test of the problem.

    Attributes:
        framework:
            ``unittest``: every method `test*` of every class derived from `TestCase`, with its fixtures. ``pytest``: every function `test_*` and method `test_*` of a class `Test*`, once per set of parameters of `pytest.mark.parametrize`, with `pytest.raises` and `pytest.approx`;
            assertions at the module's top level are one more test.
        source: the module. It sees the program's names as its own globals; `import solution` and
            `from solution import f` give the program's, too.
    """

    framework: Literal["unittest", "pytest"]
    source: str


@dataclass(frozen=True)
class Problem:
    """One problem: what the policy is asked and how an answer is judged.

    A program passes if it passes every test. Tests are numbered in the order of these attributes: `tests`, `inputs`,
    `calls`, `stdio`, `suite`; a problem may have several kinds (MBPP+ on the hub: `tests` and `calls`).

    Attributes:
        problem_id: unique in its set, e.g. ``HumanEval/0``.
        question: the instruction put into the chat template.
        tests: Python test statements, usually ``assert f(1) == 2``; or one ``def check(candidate): ...`` source, which
            is called with the entry point.
        entry_point: name of the function under test, or the expression `Solution().f`; None if the set names none.
        code_prefix: source a continuation continues (HumanEval's prompt); empty elsewhere.
        suffix: source that follows the answer (infilling: program = code_prefix + answer + suffix).
        preamble: source put before every program (``from typing import *``), at the set's request. Programs and
            `canonical_solution` given to a judge already contain it.
        test_setup: source that runs after the program and before the tests (MBPP's ``test_setup_code``).
        canonical_solution: a whole program that passes, if the set has one.
        inputs: argument lists whose outputs are compared with the canonical solution's (EvalPlus), each a list.
        atol: absolute tolerance of those comparisons; 0 compares exactly.
        calls: calls of the entry point with expected values.
        stdio: runs of the whole program with expected output.
        comparison: how `calls` and `stdio` are compared; a problem has at most one of the two.
        suite: tests in the form of unittest or pytest.
        packages: third-party packages its tests or solution import (top-level names), if the set tells.
        source: name of the set the problem comes from; selects rules of comparison for `inputs`.
        metadata: whatever else is worth keeping; plain JSON values. `plus_tests`: how many of the last tests are
            EvalPlus's additional ones; without them the base pass@1 is computed. `time_limit`: the published limit in
            seconds per test. `checked`: `prepare` has found no program that passes its tests and computes nothing.
    """

    problem_id: str
    question: str
    tests: tuple[str, ...] = ()
    entry_point: str | None = None
    code_prefix: str = ""
    suffix: str = ""
    preamble: str = ""
    test_setup: str = ""
    canonical_solution: str | None = None
    inputs: tuple[Any, ...] = ()
    atol: float = 0.0
    calls: tuple[CallCase, ...] = ()
    stdio: tuple[StdioCase, ...] = ()
    comparison: Comparison = Comparison()
    suite: Suite | None = None
    packages: tuple[str, ...] = ()
    source: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def is_judgeable(self) -> bool:
        """Whether there is anything to judge an answer with."""
        comparable = self.inputs and self.entry_point and self.canonical_solution
        callable_ = self.calls and self.entry_point
        return bool(self.tests or comparable or callable_ or self.stdio or self.suite)
