"""The table of sub-commands, the options that several of them share, and the exit codes.

A sub-command is the module of its name in this package: `options(parser)` adds its options, `run(args)` runs it.
Only the module of the chosen sub-command is imported, and no module imports torch or ray before `run`.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import select
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from couplet import IS_CHECKOUT, ROOT
from couplet.configs.errors import UserError

DESCRIPTION = "Couplet: reinforcement learning of masked-diffusion language models that write code, on Ray."
COMMANDS = {
    "train": "coupled-GRPO on a problem set",
    "adapt": "the supervised stages before reinforcement learning",
    "prepare": "problem sets as checked Parquet files, and their difficulty from a model's pass rates",
    "score": "judge a file of samples: one verdict per sample, pass@k",
    "evaluate": "sample and judge: pass@k of a policy over temperatures and steps; resumable",
    "analyze": "how a policy decodes: AR-ness, entropy sink, temperature and step sweeps; two policies side by side",
    "sample": "type a prompt and watch it being denoised",
    "report": "one HTML page of a run: curves, staleness, idle shares, completions",
    "export": "a run's policy as a Hugging Face folder with decoding defaults and a model card",
    "dashboard": "files for Prometheus and Grafana: every metric of running jobs as a chart",
    "status": "workers, groups and rates of a running job",
    "scale": "change the number of workers of a running job",
}
USER_ERROR = 2
RAY_ENDED = 75  # EX_TEMPFAIL of sysexits.h
BROKEN_PIPE = 128 + 13  # likewise SIGPIPE

PROBLEMS = "problem file (HumanEval, MBPP, EvalPlus, AceCode, own Parquet; FILE@SPLIT for MBPP), or katas:SPLIT"
POLICY = "policy folder, run folder, or hub name"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit code.

    0 is success; 2 an error that the user must fix, described in one line; 75 a process of Ray's own ended; 130 Ctrl-C,
    143 SIGTERM, 129 SIGHUP; 141 a closed output. Any other error is a defect: it is raised with its traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv) or ["train"]
    try:
        args = parse(arguments)
        args.driver(args)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        message, resumable = interrupt.args or ("interrupted", True)
        print(f"{message}; {continuation(resumable, arguments)}", file=sys.stderr)
        return 128 + int(getattr(interrupt, "signal", signal.SIGINT))
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more is written at exit
        return BROKEN_PIPE
    except (UserError, OSError, ModuleNotFoundError) as error:
        message = user_message(error)
        if message is None:
            raise
        print("\n".join(f"error: {line}" for line in message.splitlines()), file=sys.stderr)
        return USER_ERROR
    return 0


def continuation(resumable: bool, arguments: Sequence[str] | None = None) -> str:
    """How to continue an interrupted command (this process's own); only `train` and `adapt` need an option for it."""
    words = list(arguments or sys.argv[1:] or ["train"])
    needed = resumable and words[0] in ("train", "adapt") and "--resume" not in words
    verb = "continue" if resumable else "start again"
    return f"{verb} with: {launcher()} {shlex.join([*words, *(['--resume'] if needed else [])])}"


def leave(message: str, code: int) -> NoReturn:
    """Print a line and end this process at once, from any thread."""
    print(message, file=sys.stderr, flush=True)
    os._exit(code)


def user_message(error: Exception) -> str | None:
    """The error message for a mistake of the user, one line each; None for a defect.

    Besides `UserError`: an `OSError` that names a file or reports a full disk, and a package that is not installed.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return str(error)
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package in ("", "couplet"):
        return None
    remedy = "run `make setup` once, then start `.venv/bin/python launch.py`"
    return f"{sys.executable} has no package {package!r}: {remedy if IS_CHECKOUT else f'pip install {package}'}"


def _reader_is_gone() -> bool:
    """Whether the reader of standard output is gone."""
    try:
        output = sys.stdout.fileno()
    except OSError:  # not a file
        return False
    watch = select.poll()
    watch.register(output, 0)  # errors and a closed pipe are always reported
    return bool(watch.poll(0))


class _Aligned(argparse.HelpFormatter):
    """Help in one column: argparse measures the names of commands without their own indentation."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        self._action_max_length += self._indent_increment * isinstance(action, argparse._SubParsersAction)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parsed arguments, with the sub-command's `run` as `driver`; `key=value` overrides may come anywhere after its name."""
    root = argparse.ArgumentParser(
        prog="couplet" if Path(sys.argv[0]).name == "couplet" else "launch.py",
        description=DESCRIPTION,
        epilog="`COMMAND --help` shows its options. Without a command: train configs/tiny.yaml.",
        formatter_class=_Aligned,
    )
    parsers = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        parser = parsers.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if [name] == list(arguments[:1]):
            module = importlib.import_module(f"couplet.commands.{name}")
            parser.set_defaults(driver=module.run, parser=parser)
            module.options(parser)
    args, rest = root.parse_known_args(arguments)
    if rest and (not hasattr(args, "overrides") or any(word.startswith("-") or "=" not in word for word in rest)):
        args.parser.error(f"unrecognised arguments: {' '.join(rest)}")
    if hasattr(args, "overrides"):
        args.overrides = [*args.overrides, *rest]
        for word in args.overrides:
            if "=" not in word:
                args.parser.error(f"unrecognised argument: {word} (settings are written key=value)")
    return args


def add_policy_and_problems(parser: argparse.ArgumentParser) -> None:
    """POLICY PROBLEMS key=value …"""
    parser.add_argument("policy", help=POLICY)
    parser.add_argument("problems", help=PROBLEMS)
    add_overrides(parser, "e.g. sampler.steps=128 rollout.actors=4")


def add_overrides(parser: argparse.ArgumentParser, text: str = "settings") -> None:
    """key=value …"""
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=text)


