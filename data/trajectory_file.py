"""The Parquet files of a run that hold every completion it trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from couplet.data.trajectory import ScoredGroup

TRAJECTORY_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("epoch", pa.int64()),
        ("problem_id", pa.string()),
        ("group", pa.int64()),
        ("completion", pa.int32()),
        ("attempt", pa.int32()),
        ("version", pa.int64()),
        ("seed", pa.int64()),
        ("prompt_tokens", pa.list_(pa.int32())),
        ("suffix_tokens", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.int32())),
        ("reveal_step", pa.list_(pa.int16())),
        ("text", pa.string()),
        ("approximations", pa.list_(pa.string())),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("reward", pa.float32()),
        ("pass_rate", pa.float32()),
        ("parts", pa.string()),  # JSON: reward function -> unweighted value
        ("tests_passed", pa.list_(pa.bool_())),
        ("cpu_seconds", pa.float32()),
        ("cached", pa.bool_()),
    ]
)


def trajectory_table(groups: Sequence[ScoredGroup], step: int) -> pa.Table:
    """One row per completion of the groups trained in learner step `step`, for the run's Parquet files."""
    rows: list[dict[str, Any]] = []
    for scored in groups:
        group = scored.group
        for g, verdict in enumerate(scored.verdicts):
            rows.append(
                {
                    "step": step,
                    "epoch": group.group_id.epoch,
                    "problem_id": group.problem_id,
                    "group": group.group_id.group,
                    "completion": g,
                    "attempt": group.attempt,
                    "version": group.version,
                    "seed": group.seeds_G[g],
                    "prompt_tokens": group.prompt_tokens.tolist(),
                    "suffix_tokens": group.suffix_tokens.tolist(),
                    "tokens": group.tokens_GC[g].tolist(),
                    "reveal_step": group.reveal_step_GC[g].tolist(),
                    "text": group.texts[g],
                    "approximations": list(group.approximations),
                    "outcome": verdict.outcome.value,
                    "reason": verdict.reason,
                    "reward": verdict.reward,
                    "pass_rate": verdict.pass_rate,
                    "parts": json.dumps(verdict.parts, sort_keys=True),
                    "tests_passed": [t.passed for t in verdict.tests],
                    "cpu_seconds": verdict.cpu_seconds,
                    "cached": verdict.cached,
                }
            )
    return pa.Table.from_pylist(rows, schema=TRAJECTORY_SCHEMA)
