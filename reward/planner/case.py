"""One test of a problem, as it will be judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from couplet.data.problem import CallCase, StdioCase

Kind = Literal["compare", "judge", "oracle", "call", "stdio", "weak"]
Relation = Literal["equal", "same", "other", "true", "false"]


class ProblemDefect(ValueError):
    """A problem that cannot be judged, whatever the program: its tests do not parse, or its own code does not end."""


@dataclass(frozen=True)
class Case:
    """One test.

    Attributes:
        kind: how it is judged (see `plan`).
        source: the whole test as statements, for a judge or a weak run.
        expression: what the candidate evaluates (``compare``).
        relation: ``equal``, ``same`` or ``other`` (identity with None, True or False),
            ``true`` or ``false`` (``compare``).
        expected: the plain value to compare with, unless `expected_source` is given.
        expected_source: trusted expression of the value to compare with.
        prelude: trusted statements that run before `source` or `expected_source` in a judge.
        setup: what the candidate's process needs of the problem's set-up to evaluate its part of the test.
        weak_setup: what it would need to run `source`.
        imports: import statements that must work here, or the problem cannot be judged.
        names: the candidate's names in `source`.
        modules: standard modules the test uses without importing them.
        arguments: positional arguments of the entry point (``oracle``).
        call, stdio: the problem's own case (of these kinds).
        suite, driver: a whole suite, and the statements that run this test of it (``judge``, ``weak``).
        places: where `source` checks something (see `noting`; ``judge``, ``weak``).
        runs_answers: whether the problem's checker runs code that it is given (``call``, ``stdio``).
    """

    kind: Kind
    source: str = ""
    expression: str = ""
    relation: Relation = "equal"
    expected: Any = None
    expected_source: str = ""
    prelude: str = ""
    setup: str = ""
    weak_setup: str = ""
    imports: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    arguments: tuple[Any, ...] = ()
    call: CallCase | None = None
    stdio: StdioCase | None = None
    suite: str = ""
    driver: str = ""
    places: frozenset[str] = frozenset()
    runs_answers: bool = False

    @property
    def strength(self) -> str:
        """`strong` if the verdict is formed outside the candidate's process, by more than that nothing is raised."""
        only_runs = self.kind == "judge" and not self.places
        return "weak" if self.kind == "weak" or only_runs or self.runs_answers else "strong"
