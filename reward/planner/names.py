"""Which names a piece of test code leaves to the candidate, and what shape an expression over them has."""

from __future__ import annotations

import ast
import builtins
import symtable
import sys
from collections.abc import Container, Iterable
from dataclasses import dataclass

BUILTINS = frozenset(dir(builtins))
# Conversions of a candidate's value that may run in its process: their result is still compared outside.
CONVERSIONS = frozenset(
    kind.__name__
    for kind in (
        bool,
        bytes,
        complex,
        dict,
        enumerate,
        float,
        frozenset,
        int,
        list,
        map,
        reversed,
        set,
        str,
        tuple,
        zip,
    )
) | {"iter", "len", "max", "min", "next", "repr", "round", "sorted", "sum"}


# Names that tests use because solutions tend to import them.
KNOWN_IMPORTS = {
    "Counter": "collections",
    "OrderedDict": "collections",
    "defaultdict": "collections",
    "deque": "collections",
    "Decimal": "decimal",
    "Fraction": "fractions",
    "isclose": "math",
}
PLAIN_KINDS = (str, list, dict, set, frozenset, tuple, int, float, bytes, bytearray, complex)
# With a value of the candidate's these run, import or look up what it names: in a judge it could read what is expected.
# fmt: off
OPENING = frozenset({
    "__import__", "compile", "ctypes", "delattr", "eval", "exec", "getattr", "globals", "importlib", "locals", "marshal",
    "open", "pickle", "runpy", "setattr", "shelve", "timeit", "vars",
})
# fmt: on
# What belongs to a process, so that a test that looks at it or sets it must run where the program runs.
# fmt: off
PROCESS_NAMES = frozenset({
    "builtins", "contextlib", "gc", "input", "inspect", "io", "logging", "mock", "open", "os", "pathlib", "shutil", "signal",
    "subprocess", "tempfile", "threading", "tracemalloc", "unittest", "warnings",
})
# fmt: on
PROCESS_ATTRIBUTES = {"sys": {"argv", "modules", "path", "setrecursionlimit", "stderr", "stdin", "stdout"}}
# Built-ins that do nothing with a function but call it.
CALLING = frozenset({"filter", "map", "max", "min", "sorted"})


def import_line(entry: str) -> str:
    """The import statement of ``module`` or ``module:name``."""
    module, _, name = entry.partition(":")
    return f"from {module} import {name}" if name else f"import {module}"


def free_names(source: str, mode: str = "exec") -> frozenset[str]:
    """Names that `source` reads and never binds at its top level. Raises SyntaxError."""
    found: set[str] = set()
    bound: set[str] = set()

    def visit(table: symtable.SymbolTable, top: bool) -> None:
        for symbol in table.get_symbols():
            if top and (symbol.is_assigned() or symbol.is_imported()):
                bound.add(symbol.get_name())
            elif symbol.is_referenced() and (top or symbol.is_global()):
                found.add(symbol.get_name())
        for child in table.get_children():
            visit(child, False)

    visit(symtable.symtable(source, "<test>", mode), True)
    return frozenset(found - bound)


def bound_names(statements: list[ast.stmt]) -> frozenset[str]:
    """Names that the statements bind at their top level."""
    source = ast.unparse(ast.Module(statements, []))
    table = symtable.symtable(source, "<test>", "exec")
    return frozenset(s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported())


def split_names(tree: ast.AST, free: frozenset[str], own: frozenset[str]) -> tuple[list[str], list[str]]:
    """(names the candidate must supply, what the tests use of the standard library without importing it).

    The latter as ``module`` or ``module:name``. A name in `own` is the candidate's whatever else it may mean, and so is
    one that `tree` calls like no module can be called.
    """
    left = free - (BUILTINS - own)
    modules = {name for name in left if name in sys.stdlib_module_names} - own - set(called_names(tree))
    known = {name for name in left if name in KNOWN_IMPORTS} - own
    return sorted(left - modules - known), sorted(modules | {f"{KNOWN_IMPORTS[name]}:{name}" for name in known})


def called_names(tree: ast.AST) -> list[str]:
    """Names that `tree` calls, from the outermost call inwards."""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [func.id for func in calls if isinstance(func, ast.Name)]


def called_builtins(tree: ast.AST) -> list[str]:
    """Built-in names that `tree` calls: a test of a candidate that redefines one names nothing else."""
    return sorted(set(called_names(tree)) & BUILTINS)


