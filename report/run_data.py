"""What the report reads of a run folder, each file checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from couplet.configs.errors import UserError
from couplet.configs.json_file import read_object
from couplet.configs.schema import ConfigError
from couplet.data.jsonl import LineError, read_jsonl
from couplet.data.tokenizer import Tokenizer, load_tokenizer

COLUMNS = (
    "step", "problem_id", "completion", "version", "prompt_tokens", "tokens", "reveal_step", "text", "outcome",
    "reason", "reward", "pass_rate", "tests_passed",
)  # fmt: skip
RECENT_FILES = 8  # trajectory files from which completions are shown


@dataclass(frozen=True)
class Run:
    """A run folder in memory. What may be missing is empty: `summary` of a run that goes on, its completions, ..."""

    root: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    completions: list[dict[str, Any]] = field(default_factory=list)
    tokenizer: Tokenizer | None = None


def read_run(root: Path) -> Run:
    """Read the folder of one run.

    Raises:
        ConfigError: no such folder, no config.yaml, or no learner step yet.
        ValueError: a broken file, by name (and line).
    """
    root = root.resolve()
    if not root.is_dir():
        raise ConfigError(f"run folder {root} does not exist; name one under runs/, e.g. runs/latest")
    path = root / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{root} has no config.yaml: it is no run folder of `train`")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: broken YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected sections of `key: value`, found {type(config).__name__}")
    evaluations = {file.stem: _json(file) for file in sorted((root / "evaluations").glob("*.json"))}
    return Run(
        root,
        config,
        _metrics(root / "metrics.jsonl"),
        _json(root / "summary.json"),
        _json(root / "run.json"),
        evaluations,
        _completions(root / "trajectories"),
        _tokenizer(root / "policy"),
    )


def _metrics(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, row in read_jsonl(path) if path.is_file() else ():
        try:
            rows.append(row | {"step": int(row["step"])})
        except (KeyError, TypeError, ValueError):
            raise LineError(f"{path}, line {number}: no learner step in it; delete the line") from None
    if not rows:
        raise ConfigError(f"{path.parent}: metrics.jsonl has no learner step yet; a report needs at least one")
    return rows


def _json(path: Path) -> dict[str, Any]:
    return read_object(path, "delete it to report without it") if path.exists() else {}


def _completions(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("step-*.parquet"))[-RECENT_FILES:]:
        try:
            rows += pq.read_table(path, columns=list(COLUMNS)).to_pylist()
        except (pa.ArrowInvalid, OSError, KeyError) as error:
            raise UserError(
                f"{path} is no readable trajectory file ({error}); delete it to report without it"
            ) from error
    return rows


def _tokenizer(folder: Path) -> Tokenizer | None:
    try:
        return load_tokenizer(folder)
    except ValueError:
        return None  # no policy kept yet: questions and reveal orders are left out
