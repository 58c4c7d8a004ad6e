"""The folder of one run: it contains everything that the run writes, and every file is written atomically."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from couplet.configs.json_file import read_object
from couplet.configs.load import dump, flat, read_recipe, to_dict
from couplet.configs.schema import ConfigError, SamplerConfig
from couplet.data import files
from couplet.data.jsonl import read_jsonl
from couplet.data.metric_table import is_learner_step, tag
from couplet.data.trajectory import ScoredGroup
from couplet.data.trajectory_file import trajectory_table
from couplet.learner.checkpoint import BEST, latest_checkpoint
from couplet.training.folder_lock import FolderLock
from couplet.training.policy_settings import write_decoding
from couplet.training.tensorboard_file import EventFile
from couplet.training.trackers import Tracker

ADVICE = {"remedy": "check the run folder", "again": "resume"}  # if it cannot be written
MINIMUM_FREE_BYTES = 64 * 2**20
# Settings that a resumed run must share: they decide the problem of a group's number, the initial weights, and which
# weights a checkpoint contains and how they are applied.
IDENTITY = (
    "seed", "problems", "model.path", "model.recipe", "model.dtype", "model.end_tokens", "model.mask_token", "start", "shape",
    "tokenizer", "vocabulary_multiple", "learner.adapter.rank", "learner.adapter.alpha", "learner.adapter.targets",
)  # fmt: skip


class RunFolder:
    """Writes config, metrics (JSON lines and TensorBoard), trajectories (Parquet), checkpoints and the summary.

    One process at a time: it holds a lock on the folder until `close`, or until it ends.

    Args:
        root: the run's folder; see `create` and `reopen`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.tracker: Tracker | None = None  # receives the metrics too
        self._tensorboard: EventFile | None = None
        self._lock: FolderLock | None = None

    @classmethod
    def create(cls, config: Any) -> RunFolder:
        """A new folder `runs_dir/name` (`name-2`, ... if taken) with the resolved config."""
        runs = _runs_folder(config.runs_dir)
        number = 1
        while True:
            root = runs / (config.name if number == 1 else f"{config.name}-{number}")
            try:
                root.mkdir(parents=True)
                break
            except FileExistsError:
                number += 1
            except OSError as error:
                raise ConfigError(f"runs_dir = {str(runs)!r}: cannot create {root}: {error.strerror}") from error
        folder = cls._opened(root, config)
        folder.write_json("run.json", {"code": code_version(), "started": time.time(), **folder.read_json("run.json")})
        return folder

    @classmethod
    def reopen(cls, config: Any) -> RunFolder:
        """The newest folder of this name with a checkpoint; its config.yaml becomes that of the resumed run.

        Raises:
            ConfigError: there is none to resume, it is in use, or `config` differs from its own in one of `IDENTITY`.
        """
        runs = _runs_folder(config.runs_dir)
        holding = {}
        for path in runs.glob(f"{config.name}*"):
            number = 1 if path.name == config.name else _suffix(path, config.name)
            if number is not None and any((path / "checkpoints").glob("step-*")):
                stored = read_recipe(path / "config.yaml") if (path / "config.yaml").is_file() else {}
                if stored.get("name") == config.name:
                    holding[number] = path, stored
        if not holding:
            raise ConfigError(
                f"--resume: no checkpoint of a run named {config.name!r} under {runs}; start it without --resume"
            )
        root, stored = holding[max(holding)]
        _require_same_run(root, stored, to_dict(config))
        return cls._opened(root, config)

    @classmethod
    def _opened(cls, root: Path, config: Any) -> RunFolder:
        """Locked for this process alone, with space, and with the resolved config in it."""
        folder = cls(root)
        lock = FolderLock(folder.root)
        lock.acquire()
        folder._lock = lock
        folder._require_space()
        folder.write_text("config.yaml", dump(config))
        folder._begin_process()
        return folder

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.root / "checkpoints"

    def write_text(self, name: str, text: str) -> Path:
        """Write a file atomically."""
        files.write_text(self.root / name, text, **ADVICE)
        return self.root / name

    def write_json(self, name: str, tree: Any) -> Path:
        """Write a JSON document."""
        return self.write_text(name, json.dumps(tree, indent=1) + "\n")

    def read_json(self, name: str) -> Any:
        """Read a JSON document of the run."""
        return read_object(self.root / name, "delete it to have it written again")

    def note_cluster(self, name: str, address: str | None) -> None:
        """Write to run.json where the run is, for `status` and `scale`."""
        known = self.read_json("run.json") if (self.root / "run.json").is_file() else {}
        self.write_json("run.json", {**known, "name": name, "address": address})

    def _begin_process(self) -> None:
        """Add this process to those of the run in run.json."""
        known = self.read_json("run.json") if (self.root / "run.json").is_file() else {}
        own = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time(), "seconds": 0.0, "restarts": {}}
        self.write_json("run.json", {**known, "pid": os.getpid(), "processes": [*known.get("processes", []), own]})

    def note_process(self, restarts: Mapping[str, int]) -> dict[str, Any]:
        """Write to run.json how long this process has run and which workers it has lost.

        Returns:
            `seconds`, `restarts` and the number of `processes` of the run so far.
        """
        known = self.read_json("run.json")
        own = known["processes"][-1]
        own |= {"seconds": time.time() - own["started"], "restarts": dict(restarts)}
        self.write_json("run.json", known)
        lost: Counter[str] = Counter()
        for process in known["processes"]:
            lost.update(process["restarts"])
        seconds = sum(process["seconds"] for process in known["processes"])
        return {"seconds": seconds, "restarts": dict(lost), "processes": len(known["processes"])}

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl, and the same values, by `tag`, to TensorBoard and the tracker.

        A line is of a learner step or of an evaluation (`eval/…`). What is not finite is left out.
        """
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        row = {"step": step, "time": time.time(), **metrics}
        with files.writing(self.root / "metrics.jsonl", **ADVICE), (self.root / "metrics.jsonl").open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        self._to_tensorboard(row)
        if self.tracker is not None:
            self.tracker.log(step, {tag(name): value for name, value in metrics.items()})

    def _to_tensorboard(self, row: Mapping[str, Any]) -> None:
        if self._tensorboard is None:
            self._tensorboard = EventFile(self.root / "tensorboard", ADVICE)
        scalars = {tag(name): value for name, value in row.items() if name not in ("step", "time")}
        self._tensorboard.add(scalars, row["step"], row.get("time", 0.0))

    def log_trajectories(self, step: int, groups: Sequence[ScoredGroup]) -> None:
        """Write the groups of one learner step as trajectories/step-N.parquet."""
        path = self.root / "trajectories" / f"step-{step:06d}.parquet"
        with files.replacing(path, **ADVICE) as temporary:
            pq.write_table(trajectory_table(groups, step), temporary)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl that are of a learner step, without a torn last line."""
        return [row for row in self._rows() if is_learner_step(row)]

    def _rows(self) -> list[dict[str, Any]]:
        path = self.root / "metrics.jsonl"
        return [row for _, row in read_jsonl(path)] if path.exists() else []

    def keep_policy(self, sampler: SamplerConfig) -> None:
        """Copy the policy of the newest checkpoint to `policy/`, where a later checkpoint does not replace it."""
        found = latest_checkpoint(self.checkpoints)
        assert found is not None, "a run ends with a checkpoint"
        keep_policy(found[0] / "policy", self.root / "policy", sampler)

    def rewind(self, step: int) -> None:
        """Remove what was written after learner step `step`, so that a resumed run writes each step once."""
        evaluated = {read_object(path).get("step") for path in (self.root / "evaluations").glob("*.json")}
        rows = [row for row in self._rows() if row["step"] <= step]
        kept = [row for row in rows if is_learner_step(row) or row["step"] in evaluated]
        (self.root / "summary.json").unlink(missing_ok=True)  # it is of a run that ended earlier
        self.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))
        self._close_tensorboard()
        shutil.rmtree(self.root / "tensorboard", ignore_errors=True)  # its files cannot be cut
        for row in kept:
            self._to_tensorboard(row)
        for path in (self.root / "trajectories").glob("step-*.parquet"):
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()
        for path in (self.root / "evaluations").glob("*.json"):
            if read_object(path, "delete it to have it written again").get("step", step + 1) > step:
                path.unlink()

    def close(self) -> None:
        """Flush TensorBoard, end the tracker and release the folder."""
        if self.tracker is not None:
            self.tracker.close()
            self.tracker = None
        self._close_tensorboard()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _close_tensorboard(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None

    def discard(self) -> None:
        """Remove the folder: the run ended before it had anything to keep."""
        self.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def _require_space(self) -> None:
        free = shutil.disk_usage(self.root).free
        if free < MINIMUM_FREE_BYTES:
            raise ConfigError(
                f"run folder {self.root}: {free / 2**20:.0f} MiB free, a run needs at least "
                f"{MINIMUM_FREE_BYTES / 2**20:.0f} MiB; free some or set runs_dir to another disk"
            )

    def point_latest(self) -> None:
        """Let `runs_dir/latest` point here."""
        _link(self.root.parent / "latest", self.root.name)

    def link_best(self, checkpoint: Path) -> None:
        """Let `checkpoints/best` point to a checkpoint, which is then kept."""
        _link(self.checkpoints / BEST, checkpoint.name)


def _link(link: Path, target: str) -> None:
    """Make or replace a symbolic link atomically."""
    temporary = link.with_name(f".{link.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def keep_policy(source: Path, target: Path, sampler: SamplerConfig | None) -> None:
    """Copy the policy folder `source` over `target`, with decoding defaults if `sampler` is given.

    Weights become hard links where the file system has them: nothing writes into a file of weights.
    """
    part = target.with_name(f".{target.name}.part")
    with files.writing(target, **ADVICE):
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part, copy_function=_link_weights)
        if sampler is not None:
            write_decoding(part, sampler)
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)