def own_names(tree: ast.AST, entry_point: str | None, trusted: frozenset[str]) -> frozenset[str]:
    """What the tests of a problem show its program to define: `entry_point`, and what is compared with trusted values.

    Any other name may be a helper, which a candidate could define to its liking. Without such a comparison these are the
    functions that are given no value of another one.
    """
    entry = frozenset([entry_point] if entry_point else [])
    tests = [test for node in ast.walk(tree) if isinstance(node, ast.Assert) for test in _operands(node.test)]
    stored = _stored(tree)
    for known in (frozenset(KNOWN_IMPORTS), frozenset[str]()):
        other = (trusted | stored | BUILTINS | known) - entry
        found = entry.union(*(_compared(test, other) for test in tests))
        if found:
            return found
    names = frozenset(called_names(tree)) - other
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and not Shape(names).wraps(node)]
    return names & {call.func.id for call in calls if isinstance(call.func, ast.Name)} or names


def _stored(tree: ast.AST) -> frozenset[str]:
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    return frozenset(node.id for node in names)


def _operands(test: ast.expr) -> list[ast.expr]:
    """What ``and`` and ``or`` join, each by itself."""
    return [part for value in test.values for part in _operands(value)] if isinstance(test, ast.BoolOp) else [test]


def _compared(test: ast.expr, other: Container[str]) -> frozenset[str]:
    """The one function, with the classes of its arguments, that a test compares with trusted values; else nothing."""
    called = set(called_names(test))
    free = free_names(ast.unparse(test), "eval")
    names = frozenset(n for n in free if n not in other and (n in called or n not in sys.stdlib_module_names))
    functions = {name for name in names if not name[:1].isupper()} or names
    if len(functions) == 1 and functions <= called and _on_one_side(test, functions):
        return names
    return frozenset()


def _on_one_side(test: ast.expr, names: Container[str]) -> bool:
    """Whether at most one operand of a comparison mentions one of `names`."""
    operands = [test.left, *test.comparators] if isinstance(test, ast.Compare) else [test]
    return sum(_mentions(operand, names) for operand in operands) == 1


@dataclass(frozen=True)
class Shape:
    """What expressions over the candidate's names look like.

    Attributes:
        names: the candidate's names.
        entry_point: the function under test, where it is known.
        own: what its program is to define, as the tests show.
        data: those of `names` that are no functions of the candidate's but data the setup made with its help.
    """

    names: frozenset[str]
    entry_point: str | None = None
    own: frozenset[str] = frozenset()
    data: frozenset[str] = frozenset()

    def is_rooted(self, node: ast.expr) -> bool:
        """Whether the candidate may compute `node` for a comparison elsewhere: a chain of calls, attributes and indices
        that starts at one of its names, perhaps inside conversions such as ``sorted(...)``.

        Not so where a value of the candidate's, or a method of one, is given something to compare it with.
        """
        if isinstance(node, ast.Name):
            return node.id in self.names
        if isinstance(node, (ast.Attribute, ast.Subscript)):
            return self.is_rooted(node.value)
        if not isinstance(node, ast.Call):
            return False
        func = node.func
        if isinstance(func, ast.Name) and func.id in self.names:
            alone = func.id in self.own and not node.keywords and all(map(self.is_rooted, node.args))
            return func.id == self.entry_point or alone or not self.wraps(node)
        if isinstance(func, ast.Name):
            return func.id in CONVERSIONS and self._converts(func.id, node)
        if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Constant):
            return func.attr == "join" and len(node.args) == 1 and self.is_rooted(node.args[0])
        if isinstance(func, ast.Attribute) and (node.args or node.keywords):
            return self._is_method(func) and not self.wraps(node)
        return self.is_rooted(func)

    def is_direct(self, node: ast.expr) -> bool:
        """Whether `node` calls a function or class of the candidate's and nothing else: only then is a mere True its word."""
        if not isinstance(node, ast.Call):
            return False
        if isinstance(node.func, ast.Name):
            called = node.func.id in self.names - self.data
            return called and (node.func.id == self.entry_point or not self.wraps(node))
        if isinstance(node.func, ast.Attribute):
            return self._is_method(node.func) and not self.wraps(node)
        return self.is_direct(node.func)

    def _converts(self, name: str, call: ast.Call) -> bool:
        """Whether a conversion is given values of the candidate's and nothing they could be compared with."""
        values = [value.value if isinstance(value, ast.Starred) else value for value in call.args]
        if name == "map" and values and isinstance(values[0], ast.Name) and values[0].id in CONVERSIONS:
            del values[0]
        if name in ("int", "round"):
            values = [*values[:1], *(value for value in values[1:] if not isinstance(value, ast.Constant))]
        harmless = all(
            option.arg in ("key", "ndigits", "reverse") and _is_simple(option.value) for option in call.keywords
        )
        return harmless and bool(values) and all(map(self.is_rooted, values))

    def _is_method(self, func: ast.Attribute) -> bool:
        """Whether `func` is a method of one of the candidate's classes, and of no plain value it might hold instead."""
        made = func.value.func if isinstance(func.value, ast.Call) else func.value
        held = isinstance(made, ast.Name) and made.id in self.names and made.id[:1].isupper()
        return held and not is_plain_attribute(func.attr)

    def wraps(self, call: ast.Call) -> bool:
        """Whether a call of one of the candidate's names is given what others of its functions compute."""
        own = call.func.id if isinstance(call.func, ast.Name) else None
        parts = [*call.args, *(option.value for option in call.keywords)]
        inner = {node.id for part in parts for node in ast.walk(part) if isinstance(node, ast.Name)}
        return any(name != own and not name[:1].isupper() for name in inner & (self.names - self.data))


