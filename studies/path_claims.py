"""The paper's claims on the stages of the path study, as paired differences over seeds, positive if the claim holds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from couplet.configs.json_file import read_object
from couplet.studies.ablations_report import judge_claim
from couplet.studies.claims import paired_test

Rows = Sequence[Mapping[str, Any]]
RL_STAGE = "rl"
LOW, HIGH, HIGHEST = 0.2, 1.0, 1.2


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
    start, rl = list(dict.fromkeys(row["stage"] for row in rows))[-2:]
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    found: list[dict[str, Any]] = []

    def at(stage: str, temperature: float, name: str, count: int = steps) -> np.ndarray:
        return np.array([value(rows, seed, stage, temperature, count, name) for seed in seeds])

    def judge(claim: str, measured: str, gaps: np.ndarray) -> None:
        found.append({"claim": claim, "measured": measured, **paired_test(gaps.tolist())})

    def cost_and_kept(stage: str, temperature: float, more: int) -> tuple[np.ndarray, np.ndarray]:
        """What half the steps cost in pass@1, and the share of it that is kept."""
        whole, half = (at(stage, temperature, "pass@1", count) for count in (more, more // 2))
        return whole - half, np.divide(half, whole, out=np.full(len(seeds), np.nan), where=whole > 0)

    for t in (LOW, HIGH):
        gain = at(rl, t, "pass@1") - at(start, t, "pass@1")
        judge("RL raises pass@1", f"pass@1 at T = {t:g}, {rl} minus {start}", gain)
    for stage, count, kind in itertools.product((start, rl), (steps, 2 * steps), ("local", "global")):
        measured = f"{kind} AR-ness@1 of {stage} in {count} steps, T = {LOW:g} minus T = {HIGHEST:g}"
        judge("temperature lowers AR-ness", measured, at(stage, LOW, kind, count) - at(stage, HIGHEST, kind, count))
    for stage, t in itertools.product((start, rl), (HIGH, HIGHEST)):
        measured = f"pass@8 of {stage}, T = {t:g} minus T = {LOW:g}"
        judge("temperature raises pass@k", measured, at(stage, t, "pass@8") - at(stage, LOW, "pass@8"))
    for t, more in itertools.product((LOW, HIGH), (2 * steps, steps)):
        change = f"from {more} to {more // 2} steps at T = {t:g}"
        (cost_before, kept_before), (cost, kept) = cost_and_kept(start, t, more), cost_and_kept(rl, t, more)
        claim = "halved steps cost less after RL"
        judge(claim, f"fall of pass@1 {change}, {start} minus {rl}", cost_before - cost)
        judge(claim, f"share of pass@1 kept {change}, {rl} minus {start}", kept - kept_before)
    return found


def mask_claims(ablations: Path | None) -> list[dict[str, Any]]:
    """Coupled against full-mask and decoupled likelihoods, from the ablation study; empty without one."""
    if ablations is None or not ablations.is_file():
        return []
    runs = read_object(ablations)["runs"]
    found = []
    for other in ("full_mask", "decoupled"):
        for metric, words in (("pass_at_1", "T = 0.2"), ("pass_at_1_t1", "T = 1")):
            judged = judge_claim(runs, f"coupled beats {other.replace('_', ' ')}", "coupled", other, metric)
            measured = f"pass@1 at {words} after RL, coupled minus {other} (ablations.md)"
            found += [] if judged is None else [{**judged, "measured": measured}]
    return found
