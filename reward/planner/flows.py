"""Where in a test the values of its program's functions may be, and which of these functions judge what others return."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from couplet.reward.planner.names import root_name, stored

FILLING = frozenset(
    {"add", "append", "appendleft", "extend", "insert", "setdefault", "update"}
)  # methods of containers


@dataclass(frozen=True)
class Helpers:
    """Functions of a test that are given what others returned (`judging`), or that are compared with them."""

    judging: frozenset[str]
    compared: frozenset[str]


def helpers(tree: ast.AST, names: frozenset[str], classes: frozenset[str], entry_point: str | None) -> Helpers:
    """The helpers among `names`, of which `classes` only make what tests are about."""
    sources, makers, unfilled = (
        sources_of(tree, names - classes),
        sources_of(tree, names),
        sources_of(tree, names, False),
    )
    judging, compared = set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            parts = [*node.args, *(option.value for option in node.keywords)]
            filling = isinstance(node.func, ast.Attribute) and node.func.attr in FILLING
            called = (unfilled if filling else makers).get(root_name(node.func) or "", frozenset())
            if not called and not isinstance(node.func, (ast.Name, ast.Attribute)):
                called = given_by(node.func, makers)  # ``[is_valid][0](...)``, ``partial(is_valid)(...)``
            if isinstance(node.func, ast.Name):
                called -= classes
            given = frozenset[str]().union(*(given_by(part, sources) for part in parts))
            if called and given - called:
                judging |= called
            passed = [part.id for part in parts if isinstance(part, ast.Name) and part.id in names - classes]
            if not called and len(given) > 1:  # ``map(is_valid, f(1))``
                judging.update(passed)
        elif isinstance(node, ast.Compare):
            sides = [given_by(side, sources) for side in (node.left, *node.comparators)]
            if any(entry_point in side for side in sides):
                compared |= frozenset[str]().union(*(side for side in sides if entry_point not in side))
    if not names - judging - classes:
        judging = set()  # they judge each other
    return Helpers(frozenset(judging), frozenset(compared - judging))


def given_by(tree: ast.AST, sources: dict[str, frozenset[str]]) -> frozenset[str]:
    """The functions whose values may be in `tree`."""
    found = (sources[node.id] for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in sources)
    return frozenset(itertools.chain.from_iterable(found))


def sources_of(tree: ast.AST, names: frozenset[str], filled: bool = True) -> dict[str, frozenset[str]]:
    """Which of `names` each name may be, or hold a value of; unless `filled`, not of what its methods are given."""
    sources = {name: frozenset([name]) for name in names}
    local = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    held = stored(tree)
    before: dict[str, frozenset[str]] = {}
    while sources != before:
        before = dict(sources)
        for node in ast.walk(tree):
            for targets, values in _flows(node, local, held if filled else frozenset()):
                given = frozenset[str]().union(*(given_by(value, before) for value in values))
                for name in targets - names:
                    sources[name] = sources.get(name, frozenset()) | given
    return {name: given for name, given in sources.items() if given}


def _flows(
    node: ast.AST, local: dict[str, ast.FunctionDef], held: frozenset[str]
) -> Iterator[tuple[set[str], list[ast.expr]]]:
    """(names, expressions whose values they may get) of a node; `local` are functions that the test defines, `held` the
    names that it assigns.
    """
    match node:
        case ast.Assign(targets=targets, value=value):
            yield _names_in(targets), [value]
        case (
            ast.AnnAssign(target=target, value=ast.expr() as value)
            | ast.NamedExpr(target=target, value=value)
            | ast.AugAssign(target=target, value=value)
            | ast.For(target=target, iter=value)
            | ast.comprehension(target=target, iter=value)
            | ast.withitem(context_expr=value, optional_vars=ast.expr() as target)
        ):
            yield _names_in([target]), [value]
        case ast.Match(subject=subject, cases=branches):
            yield {found for branch in branches for found in _captured(branch.pattern)}, [subject]
        case ast.ClassDef(name=name, body=body):
            yield {name}, _expressions(body)
        case ast.FunctionDef(name=name, body=body, args=arguments):
            yield {name}, _expressions(body)
            yield {each.arg for each in arguments.args + arguments.kwonlyargs}, _defaults(arguments)
        case ast.Expr(value=ast.Call(func=func, args=args)):  # called for what it does to its arguments
            yield {each.id for each in args if isinstance(each, ast.Name)}, [func]
        case ast.Call(func=func, args=args, keywords=keywords):
            if isinstance(func, ast.Attribute) and func.attr in FILLING:  # ``found.append(f(1))``
                yield {root_name(func) or ""} & held, [*args, *(option.value for option in keywords)]
            for called in (func, *args):
                function = local.get(called.id) if isinstance(called, ast.Name) else called
                if not isinstance(function, (ast.FunctionDef, ast.Lambda)):
                    continue
                names = [
                    each.arg for each in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
                ]
                given = [*args, *(option.value for option in keywords)]
                if called is func and not keywords and not any(isinstance(each, ast.Starred) for each in args):
                    yield from (({name}, [value]) for name, value in zip(names, args))
                else:
                    yield set(names), given


def _expressions(body: list[ast.stmt]) -> list[ast.expr]:
    return [node for each in body for node in ast.walk(each) if isinstance(node, ast.expr)]


def _defaults(arguments: ast.arguments) -> list[ast.expr]:
    return [value for value in (*arguments.defaults, *arguments.kw_defaults) if value is not None]


def _captured(pattern: ast.pattern) -> set[str]:
    names = {getattr(part, "name", None) or getattr(part, "rest", None) for part in ast.walk(pattern)}
    return {name for name in names if isinstance(name, str)}


def _names_in(targets: list[ast.expr]) -> set[str]:
    return {part.id for each in targets for part in ast.walk(each) if isinstance(part, ast.Name)}
