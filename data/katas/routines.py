"""Routines: generated problems whose answers need several lines, with held-out compositions and held-out lengths.

Every routine asks for one function `f` that walks through a list and collects a result:

    for each x in xs: stop if it is above seven; keep it only if it is even; double it. Return the sum of them.

Its *level* is the number of steps in the loop, 1 to 4: a condition to stop at, a condition to keep a number, changes of
it, always in this order. Levels 1 to 3 are divided by composition into `tune`, `rl` and `heldout`, once and for all,
whatever the seed. Level 4 (with two changes) is in `long` alone: a length that no other split has. `SPLIT-N` is level
N of a split. The instructions contain no digit.

Tests are chosen from a pool of inputs so that they tell a routine from its rivals: the same steps in another order,
with one left out, with another condition, change or result.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from couplet.data.katas.corpus import answer
from couplet.data.problem import Problem
from couplet.data.seeds import derive_seed

SPLITS = ("tune", "rl", "heldout", "long")
LEVELS = (1, 2, 3, 4)
SIZES = {"tune": 400, "rl": 100, "heldout": 60}  # compositions of one level; `long` has 60 of level 4
LONG = 60
TESTS, POOL = 5, 96

# name -> (words, code)
CONDITIONS = {
    "even": ("it is even", "x % 2 == 0"),
    "odd": ("it is odd", "x % 2 == 1"),
    "threes": ("it is a multiple of three", "x % 3 == 0"),
    "positive": ("it is positive", "x > 0"),
    "negative": ("it is negative", "x < 0"),
    "above_seven": ("it is above seven", "x > 7"),
    "below_four": ("it is below four", "x < 4"),
}
CHANGES = {
    "double": ("double it", "x *= 2"),
    "triple": ("triple it", "x *= 3"),
    "square": ("square it", "x *= x"),
    "negate": ("negate it", "x = -x"),
    "add_one": ("add one", "x += 1"),
    "less_two": ("subtract two", "x -= 2"),
}
# name -> (words, line before the loop, line at its end, the result)
RESULTS = {
    "sum": ("the sum of them", "total = 0", "total += x", "total"),
    "product": ("the product of them", "product = 1", "product *= x", "product"),
    "count": ("how many there are", "count = 0", "count += 1", "count"),
    "list": ("the list of them", "found = []", "found.append(x)", "found"),
    "last": ("the last of them, or zero", "last = 0", "last = x", "last"),
}
TEMPLATES = (
    "Write f. For each x in xs: {steps}. Return {result}.",
    "Define f(xs). Take each x in turn: {steps}. The result is {result}.",
)
OTHER_NAME, OTHER_SHARE = "result", 1 / 3  # what some authors of the corpus call the result, and how many do


@dataclass(frozen=True)
class Step:
    """One step of the loop's body: `stop` or `keep` with its condition, or a `change`."""

    kind: str
    name: str

    @property
    def words(self) -> str:
        """The step as an instruction."""
        if self.kind == "change":
            return CHANGES[self.name][0]
        return {"stop": "stop if ", "keep": "keep it only if "}[self.kind] + CONDITIONS[self.name][0]

    @property
    def lines(self) -> tuple[str, ...]:
        """The step as code; `keep` is a condition over all that follows it."""
        if self.kind == "change":
            return (CHANGES[self.name][1],)
        head = f"if {CONDITIONS[self.name][1]}:"
        return (head, "    break") if self.kind == "stop" else (head,)


@dataclass(frozen=True)
class Routine:
    """Steps and a result."""

    steps: tuple[Step, ...]
    result: str

    @property
    def program(self) -> str:
        """The canonical solution."""
        return self.written(RESULTS[self.result][3])

    def written(self, name: str) -> str:
        """The program by an author who calls the result `name`."""
        _, before, at_end, result = RESULTS[self.result]
        body, indent = list[str](), ""
        for step in self.steps:
            body += [indent + line for line in step.lines]
            indent += "    " if step.kind == "keep" else ""
        loop = ["for x in xs:", *(f"    {line}" for line in (*body, indent + at_end))]
        lines = ("def f(xs):", before, *loop, f"return {result}")
        return re.sub(rf"\b{result}\b", name, "\n    ".join(lines))

    @property
    def name(self) -> str:
        """For the problem's id."""
        return "-".join((*(f"{step.kind}_{step.name}" for step in self.steps), self.result))

    def question(self, template: int) -> str:
        """What is asked."""
        return TEMPLATES[template].format(steps="; ".join(s.words for s in self.steps), result=RESULTS[self.result][0])


KINDS = {"stop": tuple(CONDITIONS), "keep": tuple(CONDITIONS), "change": tuple(CHANGES)}
SHAPES = {level: tuple(itertools.combinations(KINDS, level)) for level in LEVELS[:-1]}  # the kinds of a level's steps
SHAPES |= {LEVELS[-1]: (("stop", "keep", "change", "change"),)}


@cache
def routines(level: int) -> tuple[Routine, ...]:
    """The routines of a level that the splits are cut from, in a fixed order; all different, none with a dead step."""
    draw = random.Random(derive_seed(0, f"routines-{level}"))
    pool = [
        (tuple(map(Step, kinds, names)), result)
        for kinds in SHAPES[level]
        for names in itertools.product(*(KINDS[kind] for kind in kinds))
        for result in RESULTS
    ]
    wanted = LONG if level == max(LEVELS) else sum(SIZES.values())
    alive = (Routine(*one) for one in draw.sample(pool, len(pool)) if _is_alive(*one))
    return tuple(itertools.islice(alive, wanted))


