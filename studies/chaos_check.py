"""Whether a run lost, repeated or mixed anything, from its own records alone. Pure: no Ray, no processes, no clock.

The records are what every run leaves in its folder: `config.yaml`, `metrics.jsonl`, the trajectories and `summary.json`.
Which group a completion belongs to follows from its seed, because all seeds follow from the group's number.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from couplet.configs.json_file import read_object
from couplet.configs.load import read_recipe
from couplet.data.jsonl import read_jsonl
from couplet.data.metric_table import is_learner_step
from couplet.data.seeds import derive_seed
from couplet.data.trajectory import ZERO_SIGNAL
from couplet.data.verdict import Outcome
from couplet.replay.record import FINAL, State
from couplet.replay.schedule import ProblemSchedule

COLUMNS = (
    "step", "epoch", "problem_id", "group", "completion", "attempt", "version", "seed", "outcome", "reward",
)  # fmt: skip
OPEN = [state.value for state in State if state not in FINAL]
JUDGED = {outcome.value for outcome in Outcome if outcome.is_verdict}


@dataclass(frozen=True)
class Records:
    """What a run has written.

    Attributes:
        config: the resolved settings.
        rows: one per learner step.
        completions: one per completion that was trained on or filtered, with `COLUMNS`.
        summary: of a run that has ended, else empty.
    """

    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    completions: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]


def read_records(folder: Path) -> Records:
    """The records in a run folder."""
    summary = folder / "summary.json"
    tables = sorted((folder / "trajectories").glob("step-*.parquet"))
    return Records(
        read_recipe(folder / "config.yaml"),
        [row for _, row in read_jsonl(folder / "metrics.jsonl") if is_learner_step(row)],
        [row for table in tables for row in pq.read_table(table, columns=list(COLUMNS)).to_pylist()],
        read_object(summary) if summary.is_file() else {},
    )


def violations(records: Records) -> list[str]:
    """Everything that contradicts the guarantees, one line each; empty for a run that lost and doubled nothing."""
    found = [*_steps(records), *_identity(records), *_ages(records), *_groups(records)]
    return [*found, *_end(records), *_numbers(records)] if records.summary else [*found, "the run has not ended"]


def checked(records: Records) -> dict[str, int]:
    """How much was checked."""
    rows = records.rows
    return {
        "steps": len(rows),
        "completions": len(records.completions),
        "reissued": int(rows[-1]["ledger_reissued"]) if rows else 0,
        "stale": int(rows[-1]["ledger_stale_dropped"]) if rows else 0,
    }


def _steps(records: Records) -> Iterator[str]:
    steps = [row["step"] for row in records.rows]
    if steps != list(range(1, len(steps) + 1)):
        wrong = next(place for place, step in enumerate(steps) if step != place + 1)
        yield f"metrics.jsonl: row {wrong + 1} is of step {steps[wrong]}"
    logged = {row["step"] for row in records.completions}
    if logged != set(steps):
        yield f"trajectories: of steps {sorted(logged ^ set(steps))[:5]} only one of metrics and trajectories exists"


def _identity(records: Records) -> Iterator[str]:
    """issued = trained + filtered + quarantined + in flight, as each step found the queue; and what was final then."""
    replay = records.config["replay"]
    for row in records.rows:
        count = {name: int(row[f"ledger_{name}"]) for name in (*State, "issued_total", "in_flight")}
        final = sum(count[state.value] for state in FINAL)
        if count["issued_total"] != final + count["in_flight"]:
            yield f"step {row['step']}: issued {count['issued_total']} is not {final} final + {count['in_flight']} in flight"
        if count["in_flight"] != (held := sum(count[name] for name in OPEN)):
            yield f"step {row['step']}: {count['in_flight']} groups in flight, but {held} in a state of their own"
        learned = count[State.TRAINED] + count[State.FILTERED]
        before = (row["step"] - 1) * replay["groups_per_step"]
        if learned != before and not (replay["refill"] and learned > before):
            yield f"step {row['step']}: {learned} groups were trained or filtered before it, not {before}"


def _ages(records: Records) -> Iterator[str]:
    bound = records.config["replay"]["max_staleness"]
    for row in records.completions:
        if not 0 <= (age := row["step"] - 1 - row["version"]) <= bound:
            yield f"step {row['step']}, {_name(row)}: {age} steps old, at most {bound} are allowed"


def _groups(records: Records) -> Iterator[str]:
    """Each group is whole, by one version in one attempt, and in one step only; each step has its number of groups."""
    replay = records.config["replay"]
    groups: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in records.completions:
        groups[row["epoch"], row["problem_id"], row["group"]].append(row)
    signals: Counter[int] = Counter()
    for rows in groups.values():
        steps, made = {row["step"] for row in rows}, {(row["version"], row["attempt"]) for row in rows}
        if len(steps) > 1:
            yield f"{_name(rows[0])}: in {len(steps)} steps, {sorted(steps)}"
        elif sorted(row["completion"] for row in rows) != list(range(replay["completions"])):
            yield f"step {rows[0]['step']}, {_name(rows[0])}: {len(rows)} completions, not {replay['completions']}"
        if len(made) > 1 and len(steps) == 1:
            yield f"step {rows[0]['step']}, {_name(rows[0])}: made by several (version, attempt): {sorted(made)}"
        signals[rows[0]["step"]] += not (replay["refill"] and _is_zero_signal(rows))
    for step, count in signals.items():
        if count != replay["groups_per_step"]:
            yield f"step {step}: {count} groups, not {replay['groups_per_step']}"


def _end(records: Records) -> Iterator[str]:
    """The run ended by itself, and its totals are those of its trajectories."""
    ledger, steps = records.summary["ledger"], records.config["steps"]
    if not len(records.rows) == records.summary["steps"] == steps:
        yield f"{len(records.rows)} steps are logged, the summary has {records.summary['steps']}, wanted are {steps}"
    if ledger["in_flight"] or ledger["issued"] != sum(ledger[state.value] for state in FINAL):
        yield f"summary: groups are left: {ledger}"
    groups: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in records.completions:
        groups[row["step"], row["epoch"], row["problem_id"], row["group"]].append(row)
    zero = sum(map(_is_zero_signal, groups.values())) if records.config["objective"]["zero_signal"] == "drop" else 0
    if (ledger["filtered"], ledger["trained"]) != (zero, len(groups) - zero):
        yield (
            f"summary: {ledger['trained']} trained and {ledger['filtered']} filtered; the trajectories have "
            f"{len(groups) - zero} groups with a signal and {zero} without"
        )


def _numbers(records: Records) -> Iterator[str]:
    """Every completion has the seed of a group that was issued, and every number that was issued is there once."""
    ledger, seed = records.summary["ledger"], records.config["seed"]
    schedule = ProblemSchedule(records.summary["problems"]["train"]["kept"], seed)
    completions = records.config["replay"]["completions"]
    expected = {}
    for number in range(ledger["issued"]):
        group = schedule.group_id(number)
        for g in range(completions):
            expected[derive_seed(seed, "completion", *group, g)] = (number, group, g)
    seen: Counter[int] = Counter()
    names: dict[int, set[str]] = defaultdict(set)
    for row in records.completions:
        found = expected.get(row["seed"])
        if found is None or (row["epoch"], row["completion"]) != (found[1].epoch, found[2]):
            yield f"step {row['step']}, {_name(row)}: its seed is not that of any group that was issued"
            continue
        names[found[1].problem].add(row["problem_id"])
        seen[found[0]] += 1
    missing = [number for number in range(ledger["issued"]) if number not in seen]
    if len(missing) != ledger["quarantined"]:
        yield f"groups {missing[:5]} were skipped: {len(missing)} are missing, {ledger['quarantined']} were quarantined"
    if twice := [number for number, count in seen.items() if count > completions]:
        yield f"groups {twice[:5]} are there more than once"
    for problem, ids in names.items():
        if len(ids) > 1:
            yield f"problem {problem} has several names: {sorted(ids)}"


def _is_zero_signal(rows: Sequence[Mapping[str, Any]]) -> bool:
    rewards = [row["reward"] for row in rows if row["outcome"] in JUDGED]
    return len(rewards) < 2 or float(np.std(rewards, ddof=1)) < ZERO_SIGNAL


def _name(row: Mapping[str, Any]) -> str:
    return f"group {row['problem_id']} of epoch {row['epoch']}"
