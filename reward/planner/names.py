"""Names in test code: which ones a piece of it reads, binds and calls, and which ones it leaves to the candidate."""

from __future__ import annotations

import ast
import builtins
import symtable
import sys
import warnings
from collections.abc import Container, Iterable

BUILTINS = frozenset(dir(builtins))
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


def parse_or_nothing(source: str | None) -> list[ast.stmt]:
    """The statements of `source`; none if it does not parse."""
    try:
        return parse(source or "")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def parse(source: str) -> list[ast.stmt]:
    """The statements of `source`, without Python's warnings. Raises as `ast.parse`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source).body


def source_of(statements: Iterable[ast.stmt]) -> str:
    """Source of statements."""
    return ast.unparse(ast.fix_missing_locations(ast.Module(list(statements), [])))


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


def bound_names(statements: Iterable[ast.stmt]) -> frozenset[str]:
    """Names that the statements bind at their top level."""
    table = symtable.symtable(source_of(statements), "<test>", "exec")
    return frozenset(s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported())


def defined(body: Iterable[ast.stmt], classes: bool = True) -> frozenset[str]:
    """Names of the functions, and perhaps the classes, that the statements define."""
    functions = {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    return frozenset(functions | {node.name for node in body if isinstance(node, ast.ClassDef) and classes})


def stored(tree: ast.AST) -> frozenset[str]:
    """Names that `tree` assigns anywhere."""
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    return frozenset(node.id for node in names)


def called_names(tree: ast.AST) -> list[str]:
    """Names that `tree` calls, from the outermost call inwards."""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [func.id for func in calls if isinstance(func, ast.Name)]


def calls(tree: ast.AST, names: Container[str]) -> bool:
    """Whether `tree` calls one of `names`."""
    return any(name in names for name in called_names(tree))


def mentions(tree: ast.AST, names: Container[str]) -> bool:
    """Whether `tree` reads or assigns one of `names`."""
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(tree))


def root_name(node: ast.AST) -> str | None:
    """The name at which a chain of calls, attributes and indices starts."""
    while isinstance(node, (ast.Call, ast.Attribute, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def is_class(name: str) -> bool:
    """Whether a name is written as a class's."""
    return name[:1].isupper()


def split_names(tree: ast.AST, free: frozenset[str], own: frozenset[str]) -> tuple[list[str], list[str]]:
    """(names the candidate must supply, what the tests use of the standard library without importing it).

    The latter as ``module`` or ``module:name``. A name in `own` is the candidate's whatever else it may mean, and so is
    one that `tree` calls like no module can be called.
    """
    left = free - (BUILTINS - own)
    modules = {name for name in left if name in sys.stdlib_module_names} - own - set(called_names(tree))
    known = {name for name in left if name in KNOWN_IMPORTS} - own
    return sorted(left - modules - known), sorted(modules | {f"{KNOWN_IMPORTS[name]}:{name}" for name in known})


# Built-ins that run other code, or look at it: none that a candidate is asked to write.
NOT_ASKED = frozenset({"__import__", "compile", "eval", "exec", "getattr", "globals", "isinstance", "locals", "vars"})


def called_builtins(tree: ast.AST) -> list[str]:
    """Built-in names that `tree` calls: a test of a candidate that redefines one names nothing else."""
    return sorted(set(called_names(tree)) & (BUILTINS - NOT_ASKED))
