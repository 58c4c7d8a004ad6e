"""MBPP: the full file, the sanitised one, and MBPP+ as the hub has it.

The question is the docstring that EvalPlus makes of MBPP's text and first test (arXiv 2506.20639, tables 5 and 6).
"""

from __future__ import annotations

from dataclasses import replace

from couplet.data.formats.columns import Row, RowError, identifier, need, parsed, text, texts
from couplet.data.formats.evalplus import loop_tests
from couplet.data.formats.wording import SYSTEM, fenced
from couplet.data.problem import Problem
from couplet.data.syntax import tested_function


def mbpp(row: Row) -> Problem:
    """MBPP (Austin et al. 2021), the full file (text, test_setup_code) or the sanitised one (prompt, test_imports)."""
    question = "text" if "text" in row else "prompt"
    need(row, "MBPP", "task_id", question, "code", "test_list")
    code = _code(text(row, "code"))
    tests = tuple(parsed("test_list", _code(test)) for test in texts(row, "test_list"))
    setup = text(row, "test_setup_code", "") or "\n".join(texts(row, "test_imports", ()))
    number = task_number(row)
    return Problem(
        problem_id=f"MBPP/{number}",
        question=fenced(_docstring(text(row, question), tests)),
        tests=tests,
        entry_point=tested_function(code, tests),
        test_setup=_code(setup),
        canonical_solution=code,
        source="mbpp",
        metadata={"system": SYSTEM, "split": mbpp_split(number)},
    )


def mbpp_plus(row: Row) -> Problem:
    """MBPP+ as `evalplus/mbppplus` on the hub: MBPP's columns and, in `test`, a loop over all inputs and results."""
    problem = mbpp(row)
    source = parsed("test", text(row, "test"))
    plus = loop_tests(source, problem.entry_point) or {"tests": (*problem.tests, source)}
    count = len(plus.get("calls", ()) or plus.get("inputs", ())) or 1
    return replace(problem, **plus, source="mbpp+", metadata={**problem.metadata, "plus_tests": count})


def task_number(row: Row) -> int:
    """The number in ``MBPP/2``, ``Mbpp/2`` or 2."""
    number = identifier(row, "task_id").split("/")[-1]
    if not number.isdecimal():
        raise RowError(f"'task_id' is {row['task_id']!r}, expected a number, e.g. MBPP/2")
    return int(number)


def _code(source: str) -> str:
    """Some published programs have Windows line ends."""
    return source.replace("\r\n", "\n")


def _docstring(description: str, tests: tuple[str, ...]) -> str:
    return '"""\n' + "\n".join([description.strip(), *tests[:1]]) + '\n"""'


def mbpp_split(number: int) -> str:
    """The published split of a task number."""
    return "prompt" if number <= 10 else "test" if number <= 510 else "validation" if number <= 600 else "train"
