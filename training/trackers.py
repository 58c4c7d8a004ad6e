"""Where a run's metrics go besides its folder: nowhere, Weights & Biases, or MLflow (the `trackers` extra)."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from couplet.configs.schema import ConfigError

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}


class Tracker(Protocol):
    """Receives the metrics of every learner step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class _Wandb:
    def __init__(self, module: Any, folder: Path, settings: dict[str, Any]) -> None:
        self.run = module.init(project="couplet", name=folder.name, dir=str(folder), config=settings)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(_finite(metrics), step=step)

    def close(self) -> None:
        self.run.finish()


class _Mlflow:
    def __init__(self, module: Any, folder: Path, settings: dict[str, Any]) -> None:
        self.module = module
        module.set_experiment("couplet")
        module.start_run(run_name=folder.name)
        module.log_dict(settings, "config.json")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.module.log_metrics(_finite(metrics), step=step)

    def close(self) -> None:
        self.module.end_run()


TRACKERS: dict[str, Any] = {"wandb": _Wandb, "mlflow": _Mlflow}


def open_tracker(name: str, folder: Path, settings: dict[str, Any]) -> Tracker | None:
    """The tracker `name` for the run in `folder`, None for "none"; its own environment variables apply.

    Raises:
        ConfigError: the package is not installed.
    """
    if name == "none":
        return None
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"tracker = {name!r}: needs the package {PACKAGES[name]}; pip install -c constraints.txt -e '.[trackers]'"
        ) from error
    tracker: Tracker = TRACKERS[name](module, folder, settings)
    return tracker


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
