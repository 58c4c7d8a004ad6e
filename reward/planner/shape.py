"""What a program may compute itself for a comparison that is made elsewhere."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from couplet.reward.planner.names import is_class

# Conversions of a candidate's value that may run in its process: their result is still compared outside.
# fmt: off
CONVERSIONS = frozenset({
    "bool", "bytes", "complex", "dict", "enumerate", "float", "frozenset", "int", "iter", "len", "list", "map", "max", "min",
    "next", "repr", "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip",
})
# fmt: on
PLAIN_KINDS = (str, list, dict, set, frozenset, tuple, int, float, bytes, bytearray, complex)


@dataclass(frozen=True)
class Shape:
    """What expressions over the candidate's names look like.

    Attributes:
        names: the candidate's names.
        entry_point: the function under test, if it is known.
        own: what its program is to define, as the tests show.
        data: those of `names` that are not functions of the candidate but data that the set-up made with its help.
    """

    names: frozenset[str]
    entry_point: str | None = None
    own: frozenset[str] = frozenset()
    data: frozenset[str] = frozenset()

    def is_rooted(self, node: ast.expr) -> bool:
        """Whether the candidate may compute `node` for a comparison elsewhere: a chain of calls, attributes and indices
        that starts at one of its names, perhaps inside conversions such as ``sorted(...)``.

        Not so if a value of the candidate's, or a method of one, is given something to compare it with.
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
        if not isinstance(node, ast.Call) or self.wraps(node):
            return False
        if isinstance(node.func, ast.Name):
            return node.func.id in self.names - self.data
        if isinstance(node.func, ast.Attribute):
            return self._is_method(node.func)
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
        """Whether `func` is a method of one of the candidate's classes, and of no plain value it might hold instead.

        Not so if the instance is made of what the candidate returned: its class would be a helper.
        """
        if isinstance(func.value, ast.Call) and self.wraps(func.value):
            return False
        made = func.value.func if isinstance(func.value, ast.Call) else func.value
        held = isinstance(made, ast.Name) and made.id in self.names and is_class(made.id)
        return held and not is_plain_attribute(func.attr)

    def wraps(self, call: ast.Call) -> bool:
        """Whether a call of one of the candidate's names is given what others of its functions compute."""
        own = call.func.id if isinstance(call.func, ast.Name) else None
        parts = [*call.args, *(option.value for option in call.keywords)]
        inner = {node.id for part in parts for node in ast.walk(part) if isinstance(node, ast.Name)}
        return any(
            name != own and (not is_class(name) or name == self.entry_point)
            for name in inner & (self.names - self.data)
        )


def _is_simple(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id in CONVERSIONS)


def is_plain_attribute(name: str) -> bool:
    """Whether plain values have an attribute of this name."""
    return any(hasattr(kind, name) for kind in PLAIN_KINDS)
