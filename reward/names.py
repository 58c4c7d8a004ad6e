"""Which names a piece of test code leaves to the candidate, and what shape an expression over them has."""

from __future__ import annotations

import ast
import builtins
import symtable
import sys

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
}


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


def split_names(names: frozenset[str], entry_point: str | None, trusted: frozenset[str]) -> tuple[list[str], list[str]]:
    """(names the candidate must supply, what the tests use of the standard library without importing it).

    The latter as ``module`` or ``module:name``.
    """
    left = names - trusted - (BUILTINS - {entry_point})
    modules = {name for name in left if name in sys.stdlib_module_names and name != entry_point}
    known = {name for name in left if name in KNOWN_IMPORTS and name != entry_point}
    return sorted(left - modules - known), sorted(modules | {f"{KNOWN_IMPORTS[name]}:{name}" for name in known})


def called_builtins(tree: ast.AST) -> list[str]:
    """Built-in names that `tree` calls: a test of a candidate that redefines one names nothing else."""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return sorted({func.id for func in calls if isinstance(func, ast.Name) and func.id in BUILTINS})


def is_rooted(node: ast.expr, names: frozenset[str]) -> bool:
    """Whether `node` is a candidate's value: a chain of calls, attributes and indices that starts at one of `names`,
    perhaps inside conversions such as ``sorted(...)``.
    """
    if isinstance(node, ast.Name):
        return node.id in names
    if isinstance(node, (ast.Attribute, ast.Subscript)):
        return is_rooted(node.value, names)
    if not isinstance(node, ast.Call):
        return False
    if is_rooted(node.func, names):
        return True
    conversion = isinstance(node.func, ast.Name) and node.func.id in CONVERSIONS
    join = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Constant)
    return (conversion or join) and any(is_rooted(argument, names) for argument in node.args)


def needs_objects(tree: ast.AST, names: frozenset[str]) -> bool:
    """Whether a test handles objects of the candidate's that have no plain form: its classes, its exceptions."""
    made: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and _calls(node.value, names):
            made |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is not None and _mentions(node.type, names):
            return True
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            return True
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in names and node.func.id[:1].isupper():
                return True
            if isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass", "hasattr", "next"):
                return any(_mentions(argument, names) for argument in node.args[1:]) or node.func.id == "next"
        if isinstance(node, ast.Attribute) and _is_object_attribute(node, made, names):
            return True
    return False


def _is_object_attribute(node: ast.Attribute, made: set[str], names: frozenset[str]) -> bool:
    plain = any(hasattr(kind, node.attr) for kind in (str, list, dict, set, tuple, int, float, bytes, complex))
    held = isinstance(node.value, ast.Name) and node.value.id in made
    return not plain and (held or _calls(node.value, names))


def _calls(tree: ast.AST, names: frozenset[str]) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
        for node in ast.walk(tree)
    )


def _mentions(tree: ast.AST, names: frozenset[str]) -> bool:
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(tree))
