"""Files appear whole or not at all, and a disk that refuses one is a clear error."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from couplet.configs.schema import ConfigError


@contextmanager
def writing(path: Path, mend: str = "name another --out", again: str = "start again") -> Iterator[None]:
    """What is written to `path` in this block fails as a `ConfigError` that names it: a full disk names no file itself.

    Args:
        path: file or folder.
        mend: advice where it is not the disk that is full.
        again: what to do after that.
    """
    try:
        yield
    except OSError as error:
        mend = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else mend
        raise ConfigError(f"cannot write {path}: {error.strerror or error}; {mend} and {again}") from error


@contextmanager
def replacing(path: Path, mend: str = "name another --out", again: str = "start again") -> Iterator[Path]:
    """A path beside `path` to write to; it takes its place when the block ends well, and is removed when not.

    Folders on the way to `path` are made. Raises as `writing`.
    """
    aside = path.with_name(f".{path.name}.part")
    with writing(path, mend, again):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str, mend: str = "name another --out", again: str = "start again") -> None:
    """Write a text file, whole or not at all. Raises as `writing`."""
    with replacing(path, mend, again) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, tree: Any, mend: str = "name another --out", again: str = "start again") -> None:
    """Write a JSON document, whole or not at all. Raises as `writing`."""
    write_text(path, json.dumps(tree, indent=1, ensure_ascii=False) + "\n", mend, again)


def require_other(out: Path, *inputs: str | Path) -> None:
    """`ConfigError` where writing `out` would replace one of the files that are read."""
    for path in map(Path, inputs):
        if path.exists() and out.exists() and out.samefile(path):
            raise ConfigError(f"--out {out}: is the file that is read ({path}); name another")
