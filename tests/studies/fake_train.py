"""A training run of a study that only pretends."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from couplet.configs.load import dump
from couplet.studies.ablations import Job


class FakeTrain:
    """Writes what a run leaves behind: `left` gives its metrics and its summary."""

    def __init__(self, breaks_at: str | None = None) -> None:
        self.done: list[str] = []
        self.breaks_at = breaks_at

    def __call__(self, job: Job) -> None:
        if job.name == self.breaks_at:
            job.folder.mkdir()
            (job.folder / "config.yaml").write_text("torn")
            raise RuntimeError("killed")
        self.done.append(job.name)
        job.folder.mkdir()
        (job.folder / "config.yaml").write_text(dump(job.config))
        rows, summary = self.left(job)
        (job.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (job.folder / "summary.json").write_text(json.dumps(summary))

    def left(self, job: Job) -> tuple[Iterable[Mapping[str, Any]], Mapping[str, Any]]:
        """Rows of `metrics.jsonl`, and `summary.json`."""
        raise NotImplementedError
