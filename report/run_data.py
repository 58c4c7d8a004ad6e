"""What the report reads of a run folder, each file checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from couplet.configs.errors import UserError
from couplet.configs.json_file import read_object
from couplet.configs.load import read_recipe
from couplet.data.jsonl import LineError, read_jsonl
from couplet.data.metric_table import is_learner_step
from couplet.data.tokenizer import Tokenizer, load_tokenizer

REWARD_COLUMNS = ("step", "outcome", "reward")
COLUMNS = (
    *REWARD_COLUMNS,
    "problem_id",
    "completion",
    "version",
    "prompt_tokens",
    "tokens",
    "reveal_step",
    "text",
    "reason",
    "pass_rate",
    "tests_passed",
)
FILES = 8  # trajectory files read at each end of the run


class RunFolderError(UserError):
    """A run folder of which no report can be made; the message names folder or file and the remedy."""


@dataclass(frozen=True)
class Run:
    """A run folder in memory. What an unfinished run lacks is empty: `summary`, completions, evaluations, ...

    Attributes:
        root: the folder.
        config: config.yaml as a plain tree.
        metrics: one row per learner step, by step.
        summary: summary.json; empty until the run has finished.
        facts: run.json.
        evaluations: results of `run_suite` by name, in the order they were made.
        completions: rows of the last `FILES` trajectory files.
        first_rewards: `REWARD_COLUMNS` of the first `FILES` trajectory files, as far as they are not among the last.
        tokenizer: of the policy the run has kept; None before its first checkpoint.
    """

    root: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    completions: list[dict[str, Any]] = field(default_factory=list)
    first_rewards: list[dict[str, Any]] = field(default_factory=list)
    tokenizer: Tokenizer | None = None

    def section(self, name: str) -> dict[str, Any]:
        """A section of the configuration; empty if config.yaml has none of this name."""
        return self.config.get(name) or {}


def read_run(root: Path) -> Run:
    """Read the folder of one run.

    Raises:
        RunFolderError: no run folder, nothing in it yet, or a broken config.yaml or trajectory file.
        UserError: another broken file, or a broken line of metrics.jsonl, by name.
    """
    root = root.resolve()
    if not root.is_dir():
        raise RunFolderError(f"run folder {root} does not exist; name one under runs/, e.g. runs/latest")
    metrics, evaluations = _metrics(root / "metrics.jsonl"), _evaluations(root / "evaluations")
    config = _config(root)
    if not metrics and not evaluations:
        raise RunFolderError(
            f"{root}: metrics.jsonl has no learner step yet, and no evaluation is done; a report needs one of them"
        )
    files = sorted((root / "trajectories").glob("step-*.parquet"))
    recent = files[-FILES:]
    return Run(
        root,
        config,
        metrics,
        _json(root / "summary.json"),
        _json(root / "run.json"),
        evaluations,
        _rows(recent, COLUMNS),
        _rows([path for path in files[:FILES] if path not in recent], REWARD_COLUMNS),
        _tokenizer(root),
    )


def _config(root: Path) -> dict[str, Any]:
    path = root / "config.yaml"
    if not path.is_file():
        raise RunFolderError(f"{root} has no config.yaml: it is not the run folder of `train`")
    return read_recipe(path)


def _metrics(path: Path) -> list[dict[str, Any]]:
    by_step: dict[int, dict[str, Any]] = {}
    for number, row in read_jsonl(path) if path.is_file() else ():
        if not is_learner_step(row):
            continue
        try:
            step = int(row["step"])
        except (KeyError, TypeError, ValueError):
            raise LineError(f"{path}, line {number}: no learner step in it; delete the line") from None
        by_step[step] = row | {"step": step}  # a step that was repeated after a kill counts once
    return [by_step[step] for step in sorted(by_step)]


def _evaluations(folder: Path) -> dict[str, dict[str, Any]]:
    found = {path.stem: _json(path) for path in sorted(folder.glob("*.json"))}
    return dict(sorted(found.items(), key=lambda item: (item[1].get("step", 0), item[0] != "before")))


def _json(path: Path) -> dict[str, Any]:
    return read_object(path, "delete it to report without it", RunFolderError) if path.exists() else {}


def _rows(paths: Sequence[Path], columns: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in paths:
        try:
            rows += pq.read_table(path, columns=list(columns)).select(list(columns)).to_pylist()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise RunFolderError(
                f"{path} is not a readable trajectory file ({error}); delete it to report without it"
            ) from error
    return rows


def _tokenizer(root: Path) -> Tokenizer | None:
    """Of the policy of the finished run, or of the newest checkpoint; None if there is no readable one."""
    checkpoints = sorted(root.glob("checkpoints/step-*/policy"), reverse=True)
    for folder in (root / "policy", *checkpoints):
        try:
            return load_tokenizer(folder)
        except (ValueError, OSError):
            continue
    return None
