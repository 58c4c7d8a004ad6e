"""Runs that do not reach their end leave a checkpoint to continue from, or no folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from couplet.commands import cli
from couplet.learner.checkpoint import latest_checkpoint
from couplet.training.run_folder import RunFolder

RESULTS = ("metrics.jsonl", "evaluations", "stages")  # files of a run folder that is worth keeping


@contextmanager
def leaving_no_empty_folder(folder: RunFolder) -> Iterator[None]:
    """Remove the folder of a run that fails before its first result; let Ctrl-C name the newest checkpoint."""
    try:
        yield
    except BaseException as error:
        found = latest_checkpoint(folder.checkpoints)
        if found is None and not any((folder.root / name).exists() for name in RESULTS):
            folder.discard()
        if isinstance(error, KeyboardInterrupt):
            kept = f"the newest checkpoint is {cli.relative(found[0])}" if found else "there is no checkpoint yet"
            inner = error.args[:1] if found is None else ()  # of an adaptation inside, which resumes by itself
            error.args = (*(inner or (f"interrupted; {kept}",)), found is not None)
        raise
