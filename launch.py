"""Couplet: reinforcement learning of masked-diffusion language models that write code, on Ray."""

from __future__ import annotations

import argparse
import errno
import os
import select
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

NEEDED = (
    "deepspeed", "matplotlib", "numpy", "pyarrow", "ray", "rich", "safetensors", "tensorboard", "tokenizers", "torch",
    "transformers", "yaml",
)  # fmt: skip


def absent_package(error: ModuleNotFoundError) -> str | None:
    """What to say of a package of `NEEDED` that this interpreter lacks; None for any other module."""
    name = (error.name or "").partition(".")[0]
    if name not in NEEDED:
        return None
    return (
        f"error: {sys.executable} has no package {name!r}: run `make setup` once, then start "
        "`.venv/bin/python launch.py`"
    )


try:
    from couplet import PACKAGES
    from couplet.commands.cli import DEFAULT_RECIPE, Call, column_mapping, parse
    from couplet.configs.load import load, resolve
    from couplet.configs.schema import AdaptConfig, ConfigError, RunConfig
    from couplet.data.formats.acecode import NothingRated
    from couplet.data.formats.parquet import ProblemFileError
    from couplet.data.formats.published import RowError
    from couplet.data.sources import SourceError
    from couplet.learner.checkpoint import CheckpointError
    from couplet.serving.completions import EndpointError, Sampling
except ModuleNotFoundError as missing:
    if __name__ != "__main__" or not (said := absent_package(missing)):
        raise
    print(said, file=sys.stderr)
    sys.exit(2)

if TYPE_CHECKING:
    from rich.console import Console

PROJECT = Path(__file__).parent
MISTAKES = (
    ConfigError, SourceError, ProblemFileError, RowError, NothingRated, EndpointError, CheckpointError,
)  # fmt: skip
BROKEN_PIPE = 128 + 13  # as a shell reports a command that SIGPIPE ended


def train(args: argparse.Namespace) -> None:
    """Coupled-GRPO on a problem set."""
    if "=" in args.config:  # an override stands where the recipe may be left out
        args.config, args.overrides = DEFAULT_RECIPE, [args.config, *args.overrides]
    config = load(RunConfig, args.config, args.overrides)
    if args.dry_run:
        from couplet.commands.dry_run import describe

        return print(describe(config))
    from couplet.commands.train import run_training

    run_training(config, resume=args.resume, local=args.local)


def adapt(args: argparse.Namespace) -> None:
    """The supervised stages before reinforcement learning."""
    from couplet.commands.adapt import run_adaptation
    from couplet.commands.display import Display

    display = Display()
    policy = run_adaptation(load(AdaptConfig, args.config, args.overrides), display, resume=args.resume)
    display.say(f"policy in {policy}")


def prepare(args: argparse.Namespace) -> None:
    """Problem sets: published or own files as checked Parquet, and difficulty from a model's pass rates."""
    if args.set == "rate":
        return rate(args)
    from couplet.data.prepare import prepare as prepare_set

    summary = prepare_set(
        args.set, args.source, args.out, level=args.level, double=not args.no_double, split=args.split, seed=args.seed,
        limit=args.limit, columns=column_mapping(args.columns), benchmarks=args.benchmarks, ngram=args.ngram,
        drop_overlaps=args.drop,
    )  # fmt: skip
    print(summary.text())


def rate(args: argparse.Namespace) -> None:
    """Pass rates of a model on a problem set."""
    from couplet.commands.rate import Served, run_rating

    served = None
    if args.policy is None:
        served = Served(
            args.endpoint, args.vllm, args.vllm_python, args.vllm_gpus, tuple(shlex.split(args.vllm_options)),
            args.vllm_timeout, args.model, args.base,
        )  # fmt: skip
    run_rating(
        args.problems, args.out, policy=args.policy, served=served, level=args.level, recipe=args.config,
        sampling=Sampling(args.samples, args.max_tokens, args.temperature, args.top_p, seed=args.seed),
        overrides=args.overrides, limit=args.limit, local=args.local, console=_console(),
    )  # fmt: skip


def score(args: argparse.Namespace) -> None:
    """Judge a file of samples: one verdict per sample, pass@k."""
    from couplet.commands.score import run_score
    from couplet.configs.load import to_dict
    from couplet.evaluation.score_file import SCORING

    config = resolve(RunConfig, {"sandbox": to_dict(SCORING)}, args.overrides)
    run_score(args.problems, args.samples, args.out, args.workers, config.reward, config.sandbox, _console())