def add_subset(parser: argparse.ArgumentParser) -> None:
    """--limit and --config: which part of the problems, and the settings they are sampled and judged by."""
    parser.add_argument("--limit", type=positive, metavar="N", help="first N problems only")
    parser.add_argument("--config", metavar="RECIPE", help="settings (default: those of the run the policy belongs to)")


def add_samples(parser: argparse.ArgumentParser) -> None:
    """--samples and --seed."""
    text = "completions per problem (default: 8)"
    parser.add_argument("--samples", type=positive, default=8, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (default: 0)")


def add_local(parser: argparse.ArgumentParser) -> None:
    """--local"""
    parser.add_argument("--local", action="store_true", help="one process, without Ray")


def add_tflops(parser: argparse.ArgumentParser) -> None:
    """--tflops"""
    text = "for --dry-run: TFLOP/s that a device sustains (default: 400 per GPU, 0.05 per core)"
    parser.add_argument("--tflops", type=float, metavar="T", help=text)


def add_job(parser: argparse.ArgumentParser) -> None:
    """--run and --address: which running job."""
    parser.add_argument(
        "--run", metavar="FOLDER|NAME", help="folder of the run, which names its cluster; or its name on the cluster"
    )
    parser.add_argument(
        "--address", help="Ray cluster (default: that of the folder, RAY_ADDRESS, or the one on this machine)"
    )


def numbers(text: str) -> tuple[float, ...]:
    """`0.2,1` as numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write numbers with commas, e.g. 0.2,0.4") from None


def counts(text: str) -> tuple[int, ...]:
    """`1,8` as whole numbers of at least 1."""
    return tuple(positive(part) for part in text.split(","))


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.strip().isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number of at least 1")
    return int(text)


def launcher() -> str:
    """How this program was started, as it works from the current folder: with this interpreter, or as `couplet`."""
    if Path(sys.argv[0]).name == "couplet":
        return str(relative(Path(sys.argv[0]).absolute()))
    return f"{relative(Path(sys.executable))} {relative(Path(ROOT) / 'launch.py')}"


def relative(path: Path) -> Path:
    """The path as it works from the current folder, in its shortest form."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
