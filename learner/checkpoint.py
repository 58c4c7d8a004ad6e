"""Checkpoints that are complete or do not exist.

A checkpoint is written to a temporary path, flushed to the disk, renamed, and only then marked complete. The mark
lists every file with its size, so a torn or truncated checkpoint is recognised and skipped with a message.

    ROOT/step-00000012/...      what the learner wrote, and state.json of the driver
    ROOT/step-00000012/COMPLETE the mark
    ROOT/best                   link to the best one by `checkpoint.best_metric`, which is not removed
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from couplet.configs.errors import UserError

MARK = "COMPLETE"
BEST = "best"  # link to a checkpoint that is kept
STATE = "state.json"
LITTLE_SPACE = 16 * 2**20  # bytes; a write that fails with less than this left counts as a full disk

log = logging.getLogger(__name__)


class CheckpointError(UserError):
    """A checkpoint that could not be written (older ones are untouched), or cannot be read by this run."""


def save_checkpoint(root: Path, step: int, write: Callable[[Path], None], state: dict[str, Any], keep: int = 2) -> Path:
    """Write the checkpoint of `step` and remove all but the newest `keep`.

    Args:
        root: folder of the run's checkpoints; created if missing.
        write: writes the learner's part into a folder.
        state: the driver's part, as JSON.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: the disk is full; older checkpoints stay.
    """
    final = root / f"step-{step:08d}"
    temporary = root / f".writing-{final.name}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove(root.glob(".writing-*"))  # of a run that was killed
        _check_space(root)
        temporary.mkdir()
        write(temporary)
        (temporary / STATE).write_text(json.dumps(state))
        sizes = _flush(temporary)
        _rename(temporary, final)
        _write_mark(final, sizes)
    except Exception as error:
        full = _disk_is_full(error, root)
        shutil.rmtree(temporary, ignore_errors=True)
        if full:
            raise CheckpointError(
                f"no space left in {root}: the checkpoint of step {step} was not written, older ones are intact. "
                "Free some space, or lower checkpoint.keep"
            ) from error
        raise
    _remove(root.glob(".replaced-*"))
    _forget_old(root, keep)
    return final


def latest_checkpoint(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """Folder and driver state of the newest complete checkpoint, or None; torn ones are named in the log."""
    for folder in reversed(_folders(root)):
        fault = _fault(folder)
        if fault is None:
            return folder, json.loads((folder / STATE).read_text())
        log.warning("checkpoint %s is skipped: %s", folder, fault)
    return None


def _fault(folder: Path) -> str | None:
    """Why a checkpoint cannot be used; None if it is complete."""
    mark = folder / MARK
    if not mark.is_file():
        return "it was not marked complete"
    try:
        sizes = json.loads(mark.read_text())
    except ValueError:
        return "its mark is damaged"
    if not isinstance(sizes, dict):
        return "its mark is damaged"
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return None


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("step-*") if path.is_dir())


def _flush(folder: Path) -> dict[str, int]:
    """Flush every file to the disk; returns their sizes by name."""
    sizes: dict[str, int] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
        _sync(path)
    _sync(folder)
    return sizes


def _rename(temporary: Path, final: Path) -> None:
    """Move into place; an older checkpoint of the same step is moved to a temporary path."""
    if final.exists():
        replaced = final.with_name(f".replaced-{final.name}")
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    temporary.rename(final)
    _sync(final.parent)


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _write_mark(folder: Path, sizes: dict[str, int]) -> None:
    part = folder / f"{MARK}.part"
    part.write_text(json.dumps(sizes))
    _sync(part)
    part.rename(folder / MARK)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget_old(root: Path, keep: int) -> None:
    """Remove complete checkpoints beyond the newest `keep` and the best, and torn ones older than the newest one."""
    whole = [folder for folder in _folders(root) if _fault(folder) is None]
    kept = whole[-keep:]
    best = (root / BEST).resolve().name
    for folder in _folders(root):
        if folder not in kept and folder < kept[-1] and folder.name != best:
            shutil.rmtree(folder)


def _check_space(root: Path) -> None:
    """A checkpoint is as large as the last one: check first, so that no rank waits for one that could not write."""
    for folder in reversed(_folders(root)):
        if _fault(folder) is None:
            needed = sum(json.loads((folder / MARK).read_text()).values())
            if shutil.disk_usage(root).free < needed:
                raise OSError(errno.ENOSPC, f"{needed} bytes are needed", str(root))
            return


def _disk_is_full(error: BaseException, root: Path) -> bool:
    """Libraries hide ENOSPC behind their own errors, so the remaining space is checked too."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        seen = seen.__cause__ or seen.__context__
    return root.exists() and shutil.disk_usage(root).free < LITTLE_SPACE
