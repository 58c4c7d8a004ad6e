"""Functions, classes, constants and methods of the packages that nothing but a test uses: `python -m tests.unused`.

A name counts as used if it occurs anywhere else in the packages, the benchmarks or the test tools (as a name, an
attribute, a keyword, a whole string or a word of a template). So a dead name that something else shares is not found,
and what is found is dead.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from couplet import PACKAGES, ROOT

USERS = ("launch.py", "setup.py", "couplet", "benchmarks", "tests/golden")  # besides the packages
TEMPLATES = (".jinja", ".j2", ".html")
PUBLIC = {  # for other tools and for interactive use: DESIGN's public surface, and protocols of libraries
    "ESTIMATORS",
    "group_mean",
    "leave_one_out",
    "local_ar_ness",
    "global_ar_ness",
    "find_distributions",  # importlib.metadata
    "logits",
    "main",
    "options",
    "run",
}
CALLED_BY_PROGRAMS = (
    "reward/sandbox/suites.py",
    "reward/sandbox/pytest_part.py",
    "reward/sandbox/standard.py",
)  # stand-ins for pytest and namedtuple


def definitions(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Name and statement of every function, class and constant of a module, and of the methods of its own classes."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node
        if isinstance(node, ast.ClassDef) and not node.bases:  # a method may be called by the class that it extends
            for member in node.body:
                if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield member.name, member
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name):
                yield target.id, node


def words(tree: ast.AST) -> Counter[str]:
    """Every name that occurs in a syntax tree other than by being defined."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found[node.id] += isinstance(node.ctx, ast.Load)
        elif isinstance(node, ast.Attribute):
            found[node.attr] += 1
        elif isinstance(node, ast.keyword) and node.arg:
            found[node.arg] += 1
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(node.value.replace(":", ".").split(".") if len(node.value) < 100 else ())
    return found


def unused() -> list[str]:
    """`file:line: name` of everything that is defined and not used."""
    root = Path(ROOT)
    folders = [root / name for name in (*PACKAGES, *USERS)]
    files = [file for path in folders for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    trees = {file: ast.parse(file.read_text()) for file in files if file.suffix == ".py"}
    used = sum((words(tree) for tree in trees.values()), Counter[str]())
    for file in files:
        if file.suffix in TEMPLATES:
            used.update(re.findall(r"\w+", file.read_text()))
    found = []
    for file, tree in trees.items():
        name_of_file = str(file.relative_to(root))
        if name_of_file.partition("/")[0] not in PACKAGES or name_of_file in CALLED_BY_PROGRAMS:
            continue
        for name, node in definitions(tree):
            # Decorated definitions are registered, or called by what decorates them.
            exempt = name in PUBLIC or name.startswith("__") or bool(getattr(node, "decorator_list", ()))
            if not exempt and used[name] <= words(node)[name]:
                found.append(f"{name_of_file}:{node.lineno}: {name}")
    return found


if __name__ == "__main__":
    lines = unused()
    print("\n".join(lines) or "nothing is unused")
    sys.exit(1 if lines else 0)
