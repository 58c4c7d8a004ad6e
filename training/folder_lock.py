"""A lock, so that only one process at a time writes to a run folder."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from couplet.configs.schema import ConfigError


class FolderLock:
    """A lock on a folder, held until `release`, or until the process ends, however it ends.

    Storage without locks is used as it is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._holder = folder / ".holder"  # names the process that holds the lock
        self._lock = FileLock(folder / ".lock", timeout=0, is_singleton=True, thread_local=False)

    def acquire(self) -> None:
        """Lock the folder for this process. `ConfigError`: another process holds it."""
        try:
            self._lock.acquire()
        except Timeout as error:
            holder = self._holder.read_text(encoding="utf-8") if self._holder.exists() else "another process"
            raise ConfigError(
                f"run folder {self._folder}: {holder} is writing to it; wait until it ends, stop it, or use another name"
            ) from error
        except (NotImplementedError, OSError):
            pass
        with contextlib.suppress(OSError):  # for the message above only
            self._holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")

    def release(self) -> None:
        """Release the folder."""
        self._lock.release()
