"""Test code before it is planned, without imports of the program and without tests inside strings."""

from __future__ import annotations

import ast

from couplet.reward.planner.names import parse

SOLUTION = "solution"  # the module as which tests import the program


def rewritten(source: str) -> list[ast.stmt]:
    """The statements of a test. Raises as `ast.parse`.

    ``from solution import f`` is left out, since `f` is the program's in any case; ``solution.f`` becomes ``f``; the body
    of ``if __name__ == "__main__"`` is run; ``eval`` and ``exec`` of a text become what is in it.
    """
    body = parse(source)
    if any(name in source for name in (SOLUTION, "__main__", "eval", "exec")):
        body = _Rewrite().visit(ast.Module(body, [])).body
    return body


class _Rewrite(ast.NodeTransformer):
    def visit_Module(self, node: ast.Module) -> ast.Module:
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return ast.fix_missing_locations(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.stmt] | ast.ImportFrom:
        if node.module != SOLUTION:
            return node
        renamed = [alias for alias in node.names if alias.asname and alias.asname != alias.name]
        return [
            ast.Assign([ast.Name(str(alias.asname), ast.Store())], ast.Name(alias.name, ast.Load()), lineno=node.lineno)
            for alias in renamed
        ]

    def visit_Import(self, node: ast.Import) -> ast.Import | None:
        node.names = [alias for alias in node.names if alias.name != SOLUTION or alias.asname]
        return node if node.names else None

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == SOLUTION:
            return ast.copy_location(ast.Name(node.attr, node.ctx), node)
        return node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.body if ast.unparse(node.test) == "__name__ == '__main__'" else node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | list[ast.stmt]:
        if (text := _text_for("exec", node.value)) is not None:
            try:
                return rewritten(text)
            except SyntaxError:
                return node
        self.generic_visit(node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if (text := _text_for("eval", node)) is not None:
            try:
                return ast.copy_location(ast.parse(text.strip(), mode="eval").body, node)
            except SyntaxError:
                return node
        return node


def _text_for(name: str, node: ast.expr) -> str | None:
    """The constant text that ``name(text)`` runs."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name and len(node.args) == 1:
        argument = node.args[0]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            return argument.value
    return None
