"""Experiment trackers, in addition to the run folder: none, Weights & Biases, or MLflow (the `trackers` extra).

The environment variables of each apply (WANDB_PROJECT, WANDB_MODE, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ...).
The tracker's id of a run is stored in the run folder, so that a resumed run continues it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from couplet.configs.json_file import read_object
from couplet.configs.schema import ConfigError
from couplet.data.files import write_json

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}
LOGINS = {
    "wandb": "run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline",
    "mlflow": "check MLFLOW_TRACKING_URI and its credentials",
}
PROJECT = "couplet"  # unless the environment names another
ID_FILE = "tracker.json"


class Tracker(Protocol):
    """Receives the metrics of every learner step and evaluation, all of them finite."""

    id: str | None  # with which a later process continues the tracked run

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class _Wandb:
    def __init__(self, module: Any, folder: Path, settings: dict[str, Any], known: str | None) -> None:
        resume = {} if known is None else {"id": known, "resume": "allow"}
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self.run = module.init(project=project, name=folder.name, dir=str(folder), config=settings, **resume)
        self.id = getattr(self.run, "id", None)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(metrics, step=step)

    def close(self) -> None:
        self.run.finish()


class _Mlflow:
    def __init__(self, module: Any, folder: Path, settings: dict[str, Any], known: str | None) -> None:
        self.module = module
        if "MLFLOW_EXPERIMENT_NAME" not in os.environ and "MLFLOW_EXPERIMENT_ID" not in os.environ:
            module.set_experiment(PROJECT)
        run = module.start_run(run_name=folder.name) if known is None else module.start_run(run_id=known)
        self.id = getattr(getattr(run, "info", None), "run_id", None)
        module.log_dict(settings, "config.json")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.module.log_metrics(metrics, step=step)

    def close(self) -> None:
        self.module.end_run()


TRACKERS: dict[str, Any] = {"wandb": _Wandb, "mlflow": _Mlflow}


def open_tracker(name: str, folder: Path, settings: dict[str, Any]) -> Tracker | None:
    """The tracker `name` for the run in `folder`, None for "none"; a run that was tracked before is continued.

    Raises:
        ConfigError: the package is not installed, or refuses to start a run (no login, no server).
    """
    if name == "none":
        return None
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"tracker = {name!r}: needs the package {PACKAGES[name]}; pip install -c constraints.txt -e '.[trackers]'"
        ) from error
    stored = read_object(folder / ID_FILE) if (folder / ID_FILE).exists() else {}
    try:
        tracker: Tracker = TRACKERS[name](module, folder, settings, stored.get(name))
    except Exception as error:
        if type(error).__module__.partition(".")[0] != name:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"tracker = {name!r}: {reason}; {LOGINS[name]}") from error
    if tracker.id is not None:
        write_json(folder / ID_FILE, {**stored, name: tracker.id})
    return tracker
