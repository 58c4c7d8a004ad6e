"""What the command lines of the studies share: options, errors, and child processes of `couplet` itself."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from couplet.configs.errors import UserError

OUT = Path("runs") / "studies"
COUPLET = (sys.executable, "-c", "import sys; from couplet.commands import main; sys.exit(main())")
LAST_LINES = 15


class RunFailed(RuntimeError):
    """A run of a study ended with an error, or without its result; the message ends with its last lines."""


def options(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser of `python -m couplet.studies.NAME` with `--seeds` and `--out`."""
    parser = argparse.ArgumentParser(prog=f"python -m couplet.studies.{name}", description=description)
    parser.add_argument("--seeds", type=numbers, default=(0, 1, 2), metavar="N,N,…", help="default: 0,1,2")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the page, figure and data (default: {OUT})")
    return parser


def numbers(text: str) -> tuple[int, ...]:
    """Parse `0,1,2`."""
    return tuple(int(part) for part in text.split(","))


def words(text: str) -> tuple[str, ...]:
    """Parse `a,b`."""
    return tuple(part.strip() for part in text.split(","))


def policy_folder(path: str, option: str) -> Path:
    """The absolute path of a policy folder. `UserError` names the option if it is not one."""
    if not (Path(path) / "config.json").is_file():
        raise UserError(f"{option} {path}: not a policy folder (it has no config.json)")
    return Path(path).absolute()


def exit_code(study: Callable[[], object]) -> int:
    """Run a study: 0, 2 for a mistake in the input, 1 for a failed run; the error is printed in one line."""
    try:
        study()
    except (UserError, RunFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


def run_couplet(arguments: Sequence[str], log: Path) -> None:
    """`couplet ARGUMENTS` in its own process, with one thread per worker; its output is appended to `log`.

    Raises:
        RunFailed: it ended with another code than 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        done = subprocess.run(
            [*COUPLET, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": "1", **os.environ},
            check=False,
        )
    if done.returncode != 0:
        raise RunFailed(
            f"{arguments[0]} ended with code {done.returncode}; the last lines of {log}:\n{last_lines(log)}"
        )


def last_lines(log: Path) -> str:
    """The end of a log, for an error."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
