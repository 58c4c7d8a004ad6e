"""Tests in every form in which sets publish them: Python texts, cases as JSON, compressed cases.

`read_tests` turns one value into the fields of a `Problem` that hold it. What it reads:

- Python source, or a list of it: assertions, ``def check(candidate)``, pytest functions, unittest classes;
- ``{"inputs": [...], "outputs": [...]}``, with ``fn_name`` for calls (APPS, TACO, verl's prime_code); also ``input`` and
  ``output`` (CodeContests);
- a list of ``{"input", "output"}``, with ``testtype`` or ``fn_name`` for calls (LiveCodeBench, Codeforces, SYNTHETIC-1);
- ``{"functional": source}``, ``{"assert_case": [...]}``, ``{"test_cases": [...]}`` and the like, which hold one of these;
- any of these as JSON text, or as LiveCodeBench compresses its private tests.
"""

from __future__ import annotations

import ast
import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from couplet.data.formats.columns import RowError, UnjudgeableRow, parsed, unexpected
from couplet.data.problem import CallCase, Comparison, Rule, StdioCase, Suite
from couplet.data.syntax import parse

MAX_UNPACKED = 1 << 30  # bytes of compressed tests
CLOSE = 1e-6  # tolerance if a set's outputs are decimal numbers
FORMS = "text or a list of texts of Python, or cases with inputs and outputs"

Fields = dict[str, Any]  # of `Problem`


def read_tests(name: str, value: Any, function: str | None = None) -> Fields:
    """The fields of a `Problem` that hold the tests in `value`, the content of column `name`.

    Args:
        function: what cases given as JSON call; without one, and without a name among the cases, they are runs of the
            whole program.

    Raises:
        RowError: `value` does not hold tests; `UnjudgeableRow`: it is empty.
    """
    if isinstance(value, str):
        value = unpacked(name, value)
    if isinstance(value, str):
        return python_tests(name, [value])
    if isinstance(value, Mapping):
        return _mapping(name, value, function)
    if not isinstance(value, Sequence):
        raise unexpected(name, value, FORMS)
    if all(isinstance(item, str) for item in value):
        return python_tests(name, value)
    if all(isinstance(item, Mapping) for item in value):
        return _listed_cases(name, value, function)
    raise unexpected(name, value, FORMS)


