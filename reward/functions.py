"""Reward functions by name, and their weighted sum, the reward.

A reward function maps one judged answer to a number, usually in [0, 1], or to None if it has no opinion on it: then it
is left out of this answer's sum. `RewardConfig.functions` gives each its weight.
To reward something else, write a function of a `Judged` in a module of the current folder (or any that is installed or
on PYTHONPATH), and name it in the recipe as ``module:function``:

    reward:
      functions: {code: 2.0, code_format: 0.5, "my_rewards:short": 0.1}
"""

from __future__ import annotations

import importlib
import math
import numbers
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from couplet.configs.errors import UserError, nearest
from couplet.configs.schema import ConfigError
from couplet.data.problem import Problem
from couplet.data.verdict import TestResult, part_name


@dataclass(frozen=True)
class Judged:
    """The input of a reward function: one judged answer.

    Attributes:
        text: the completion, cut at its first end token.
        program: the code that was executed; empty if the format rule rejected the text.
        format: 1.0 accepted, 0.5 accepted but the code does not parse, 0.0 refused.
        rewarded_tests: results of the tests that count towards the reward; empty if none was run.
        pass_rate: their pass rate after the configured rule (partial credit or all-or-nothing).
    """

    problem: Problem
    text: str
    program: str
    format: float
    rewarded_tests: tuple[TestResult, ...]
    pass_rate: float


RewardFunction = Callable[[Judged], float | None]
MOST_WITHOUT_OPINION = 16  # answers, all of the first ones, on which a reward function may have no opinion
REWARDS: dict[str, RewardFunction] = {}


def register(name: str) -> Callable[[RewardFunction], RewardFunction]:
    """Make a reward function available under `name`. Raises ValueError for a name already taken."""

    def keep(function: RewardFunction) -> RewardFunction:
        if name in REWARDS:
            raise UserError(f"reward function {name!r} is already registered")
        REWARDS[name] = function
        return function

    return keep


@register("code")
def code(judged: Judged) -> float:
    """The pass rate, paid only for an answer in the right format."""
    return judged.pass_rate if judged.format == 1.0 else 0.0


@register("code_format")
def code_format(judged: Judged) -> float:
    """1 for an accepted format, 0.5 if its code does not parse, else 0."""
    return judged.format


class Chosen(NamedTuple):
    """A reward function with its weight, and its name as the recipe writes it."""

    function: RewardFunction
    weight: float
    name: str


def chosen(functions: dict[str, float]) -> dict[str, Chosen]:
    """The named functions, by metric name (``module_function`` for ``module:function``).

    Raises `ConfigError`, for an unknown name with the nearest known one.
    """
    return {part_name(name): Chosen(_find(name, weight), weight, name) for name, weight in functions.items()}


def _find(name: str, weight: float) -> RewardFunction:
    module, colon, attribute = name.partition(":")
    where = f"reward.functions.{name} = {weight!r}"
    if colon:
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)  # last, so that it shadows nothing
        try:
            function = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"{where}: cannot be imported: {error}; its module must be in the current folder, be installed or be on "
                "PYTHONPATH, on a cluster on every node (of the current folder only the module itself, or its package, is "
                "sent there)"
            ) from None
        if not callable(function):
            raise ConfigError(f"{where}: {attribute!r} of {module!r} is not a function")
        return function
    if name not in REWARDS:
        known = ", ".join(sorted(REWARDS))
        raise ConfigError(
            f"{where}: no reward function of that name; did you mean {nearest(name, REWARDS)!r}? known: {known}"
        )
    return REWARDS[name]


def pay(functions: dict[str, Chosen], judged: Judged) -> tuple[float, dict[str, float]]:
    """(total reward, unweighted value of each function that has an opinion on this answer)."""
    values = {name: _value(each, judged) for name, each in functions.items()}
    parts = {name: value for name, value in values.items() if value is not None}
    return sum(value * functions[name].weight for name, value in parts.items()), parts


def _value(chosen: Chosen, judged: Judged) -> float | None:
    """What a reward function returns; None means no opinion.

    `UserError` with function, value and problem if it raises, or returns anything else than a finite number.
    """
    place = f"reward function {chosen.name}: problem {judged.problem.problem_id}"
    try:
        value = chosen.function(judged)
    except Exception as error:
        raise UserError(f"{place}: raised {type(error).__name__}: {error}; fix the function") from error
    if value is None:
        return None
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise UserError(f"{place}: returned {value!r}; return a finite number, or None for no opinion")
    return float(value)


class Opinions:
    """Stops a run whose reward function never returns a number, such as one without a `return`."""

    def __init__(self, functions: dict[str, Chosen]) -> None:
        self.without = dict.fromkeys(functions, 0)  # answers without an opinion so far; a function with one is left out

    def count(self, functions: dict[str, Chosen], judged: Judged, parts: dict[str, float]) -> None:
        """Count one answer. `UserError` once a function has had no opinion on any of the first `MOST_WITHOUT_OPINION`."""
        for name in list(self.without):
            if name in parts:
                del self.without[name]
                continue
            self.without[name] += 1
            if self.without[name] == MOST_WITHOUT_OPINION:
                raise UserError(
                    f"reward function {functions[name].name}: problem {judged.problem.problem_id}: returned None, as for "
                    f"each of the first {MOST_WITHOUT_OPINION} answers; return a finite number where it has an opinion"
                )