def _is_simple(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id in CONVERSIONS)


def is_plain_attribute(name: str) -> bool:
    """Whether plain values have an attribute of this name."""
    return any(hasattr(kind, name) for kind in PLAIN_KINDS)


def needs_objects(tree: ast.AST, names: frozenset[str]) -> bool:
    """Whether a test handles what has no plain form: the candidate's classes and exceptions, the identity of values,
    a function that is looked at rather than called, or the state of the process.
    """
    made: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and _calls(node.value, names):
            made |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return any(_handles_object(node, made, names) for node in ast.walk(tree)) or _handles_process(tree)


def _handles_process(tree: ast.AST) -> bool:
    stored = _stored(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root = node.value.id if isinstance(node.value, ast.Name) else ""
            if node.attr == "seed" or node.attr in PROCESS_ATTRIBUTES.get(root, ()):
                return True
        elif (PROCESS_NAMES - stored).intersection(_modules(node)):
            return True
    return False


def _handles_object(node: ast.AST, made: set[str], names: frozenset[str]) -> bool:
    if isinstance(node, ast.ExceptHandler):
        return node.type is not None and _mentions(node.type, names)
    if isinstance(node, ast.Attribute):
        return (isinstance(node.value, ast.Name) and node.value.id in names) or _is_object_attribute(node, made, names)
    if isinstance(node, ast.Compare) and any(isinstance(operator, (ast.Is, ast.IsNot)) for operator in node.ops):
        return not any(map(_is_unique, [node.left, *node.comparators]))
    if not isinstance(node, ast.Call):
        return False
    if not isinstance(node.func, ast.Name):
        return isinstance(node.func, (ast.Call, ast.Subscript)) and _calls(node.func, names)  # a function it returned
    if node.func.id in names:
        return node.func.id[:1].isupper()
    if node.func.id in ("isinstance", "issubclass", "hasattr"):
        return any(_mentions(argument, names) for argument in node.args[1:]) or _is_bare(node.args[:1], names)
    if node.func.id in made or (node.func.id == "callable" and any(_calls(argument, names) for argument in node.args)):
        return True
    return node.func.id in ("id", "next") or (node.func.id in BUILTINS - CALLING and _is_bare(node.args, names))


def _is_unique(node: ast.expr) -> bool:
    """Whether identity with `node` means the same on both sides of a wall: a constant, or a class."""
    call = node.func if isinstance(node, ast.Call) else node
    return isinstance(node, ast.Constant) or (
        isinstance(call, ast.Name) and isinstance(getattr(builtins, call.id, 0), type)
    )


def _modules(node: ast.AST) -> Iterable[str]:
    """Modules that an import brings in, or the one that a name may stand for."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.ImportFrom):
        yield (node.module or "").partition(".")[0]
    elif isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)


def _is_bare(arguments: list[ast.expr], names: frozenset[str]) -> bool:
    return any(isinstance(argument, ast.Name) and argument.id in names for argument in arguments)


def _is_object_attribute(node: ast.Attribute, made: set[str], names: frozenset[str]) -> bool:
    held = isinstance(node.value, ast.Name) and node.value.id in made
    return not is_plain_attribute(node.attr) and (held or _calls(node.value, names))


def opens(tree: ast.AST, names: frozenset[str]) -> bool:
    """Whether a value of the candidate's may reach something in `OPENING`."""
    tainted = set(names)
    while more := _tainted(tree, tainted) - tainted:
        tainted |= more
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    harmless = {
        id(node.func) for node in calls if not any(_mentions(part, tainted) for part in ast.iter_child_nodes(node))
    }
    for part in ast.walk(tree):
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            harmless -= {id(node) for node in ast.walk(part)}  # who calls it with what is not followed
    return any(id(node) not in harmless and not OPENING.isdisjoint(_modules(node)) for node in ast.walk(tree))


def _tainted(tree: ast.AST, tainted: set[str]) -> set[str]:
    """Names in the statements of `tree` that mention one of `tainted`: any of them may hold a value of the candidate's."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and _mentions(node, tainted):
            found |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - BUILTINS
    return found


def _calls(tree: ast.AST, names: frozenset[str]) -> bool:
    return any(name in names for name in called_names(tree))


def _mentions(tree: ast.AST, names: Container[str]) -> bool:
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(tree))