def _is_alive(steps: Sequence[Step], result: str) -> bool:
    """Whether leaving out any step, or exchanging two, changes what the routine computes."""
    own = _outputs(Routine(tuple(steps), result))
    less = [Routine((*steps[:i], *steps[i + 1 :]), result) for i in range(len(steps))]
    return all(_outputs(rival) != own for rival in less) and len(set(own)) > len(own) // 8


@cache
def _inputs() -> tuple[list[int], ...]:
    generator = random.Random(derive_seed(0, "routine-inputs"))
    return tuple(
        [generator.randint(low, low + width) for _ in range(generator.randint(2, 7))]
        for low, width in itertools.islice(itertools.cycle(itertools.product((-6, -2, 0, 2), (6, 12))), POOL)
    )


@cache
def _outputs(routine: Routine) -> tuple[str, ...]:
    """repr of the result for every input of the pool."""
    scope: dict[str, Any] = {}
    exec(routine.program, scope)
    return tuple(repr(scope["f"](list(xs))) for xs in _inputs())


def _rivals(routine: Routine) -> Iterator[Routine]:
    """Programs that a wrong answer could be: other orders, a step less, another primitive in one place."""
    steps = routine.steps
    for order in itertools.permutations(steps):
        yield Routine(order, routine.result)
    for place, step in enumerate(steps):
        before, after = steps[:place], steps[place + 1 :]
        yield Routine((*before, *after), routine.result)
        for other in KINDS[step.kind]:
            yield Routine((*before, Step(step.kind, other), *after), routine.result)
    for result in RESULTS:
        yield Routine(steps, result)


def _select_tests(routine: Routine) -> list[tuple[list[int], str]]:
    """Inputs with expected results: greedily those that expose most of the rivals not exposed yet."""
    own = _outputs(routine)
    rivals = {outputs for rival in _rivals(routine) if (outputs := _outputs(rival)) != own}
    exposed = np.array([[theirs != mine for theirs, mine in zip(outputs, own)] for outputs in sorted(rivals)])
    weight, chosen = np.ones(len(exposed)), list[int]()
    for _ in range(TESTS):
        gains = weight @ exposed
        gains[chosen] = -1.0
        chosen.append(int(np.argmax(gains)))
        weight[exposed[:, chosen[-1]]] *= 1e-4  # a second test against the same rival is worth little, not nothing
    return [(_inputs()[i], own[i]) for i in chosen]


def members(split: str) -> list[Routine]:
    """The routines of a split, by level. ValueError for a name that is none."""
    base, dash, number = split.partition("-")
    levels = [int(number)] if number.isdigit() else [] if dash else list(LEVELS)
    if base == "long":
        levels = [level for level in levels if level == max(LEVELS)]
    else:
        levels = [level for level in levels if level < max(LEVELS)]
    if base not in SPLITS or not levels or not set(levels) <= set(LEVELS):
        raise ValueError(
            f"routines: no split {split!r}; use one of {', '.join(SPLITS)}, tune, rl and heldout also with -LEVEL"
        )
    return [routine for level in levels for routine in _cut(base, level)]


def _cut(base: str, level: int) -> tuple[Routine, ...]:
    found = routines(level)
    if base == "long":
        return found
    shares = [len(found) * sum(list(SIZES.values())[:n]) // sum(SIZES.values()) for n in range(len(SIZES) + 1)]
    place = list(SIZES).index(base)
    return found[shares[place] : shares[place + 1]]


def make_problem(routine: Routine, seed: int = 0, template: int | None = None) -> Problem:
    """The problem of a routine; `template` None draws the wording from the seed."""
    name = f"routines/{len(routine.steps)}/{routine.name}"
    if template is None:
        template = derive_seed(seed, name) % len(TEMPLATES)
    return Problem(
        problem_id=name,
        question=routine.question(template),
        tests=tuple(f"assert f({value!r}) == {expected}" for value, expected in _select_tests(routine)),
        entry_point="f",
        canonical_solution=routine.program,
        source="routines",
        metadata={"level": len(routine.steps), "template": template},
    )


def generate(split: str, seed: int = 0) -> list[Problem]:
    """The problems of a split, in an order drawn from the seed."""
    chosen = members(split)
    random.Random(derive_seed(seed, f"routine-order-{split}")).shuffle(chosen)
    return [make_problem(routine, seed) for routine in chosen]


def corpus_pairs(split: str, seed: int = 0) -> Iterator[tuple[str, str]]:
    """(question, answer) of every routine of a split in every wording, in an order drawn from the seed.

    Every answer is right. Its author, drawn for each, decides what the result is called.
    """
    pairs = []
    for routine in members(split):
        for template in range(len(TEMPLATES)):
            author = random.Random(derive_seed(seed, f"routine-author-{routine.name}-{template}"))
            name = OTHER_NAME if author.random() < OTHER_SHARE else RESULTS[routine.result][3]
            pairs.append((routine.question(template), answer(routine.written(name))))
    random.Random(derive_seed(seed, f"routine-corpus-{split}")).shuffle(pairs)
    return iter(pairs)
