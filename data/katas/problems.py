"""Katas: a generated family of small Python problems with held-out compositions.

Every kata asks for one function `f`, composed of primitives from one of three kinds:

- lists: reduce of map of filter, 6 * 10 * 10, and the count of each filter, 10 (610 in all),
- strings: two different operations in a given order, 14 * 13 (182),
- numbers: a conditional between two different branches, 6 * 9 * 8 (432).

The 1,224 compositions are divided in the same way for every seed: 816 for tuning, 250 for reinforcement
learning, 120 held out, 38 unused, each kind in proportion. So what is held out is a composition never seen, made of
primitives that were. The seed chooses wording, test inputs and order. The instructions contain no digit.

With `-infill` in the name of a split, a part of each program is missing: the problem has a prefix and a suffix, the
tests are the same.

Tests are chosen, not drawn: from a pool of inputs, those that tell the composition from every other composition of
its kind and from the bugs in `compositions.BUGS`, as far as any input of the pool does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from couplet.configs.errors import UserError
from couplet.data.infilling import missing_part
from couplet.data.katas.compositions import KINDS, buggy_variants, compositions
from couplet.data.problem import Problem
from couplet.data.seeds import derive_seed

SPLITS = ("tune", "rl", "heldout", "unused")
SPLIT_SIZES = {"lists": (407, 125, 60), "strings": (121, 37, 18), "numbers": (288, 88, 42)}
TESTS = 5
POOL = 128  # inputs among which the tests of a kind are chosen

TEMPLATES = (
    "Write a function f that returns {}.",
    "Define f so that it gives {}.",
    "Please code f to compute {}.",
)


@cache
def split_of(kind: str) -> dict[str, tuple[int, ...]]:
    """Indices into `compositions(kind)` of every split; the same for all seeds, disjoint, together complete."""
    order = list(range(len(compositions(kind))))
    random.Random(derive_seed(0, f"kata-split-{kind}")).shuffle(order)
    tune, rl, heldout = SPLIT_SIZES[kind]
    bounds = [0, tune, tune + rl, tune + rl + heldout, len(order)]
    return {name: tuple(order[a:b]) for name, a, b in zip(SPLITS, bounds, bounds[1:])}


def parse_split(split: str) -> tuple[str, tuple[str, ...]]:
    """`"rl"` -> ("rl", all kinds); `"rl-lists"` -> ("rl", ("lists",)). ValueError for any other name."""
    base, _, kind = split.partition("-")
    if base not in SPLITS or (kind and kind not in KINDS):
        kinds = ", ".join(KINDS)
        raise UserError(
            f"katas: no split {split!r}; use one of {', '.join(SPLITS)}, optionally with -KIND of {kinds}, then -infill"
        )
    return base, (kind,) if kind else KINDS


def _with_gap(problem: Problem, seed: int) -> Problem:
    """The kata as an infilling problem: three or more words and signs of its expression are missing."""
    program = str(problem.canonical_solution)
    head, marker, expression = program.partition("return ")
    generator = random.Random(derive_seed(seed, f"kata-gap-{problem.problem_id}"))
    parts = missing_part(expression, generator, least=3)
    assert parts, f"{expression!r} has a gap"
    before, _, after = parts
    return replace(
        problem,
        problem_id=problem.problem_id.replace("katas/", "katas-infill/", 1),
        code_prefix=head + marker + before,
        suffix=after,
    )


def _draw_input(kind: str, generator: random.Random) -> Any:
    if kind == "lists":
        low, width = generator.choice((-9, -6, -1, 0, 2, 4)), generator.choice((6, 12, 24))
        return [generator.randint(low, low + width) for _ in range(generator.randint(2, 8))]
    if kind == "numbers":
        return generator.randint(-99, 199)
    letters = "aAbBoOcCmMzZ  eE"
    word = "".join(generator.choice(letters) for _ in range(generator.randint(6, 11)))
    return " " * generator.randint(0, 2) + word + " " * generator.randint(0, 2)


def _inputs(kind: str, seed: int) -> list[Any]:
    """`POOL` different inputs, the boundaries of the conditions among them."""
    generator = random.Random(derive_seed(seed, f"kata-inputs-{kind}"))
    pool = list(range(-4, 12)) if kind == "numbers" else []
    while len(pool) < POOL:
        candidate = _draw_input(kind, generator)
        if candidate not in pool:
            pool.append(candidate)
    return pool


def _outputs(argument: str, expression: str, inputs: Sequence[Any]) -> list[str]:
    """repr of the result for every input; an exception and an empty result count as no usable value."""
    function: Callable[[Any], Any] = eval(f"lambda {argument}: {expression}", {})
    found = []
    for value in inputs:
        try:
            result = function(value)
        except (ValueError, TypeError):  # the maximum of nothing; a bug that subtracts strings
            found.append("")
            continue
        found.append("" if result in ([], set(), "") else repr(result))
    return found


@cache
def _table(kind: str, seed: int) -> tuple[list[Any], np.ndarray, list[list[str]]]:
    """The pool, the outputs of all compositions as codes [compositions, POOL] (0 = unusable), and as text."""
    inputs = _inputs(kind, seed)
    texts = [_outputs(c.argument, c.expression, inputs) for c in compositions(kind)]
    codes: dict[str, int] = {"": 0}
    return inputs, np.array([[codes.setdefault(t, len(codes)) for t in row] for row in texts]), texts


def _select_tests(kind: str, index: int, seed: int) -> list[tuple[Any, str]]:
    """Inputs with expected results for composition `index`: greedily those that expose most of the remaining rivals."""
    inputs, codes, texts = _table(kind, seed)
    composition, own = compositions(kind)[index], texts[index]
    bugs = [
        [t != o for t, o in zip(_outputs(composition.argument, variant, inputs), own)]
        for variant in buggy_variants(composition.expression)
    ]
    exposed = np.concatenate([np.array(bugs, dtype=bool).reshape(-1, POOL), codes != codes[index]])
    weight = np.ones(len(exposed))
    weight[: len(bugs)] = 1000.0  # a known bug first, then the other compositions
    gain_if_usable = np.where([bool(text) for text in own], 0.0, -np.inf)
    chosen: list[int] = []
    for _ in range(TESTS):
        best = int(np.argmax(weight @ exposed + gain_if_usable))
        chosen.append(best)
        gain_if_usable[best] = -np.inf
        weight[exposed[:, best]] *= 1e-4  # a second test against the same rival is worth little, not nothing
    return [(inputs[i], own[i]) for i in chosen]


def make_problem(kind: str, index: int, seed: int = 0, template: int | None = None) -> Problem:
    """The kata of composition `index` of `kind`; `template` None draws the wording from the seed."""
    composition = compositions(kind)[index]
    name = f"katas/{kind}/" + "-".join(composition.parts)
    if template is None:
        template = derive_seed(seed, name) % len(TEMPLATES)
    return Problem(
        problem_id=name,
        question=TEMPLATES[template].format(composition.wording),
        tests=tuple(f"assert f({value!r}) == {expected}" for value, expected in _select_tests(kind, index, seed)),
        entry_point="f",
        canonical_solution=composition.program,
        source="katas",
        metadata={"kind": kind, "parts": list(composition.parts), "template": template},
    )


def generate(split: str, seed: int = 0) -> list[Problem]:
    """The problems of a split (`tune`, `rl`, `heldout`, `unused`; `rl-lists` and the like for one kind;
    `rl-infill`, `rl-lists-infill` and the like with a gap).

    The same arguments give the same problems in the same order. Splits share no composition, at any seed.
    """
    whole = split.removesuffix("-infill")
    base, kinds = parse_split(whole)
    chosen = [(kind, index) for kind in kinds for index in split_of(kind)[base]]
    random.Random(derive_seed(seed, f"kata-order-{base}")).shuffle(chosen)
    problems = [make_problem(kind, index, seed) for kind, index in chosen]
    return problems if whole == split else [_with_gap(problem, seed) for problem in problems]
