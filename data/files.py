"""Files are replaced as a whole or not at all, and a disk that refuses one is a clear error."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from couplet.configs.schema import ConfigError

LEFT_SECONDS = 600.0  # after which a temporary folder of a process that has ended is removed


@contextmanager
def writing(path: Path, remedy: str = "name another --out", again: str = "start again") -> Iterator[None]:
    """Turns an error of writing to `path` in this block into a `ConfigError` that names it; a full disk names no file.

    Args:
        path: file or folder.
        remedy: what to do unless the disk is full.
        again: what to do after that.
    """
    try:
        yield
    except OSError as error:
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else remedy
        raise ConfigError(f"cannot write {path}: {error.strerror or error}; {remedy} and {again}") from error


@contextmanager
def replacing(path: Path, remedy: str = "name another --out", again: str = "start again") -> Iterator[Path]:
    """A temporary path beside `path` to write to; it replaces `path` if the block ends well, and is removed otherwise.

    Missing parent folders are created. Raises as `writing`.
    """
    temporary = path.with_name(f".{path.name}.part")
    with writing(path, remedy, again):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """A temporary folder `couplet-PURPOSE-PID-…` for this block; those that killed processes have left are removed."""
    root = Path(tempfile.gettempdir())
    for left in root.glob(f"couplet-{purpose}-*"):
        pid = left.name.split("-")[-2]
        with suppress(OSError):  # of another user, or already gone
            recent = time.time() - left.stat().st_mtime < LEFT_SECONDS  # perhaps of another container
            if pid.isdigit() and not recent and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=f"couplet-{purpose}-{os.getpid()}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def write_text(path: Path, text: str, remedy: str = "name another --out", again: str = "start again") -> None:
    """Write a text file, whole or not at all. Raises as `writing`."""
    with replacing(path, remedy, again) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, tree: Any, remedy: str = "name another --out", again: str = "start again") -> None:
    """Write a JSON document, whole or not at all. Raises as `writing`."""
    write_text(path, json.dumps(tree, indent=1, ensure_ascii=False) + "\n", remedy, again)


def require_other(out: Path, *inputs: str | Path) -> None:
    """`ConfigError` if writing `out` would replace one of the files that are read."""
    for path in map(Path, inputs):
        if path.exists() and out.exists() and out.samefile(path):
            raise ConfigError(f"--out {out}: is the file that is read ({path}); name another")
