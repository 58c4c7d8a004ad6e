"""Results of the evaluation suite in a run folder: one file each, and metrics of their learner step."""

from __future__ import annotations

from typing import Any

from couplet.configs.json_file import read_object
from couplet.evaluation.suite import suite_metrics
from couplet.training.run_folder import RunFolder


class EvaluationLog:
    """`evaluations/NAME.json` of a run, and which of them is the best.

    Args:
        folder: of the run.
        best_metric: the metric of `evaluation.suite.suite_metrics`, with or without `eval/`, whose largest value marks
            the best checkpoint; None: no checkpoint is marked.
    """

    def __init__(self, folder: RunFolder, best_metric: str | None = None) -> None:
        self.folder = folder
        self.best_metric = None if best_metric is None else f"eval/{best_metric.removeprefix('eval/')}"

    def find(self, name: str, step: int) -> dict[str, Any] | None:
        """The result `name` if it exists for learner step `step`: an interrupted run may have written it."""
        path = self.folder.root / "evaluations" / f"{name}.json"
        found = dict(read_object(path)) if path.exists() else None
        return found if found is not None and found["step"] == step else None

    def add(self, name: str, step: int, result: dict[str, Any]) -> None:
        """Store a result, and log its metrics at its step."""
        self.folder.log_metrics(step, suite_metrics(result))  # first, because a resumed run drops rows without a file
        self.folder.write_json(f"evaluations/{name}.json", {"step": step, **result})

    def is_best(self, step: int) -> bool:
        """True if the result of `step` is better than those of all earlier steps but the start."""
        if self.best_metric is None or step == 0:
            return False
        values: dict[int, float] = {}
        for path in (self.folder.root / "evaluations").glob("*.json"):
            result = read_object(path)
            value = suite_metrics(result).get(self.best_metric)
            if value is not None and 0 < result["step"] <= step:
                values[result["step"]] = value
        own = values.pop(step, None)
        return own is not None and all(own > value for value in values.values())
