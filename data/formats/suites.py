"""Sets whose tests are pytest functions or unittest classes: KodCode and BigCodeBench."""

from __future__ import annotations

import ast
import sys
from typing import Any

from couplet.data.formats.cases import python_tests
from couplet.data.formats.columns import Row, column, identifier, need, text, unexpected
from couplet.data.formats.wording import SYSTEM, completion_question
from couplet.data.problem import Problem, Suite
from couplet.data.syntax import parse, parses


def kodcode(row: Row) -> Problem:
    """KodCode (Xu et al. 2025): question, solution, pytest functions that import from `solution`."""
    need(row, "KodCode", "question", "test")
    declaration = column(row, "test_info.0.function_declaration")
    note = f"\n\nThe function is declared as `{declaration}`.\n" if isinstance(declaration, str) else ""
    fields = python_tests("test", [text(row, "test")])
    return Problem(
        problem_id=identifier(row, "question_id", "") or identifier(row, "id", ""),
        question=text(row, "question") + note,
        canonical_solution=text(row, "solution", None),
        source="kodcode",
        metadata={"system": SYSTEM},
        **{"entry_point": column(row, "test_info.0.function_name"), **fields},
    )


def bigcodebench(row: Row) -> Problem:
    """BigCodeBench (Zhuo et al. 2024), full or Hard, complete prompts: a function to be continued, a unittest class."""
    need(row, "BigCodeBench", "task_id", "entry_point", "test", "canonical_solution")
    prompt = text(row, "complete_prompt", None) or text(row, "prompt")
    return _bigcodebench(row, completion_question(prompt), prompt, "")


def bigcodebench_instruct(row: Row) -> Problem:
    """BigCodeBench, instruct prompts; as there, the imports and the signature come before every program."""
    need(row, "BigCodeBench", "task_id", "entry_point", "test", "canonical_solution")
    question = text(row, "instruct_prompt", None) or text(row, "instruction")
    signature = text(row, "code_prompt", None) or text(row, "prompt_wo_doc")
    return _bigcodebench(row, question, "", f"{signature.rstrip()}\n    pass\n")


def _bigcodebench(row: Row, question: str, code_prefix: str, preamble: str) -> Problem:
    prompt = text(row, "complete_prompt", None) or text(row, "prompt")
    suite = Suite("unittest", python_tests("test", [text(row, "test")])["suite"].source)
    return Problem(
        problem_id=identifier(row, "task_id"),
        question=question,
        entry_point=text(row, "entry_point"),
        code_prefix=code_prefix,
        preamble=preamble,
        canonical_solution=prompt + text(row, "canonical_solution"),
        test_setup=_imports(suite.source),  # published as one file with the program, which uses them
        suite=suite,
        packages=_packages(row),
        source="bigcodebench",
        metadata={"system": SYSTEM},
    )


def _imports(source: str) -> str:
    """The imports at the top level of a test file; `from __future__` counts in that file only."""
    body = parse(source).body if parses(source) else []
    kept = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return "\n".join(ast.unparse(node) for node in kept if getattr(node, "module", "") != "__future__")


def _packages(row: Row) -> tuple[str, ...]:
    """The third-party packages among `libs`, a list or its Python text."""
    libs: Any = row.get("libs") or []
    try:
        libs = ast.literal_eval(libs) if isinstance(libs, str) else libs
    except (ValueError, SyntaxError):
        raise unexpected("libs", libs, "a list of packages") from None
    names = {str(name).partition(".")[0] for name in libs}
    return tuple(sorted(names - sys.stdlib_module_names))