def _link_weights(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        with contextlib.suppress(OSError):  # another file system, or one without links
            os.link(source, target)
            return
    shutil.copy2(source, target)


def code_version() -> dict[str, str]:
    """The commit of the code, if it is a git checkout, and the versions of the main packages."""
    from importlib.metadata import PackageNotFoundError, version

    here = Path(__file__).parent.parent
    done = subprocess.run(
        ["git", "-C", str(here), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    versions = {"commit": done.stdout.strip() or "unknown"}
    for package in ("torch", "transformers", "ray", "deepspeed"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions


def _runs_folder(setting: str) -> Path:
    """The folder of `runs_dir`; `ConfigError` if it would be deleted with the working directory of a Ray job."""
    folder = Path(setting)
    if "working_dir_files" in folder.absolute().parts:
        raise ConfigError(
            f"runs_dir = {setting!r}: is in the scratch folder of a Ray job ({folder.absolute()}), which is deleted after "
            "it; give an absolute folder, on shared storage if the cluster has several machines"
        )
    return folder


def _require_same_run(root: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """`ConfigError` if a setting of `IDENTITY` differs between the trees; settings that `was` lacks are ignored."""
    old = flat(was)
    for name, value in flat(now).items():
        if old.get(name, value) != value and any(f"{name}.".startswith(f"{one}.") for one in IDENTITY):
            raise ConfigError(
                f"--resume: {name} = {value!r}, but the run in {root} has {old[name]!r}: set it back, or start another run "
                "without --resume"
            )


def _suffix(path: Path, name: str) -> int | None:
    text = path.name.removeprefix(f"{name}-")
    return int(text) if text.isdigit() and text != path.name else None