def evaluate(args: argparse.Namespace) -> None:
    """Sample and judge: pass@k of a policy, over temperatures and steps; resumable."""
    from couplet.commands.evaluate import run_canonical_check, run_evaluation
    from couplet.evaluation.benchmark import Plan

    common = {"recipe": args.config, "overrides": args.overrides, "limit": args.limit, "local": args.local}
    if args.canonical:
        run_canonical_check(args.policy, args.problems, out=args.out, console=_console(), **common)
        return
    ks = args.k or tuple(sorted({1, args.samples}))
    plan = Plan(args.temperatures, args.steps, args.samples, ks, args.seed)
    run_evaluation(args.policy, args.problems, plan=plan, out=args.out, console=_console(), **common)


def analyze(args: argparse.Namespace) -> None:
    """How a policy decodes: AR-ness, entropy sink, temperature and step sweeps, figures; two side by side."""
    from couplet.commands.analyze import run_policy_analysis

    run_policy_analysis(
        args.policy, args.problems, samples=args.samples, seed=args.seed, temperatures=args.temperatures,
        steps=args.steps, before=args.before, words=None if args.words == "none" else args.words, recipe=args.config,
        overrides=args.overrides, limit=args.limit, out=args.out, local=args.local, console=_console(),
    )  # fmt: skip


def sample(args: argparse.Namespace) -> None:
    """Type a prompt and watch it being denoised."""
    from couplet.commands.evaluate import open_policy
    from couplet.commands.sample import run_sample

    changes = {name: getattr(args, name) for name in ("order", "steps", "temperature", "top_p", "top_k")}
    changes["completion_length"] = args.length
    folder, _ = open_policy(args.policy, None, ())
    run_sample(folder, changes, once=args.once, seed=args.seed, gif=args.gif, svg=args.svg, device=args.device)


def report(args: argparse.Namespace) -> None:
    """One HTML page of a run: curves, staleness, idle shares, completions."""
    from couplet.report.page import write_report

    print(write_report(args.run, args.out))


def export(args: argparse.Namespace) -> None:
    """A run's policy as a Hugging Face folder with decoding defaults and a model card."""
    from couplet.commands.export import export_policy

    out = export_policy(args.run, args.out, dtype=args.dtype, max_shard_gb=args.shard_gb, auto_map=args.auto_map)
    print(f"{out}: written and read back without a difference")


def status(args: argparse.Namespace) -> None:
    """Workers, ledger and rates of a running job."""
    from couplet.commands.status import show_status

    show_status(args.run, args.address, as_json=args.json)


def scale(args: argparse.Namespace) -> None:
    """Change the number of workers of a running job."""
    from couplet.commands.status import scale_workers

    scale_workers(args.targets, args.run, args.address)


CALLS: tuple[Call, ...] = (
    train, adapt, prepare, score, evaluate, analyze, sample, report, export, status, scale,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command.

    Returns 2 for a mistake of the user (or a package that is not installed), told in one line; 130 for Ctrl-C; 141 where
    the output's reader has gone. A defect is raised, with its traceback (see `_is_mistake`).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parse(arguments or ["train"], {call.__name__: call for call in CALLS}, __doc__ or "")
    try:
        args.call(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted; `train` and `adapt` go on with --resume, the others by themselves", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more is written at exit
            return BROKEN_PIPE
        if isinstance(error, ModuleNotFoundError) and (said := absent_package(error)):
            print(said, file=sys.stderr)
            return 2
        if not _is_mistake(error):
            raise
        named = isinstance(error, OSError) and error.filename and f"{error.filename}: {error.strerror}"
        print(f"error: {named or error}", file=sys.stderr)
        return 2
    return 0


def _is_mistake(error: Exception) -> bool:
    """Whether the user must mend it, so that its message says enough; anything else is a defect of ours.

    A mistake is an error of `MISTAKES`, wherever it was raised; an `OSError` that names a file or tells of a full disk;
    and a `ValueError` or `OSError` that a `raise` of this project raised here. One with notes comes from another process,
    whose traceback the notes hold: numpy or torch may have raised it there.
    """
    if isinstance(error, MISTAKES):
        return True
    if not isinstance(error, (ValueError, OSError)) or hasattr(error, "__notes__"):
        return False
    if isinstance(error, OSError) and (error.filename or error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return True
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    ours = any(Path(innermost.filename).is_relative_to(PROJECT / package) for package in PACKAGES)
    return ours and (innermost.line or "").startswith("raise ")


def _reader_is_gone() -> bool:
    """Whether nobody reads standard output any more."""
    try:
        output = sys.stdout.fileno()
    except OSError:  # it is no file
        return False
    watch = select.poll()
    watch.register(output, 0)  # errors and a closed other end are told unasked
    return bool(watch.poll(0))


def _console() -> Console:
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(soft_wrap=True, width=120)


if __name__ == "__main__":
    sys.exit(main())
