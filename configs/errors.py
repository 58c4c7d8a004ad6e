"""What the user must fix, as one class of errors; everything else that is raised is a defect of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user: one line that names the field or file, its value and the remedy. Exit code 2.

    A file with several mistakes has a line for each.

    Every package derives its own from it: `ConfigError`, `SourceError`, `ProblemFileError`, `RowError`,
    `SampleFileError`, `EndpointError`, `CheckpointError`, ...
    """


class ConfigError(UserError):
    """A setting the user must fix. The message has one line per mistake: key, value and what would be accepted."""


def require(condition: bool, where: str, value: object, remedy: str) -> None:
    """Raise `ConfigError` naming field `where`, its `value` and the `remedy` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{where} = {value!r}: {remedy}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name in `known` most like `name`; None if `known` is empty."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)), None)