def unpacked(name: str, source: str) -> Any:
    """What a text holds: JSON, a Python literal with inputs and outputs, compressed cases; else the text, as Python."""
    try:
        value = json.loads(source)
    except RecursionError as error:
        raise unexpected(name, source, f"{FORMS} ({error})") from None
    except ValueError as error:
        if "integer string conversion" in str(error):
            raise UnjudgeableRow(
                f"{name!r} holds a whole number of thousands of digits, which JSON readers refuse"
            ) from None
        value = None
    if isinstance(value, (dict, list)):
        return value
    if source.startswith("eJ") and "\n" not in source.strip():
        return _decompressed(name, source)
    if source.lstrip().startswith("{"):
        try:
            return ast.literal_eval(source.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return source
    return source


class _TextOnly(pickle.Unpickler):
    """Reads texts and nothing else: whatever names a class or a function is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"names {module}.{name}; only text is expected")


def _decompressed(name: str, source: str) -> Any:
    """LiveCodeBench's private tests: base64 of zlib of a pickled JSON text. Nothing of the pickle is executed."""
    try:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(base64.b64decode(source, validate=True), MAX_UNPACKED)
        if unpacker.unconsumed_tail:
            raise ValueError(f"more than {MAX_UNPACKED} bytes")
        text = _TextOnly(io.BytesIO(content)).load() if content[:1] == b"\x80" else content.decode()
        return json.loads(text)
    except (
        binascii.Error,
        zlib.error,
        pickle.UnpicklingError,
        RecursionError,
        ValueError,
        TypeError,
        EOFError,
    ) as error:
        raise unexpected(name, source, f"{FORMS}; compressed tests that cannot be read ({error})") from None
    except (IndexError, KeyError, AttributeError, MemoryError) as error:
        raise unexpected(name, source, f"{FORMS}; compressed tests that cannot be read ({error!r})") from None


# --- cases as JSON ---------------------------------------------------------------------------------------------------

_HOLDERS = (
    "test_cases",
    "tests",
    "cases",
    "functional",
    "assert_case",
    "pytest",
    "unittest",
    "test",
    "test_code",
    "ground_truth",
)


def _mapping(name: str, value: Mapping[str, Any], function: str | None) -> Fields:
    function = value.get("fn_name") or value.get("func_name") or function
    for inputs, outputs in (("inputs", "outputs"), ("input", "output")):
        if inputs in value and outputs in value:
            one = isinstance(value[inputs], str) and isinstance(value[outputs], str)
            given, expected = ([value[inputs]], [value[outputs]]) if one else (value[inputs], value[outputs])
            return _cases(name, given, expected, function)
    for holder in _HOLDERS:
        if value.get(holder):
            return read_tests(f"{name}.{holder}", value[holder], function)
    raise unexpected(name, dict(value), FORMS)


def _cases(name: str, inputs: Any, outputs: Any, function: str | None) -> Fields:
    """Cases in two parallel lists (APPS and its descendants)."""
    if not isinstance(inputs, Sequence) or not isinstance(outputs, Sequence) or isinstance(inputs, str):
        raise unexpected(name, [inputs, outputs], "a list of inputs and a list of outputs")
    if len(inputs) != len(outputs):
        raise RowError(f"{name!r} holds {len(inputs)} inputs and {len(outputs)} outputs; give one output per input")
    if not inputs:
        raise UnjudgeableRow(f"{name!r} holds no case, so nothing can judge the problem")
    if function is None:
        return stdio_fields([StdioCase(_lines(name, i), _lines(name, o)) for i, o in zip(inputs, outputs)])
    if all(isinstance(item, str) for item in (*inputs, *outputs)):
        return call_fields(function, [_call_of_lines(name, i, o) for i, o in zip(inputs, outputs)])
    cases = [
        CallCase((), o, dict(i)) if isinstance(i, Mapping) else CallCase(_arguments(name, i), o)
        for i, o in zip(inputs, outputs)
    ]
    return call_fields(function, cases, "json_or_element")


def _listed_cases(name: str, cases: Sequence[Mapping[str, Any]], function: str | None) -> Fields:
    """Cases one by one (LiveCodeBench and its descendants)."""
    if not cases:
        raise UnjudgeableRow(f"{name!r} holds no case, so nothing can judge the problem")
    for number, case in enumerate(cases):
        if not {"input", "output"} <= set(case):
            raise unexpected(f"{name}[{number}]", dict(case), "a case with an input and an output")
    function = next((case["fn_name"] for case in cases if case.get("fn_name")), function)
    kinds = {str(case.get("testtype") or case.get("type") or "") for case in cases}
    if kinds & {"functional", "function_call"} or (function and not kinds & {"stdin", "stdin_stdout"}):
        if function is None:
            raise RowError(f"{name!r} holds calls without the name of the function; add 'fn_name' to its cases")
        return call_fields(function, [_call(name, case["input"], case["output"]) for case in cases])
    return stdio_fields([StdioCase(_lines(name, case["input"]), _lines(name, case["output"])) for case in cases])


def _lines(name: str, value: Any) -> str:
    """The text of stdin or stdout; some sets give a list of lines, or a bare number."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return "".join(f"{_lines(name, line)}\n" for line in value)
    if isinstance(value, (int, float)):
        return str(value)
    raise unexpected(name, value, "the text of stdin and of stdout; cases of calls need the name of the function")


def _call(name: str, given: Any, expected: Any) -> CallCase:
    if isinstance(given, str) and isinstance(expected, str):
        return _call_of_lines(name, given, expected)
    return (
        CallCase((), expected, dict(given))
        if isinstance(given, Mapping)
        else CallCase(_arguments(name, given), expected)
    )


def _call_of_lines(name: str, given: str, expected: str) -> CallCase:
    """LiveCodeBench: one argument per line, and the result, all JSON."""
    try:
        return CallCase(tuple(json.loads(line) for line in given.split("\n") if line.strip()), json.loads(expected))
    except (ValueError, RecursionError) as error:
        raise unexpected(name, given, f"one JSON value per line, an argument each ({error})") from None


def _arguments(name: str, given: Any) -> tuple[Any, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise unexpected(name, given, "a list of arguments")
    return tuple(_with_number_keys(argument) for argument in given)


def _with_number_keys(argument: Any) -> Any:
    """JSON writes the keys of `{1: 2}` as text; as APPS's judge does, keys that are all numbers become numbers."""
    if isinstance(argument, Mapping) and argument and all(key.lstrip("-").isdecimal() for key in argument):
        return {int(key): value for key, value in argument.items()}
    return argument


def stdio_fields(cases: Sequence[StdioCase], checker: str = "") -> Fields:
    """Runs of the whole program, compared by a checker if there is one, by tokens or, for decimal numbers, by value."""
    if checker:
        return {"stdio": tuple(cases), "comparison": Comparison("checker", 0.0, checker)}
    decimals = any(_is_decimal(word) for case in cases for word in case.output.split())
    return {"stdio": tuple(cases), "comparison": Comparison("float", CLOSE) if decimals else Comparison("tokens")}


def _is_decimal(word: str) -> bool:
    whole, point, fraction = word.lstrip("+-").partition(".")
    return bool(point) and whole.isdecimal() and fraction.isdecimal()


def call_fields(
    function: str, cases: Sequence[CallCase], rule: Rule = "json", tolerance: float = 0.0, checker: str = ""
) -> Fields:
    """Calls of `function` with expected values."""
    return {"calls": tuple(cases), "entry_point": function, "comparison": Comparison(rule, tolerance, checker)}


# --- Python tests ----------------------------------------------------------------------------------------------------


def python_tests(name: str, texts: Sequence[str]) -> Fields:
    """Assertions, ``def check(candidate)``, or a suite of pytest functions or unittest classes."""
    sources = [parsed(name, text.replace("\r\n", "\n")) for text in texts if text.strip()]
    if not sources:
        raise UnjudgeableRow(f"{name!r} holds no test, so nothing can judge the problem")
    trees = [parse(source, limit=len(source)) for source in sources]
    if not any(isinstance(node, (ast.Assert, ast.Call, ast.Raise)) for tree in trees for node in ast.walk(tree)):
        raise UnjudgeableRow(f"{name!r} is {sources[0]!r:.60}, which neither asserts nor calls anything")
    framework = next((found for tree in trees if (found := _framework(tree))), None)
    if framework:
        return {"suite": Suite(framework, "\n".join(sources))}
    return {"tests": tuple(test for source, tree in zip(sources, trees) for test in _split(source, tree))}


def _framework(tree: ast.Module) -> Any:
    functions = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    if any(node.name == "check" for node in functions):
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("TestCase") for base in node.bases):
            return "unittest"
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.startswith("Test")]
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    tests = [node for node in functions if node.name.startswith("test") and node.name not in called]
    return "pytest" if tests or classes else None


def _split(source: str, tree: ast.Module) -> list[str]:
    """One test per assertion of a text that holds only assertions and the imports they need."""
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assertions = [node for node in tree.body if isinstance(node, ast.Assert)]
    if len(assertions) < 2 or len(imports) + len(assertions) < len(tree.body):
        return [source]
    head = "".join(f"{ast.unparse(node)}\n" for node in imports)
    return [f"{head}{ast.get_source_segment(source, node)}" for node in assertions]
