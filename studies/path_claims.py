"""The paper's claims on the stages of the path study, as paired differences over seeds, positive if the claim holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from couplet.configs.json_file import read_object
from couplet.studies.claims import paired_test

Rows = Sequence[Mapping[str, Any]]
RL_STAGE = "rl"
LOW, HIGH, HIGHEST = 0.2, 1.0, 1.2
Measure = Callable[[int], float]
"""Of a seed."""


def value(rows: Rows, seed: int, stage: str, temperature: float, steps: int, name: str) -> float:
    """One metric of one policy, from the decoding with the most samples that has it; NaN if there is none.

    Left-to-right decoding has no number of steps and matches any.
    """
    found = [
        row
        for row in rows
        if (row["seed"], row["stage"], row["temperature"]) == (seed, stage, temperature)
        and row["steps"] in (steps, None)
        and row.get(name) is not None
    ]
    return float(max(found, key=lambda row: row["samples"])[name]) if found else math.nan


def claims(rows: Rows, steps: int) -> list[dict[str, Any]]:
    """Every claim about the last two stages: the policy before reinforcement learning, and after it."""
    study = _Claims(rows, steps, *list(dict.fromkeys(row["stage"] for row in rows))[-2:])
    return [*study.gains(), *study.orders(), *study.coverage(), *study.halvings()]


@dataclass(frozen=True)
class _Claims:
    """The rows of a study, its number of denoising steps, and the stages that are compared."""

    rows: Rows
    steps: int
    start: str
    rl: str

    def gains(self) -> list[dict[str, Any]]:
        """Reinforcement learning raises pass@1."""
        return [
            self._judge(
                "RL raises pass@1",
                f"pass@1 at T = {t:g}, {self.rl} minus {self.start}",
                _minus(self._at(self.rl, t, "pass@1"), self._at(self.start, t, "pass@1")),
            )
            for t in (LOW, HIGH)
        ]

    def orders(self) -> list[dict[str, Any]]:
        """A higher temperature makes the order less autoregressive."""
        return [
            self._judge(
                "temperature lowers AR-ness",
                f"{kind} AR-ness@1 of {stage} in {count} steps, T = {LOW:g} minus T = {HIGHEST:g}",
                _minus(self._at(stage, LOW, kind, count), self._at(stage, HIGHEST, kind, count)),
            )
            for stage in (self.start, self.rl)
            for count in (self.steps, 2 * self.steps)
            for kind in ("local", "global")
        ]

    def coverage(self) -> list[dict[str, Any]]:
        """A higher temperature raises pass@k."""
        return [
            self._judge(
                "temperature raises pass@k",
                f"pass@8 of {stage}, T = {t:g} minus T = {LOW:g}",
                _minus(self._at(stage, t, "pass@8"), self._at(stage, LOW, "pass@8")),
            )
            for stage in (self.start, self.rl)
            for t in (HIGH, HIGHEST)
        ]

    def halvings(self) -> list[dict[str, Any]]:
        """Half the denoising steps cost less after reinforcement learning: in pass@1, and as a share of it."""
        found = []
        for t in (LOW, HIGH):
            for more in (2 * self.steps, self.steps):
                change = f"from {more} to {more // 2} steps at T = {t:g}"
                found += [
                    self._judge(
                        "halved steps cost less after RL",
                        f"fall of pass@1 {change}, {self.start} minus {self.rl}",
                        _minus(self._cost(self.start, t, more), self._cost(self.rl, t, more)),
                    ),
                    self._judge(
                        "halved steps cost less after RL",
                        f"share of pass@1 kept {change}, {self.rl} minus {self.start}",
                        _minus(self._kept(self.rl, t, more), self._kept(self.start, t, more)),
                    ),
                ]
        return found

    def _judge(self, claim: str, measured: str, gap: Measure) -> dict[str, Any]:
        seeds = dict.fromkeys(row["seed"] for row in self.rows)
        return {"claim": claim, "measured": measured, **paired_test([gap(seed) for seed in seeds])}

    def _at(self, stage: str, temperature: float, name: str, count: int | None = None) -> Measure:
        return lambda seed: value(self.rows, seed, stage, temperature, count or self.steps, name)

    def _cost(self, stage: str, temperature: float, more: int) -> Measure:
        return _minus(self._at(stage, temperature, "pass@1", more), self._at(stage, temperature, "pass@1", more // 2))

    def _kept(self, stage: str, temperature: float, more: int) -> Measure:
        whole, half = (self._at(stage, temperature, "pass@1", count) for count in (more, more // 2))
        return lambda seed: half(seed) / whole(seed) if whole(seed) > 0 else math.nan


def _minus(first: Measure, second: Measure) -> Measure:
    return lambda seed: first(seed) - second(seed)


def mask_claims(ablations: Path | None) -> list[dict[str, Any]]:
    """Coupled against full-mask and decoupled likelihoods, from the ablation study; empty without one."""
    if ablations is None or not ablations.is_file():
        return []
    runs = read_object(ablations)["runs"]
    found = []
    for other in ("full_mask", "decoupled"):
        for name, words in (("pass_at_1_after", "T = 0.2"), ("pass_at_1_t1_after", "T = 1")):
            by_recipe = {
                recipe: {row["seed"]: row[name] for row in runs if row["recipe"] == recipe and name in row}
                for recipe in ("coupled", other)
            }
            seeds = [seed for seed in by_recipe["coupled"] if seed in by_recipe[other]]
            if seeds:
                gaps = [by_recipe["coupled"][seed] - by_recipe[other][seed] for seed in seeds]
                measured = f"pass@1 at {words} after RL, coupled minus {other} (ablations.md)"
                claim = f"coupled beats {other.replace('_', ' ')}"
                found.append({"claim": claim, "measured": measured, **paired_test(gaps)})
    return found
