"""TensorBoard event files, written in this thread, so that a disk that refuses them is an error where it happens."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from couplet.data import files


class EventFile:
    """Appends scalars to a new event file in `folder`, which is created.

    Args:
        folder: what `tensorboard --logdir` reads.
        advice: the arguments of `data.files.writing` for its errors.
    """

    def __init__(self, folder: Path, advice: Mapping[str, str]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{id(self)}"
        self.path, self.advice = folder / name, dict(advice)
        with files.writing(self.path, **self.advice):
            folder.mkdir(parents=True, exist_ok=True)
            self._file: Any = self.path.open("wb", buffering=0)
            self._records = RecordWriter(self._file)
            self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, row: Mapping[str, float], step: int, when: float) -> None:
        """The scalars of one step. ConfigError: the disk refuses them."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items()]
        with files.writing(self.path, **self.advice):
            self._write(Event(wall_time=when, step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Nothing more is written."""
        self._file.close()

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
