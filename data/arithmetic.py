"""Generated two-step arithmetic word problems with worked text answers.

The AR-ness analysis compares code (the katas) with them. They have no tests: the answer is text, kept in
`metadata["answer"]`, and its number in `metadata["result"]`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from couplet.configs.errors import UserError
from couplet.data.problem import Problem
from couplet.data.seeds import derive_seed

SPLIT_SIZES = {"tune": 1600, "rl": 250, "heldout": 120}
NAMES = ("Tom", "Ada", "Sam", "Eva", "Max", "Ida")
THINGS = ("apples", "coins", "books", "stones")

# Two verbs each: words of the second step, and its sign.
FIRST = {"finds": "+", "loses": "-"}
SECOND = {"buys": "+", "sells": "-", "doubles": "*"}


@dataclass(frozen=True)
class _Story:
    first: str
    second: str
    start: int
    change: int
    last: int

    @property
    def steps(self) -> tuple[int, int]:
        """Numbers after the first and after the second step."""
        middle = self.start + self.change if self.first == "finds" else self.start - self.change
        end = {"buys": middle + self.last, "sells": middle - self.last, "doubles": middle * 2}[self.second]
        return middle, end

    def question(self, name: str, thing: str) -> str:
        """The story, and what is asked."""
        tail = "doubles what is left" if self.second == "doubles" else f"{self.second} {self.last}"
        return f"{name} has {self.start} {thing}, {self.first} {self.change}, then {tail}. How many {thing} are there?"

    def answer(self) -> str:
        """The worked answer."""
        middle, end = self.steps
        operand = 2 if self.second == "doubles" else self.last
        first = f"{self.start} {FIRST[self.first]} {self.change} = {middle}"
        return f"First {first}, then {middle} {SECOND[self.second]} {operand} = {end}.\nThe answer is {end}."


def _stories() -> list[_Story]:
    found = []
    for first, second, start, change in itertools.product(FIRST, SECOND, range(4, 20), range(2, 10)):
        for last in (2,) if second == "doubles" else range(2, 8):
            story = _Story(first, second, start, change, last)
            if min(story.steps) >= 0:
                found.append(story)
    return found


def arithmetic(split: str, seed: int = 0) -> list[Problem]:
    """The word problems of a split (`tune`, `rl`, `heldout`), deterministic by seed.

    Which story (operations and numbers) belongs to which split does not depend on the seed; names and things do.
    """
    if split not in SPLIT_SIZES:
        raise UserError(f"arithmetic: no split {split!r}; use one of {', '.join(SPLIT_SIZES)}")
    stories = _stories()
    random.Random(derive_seed(0, "arithmetic-split")).shuffle(stories)
    begin = 0
    for name, size in SPLIT_SIZES.items():
        if name == split:
            break
        begin += size
    generator = random.Random(derive_seed(seed, f"arithmetic-{split}"))
    found = []
    for number, story in enumerate(stories[begin : begin + SPLIT_SIZES[split]]):
        found.append(
            Problem(
                problem_id=f"arithmetic/{split}/{number}",
                question=story.question(generator.choice(NAMES), generator.choice(THINGS)),
                source="arithmetic",
                metadata={"answer": story.answer(), "result": story.steps[1]},
            )
        )
    generator.shuffle(found)
    return found


def corpus_pairs(split: str, seed: int = 0) -> Iterator[tuple[str, str]]:
    """(question, worked answer) of every word problem of a split."""
    for problem in arithmetic(split, seed):
        yield problem.question, problem.metadata["answer"]
