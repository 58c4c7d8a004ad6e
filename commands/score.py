"""`score`: judge a file of samples with a progress bar, then report."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from couplet.commands import cli
from couplet.commands.display import open_console

if TYPE_CHECKING:
    from couplet.configs.schema import RewardConfig, SandboxConfig
    from couplet.evaluation.score_file import FileScore

KS = (1, 2, 5, 10, 20, 50, 100)


def options(parser: argparse.ArgumentParser) -> None:
    """Options of `score`."""
    parser.epilog = "Keys that count here: reward.* and sandbox.* of docs/configuration.md."
    parser.add_argument("problems", help=cli.PROBLEMS)
    parser.add_argument("samples", help='JSON lines {"task_id", "completion"} or {"task_id", "solution"}')
    cli.add_overrides(parser, "limits, e.g. sandbox.cpu_seconds=5")
    parser.add_argument("--out", type=Path, metavar="FILE", help="verdicts, JSON lines (default: beside the samples)")
    parser.add_argument("--workers", type=cli.positive, default=1, metavar="N", help="sandboxes at a time (default: 1)")


def run(args: argparse.Namespace) -> None:
    """Judge the file and report."""
    from couplet.configs.load import resolve, to_dict
    from couplet.configs.schema import RunConfig
    from couplet.evaluation.score_file import SCORING

    config = resolve(RunConfig, {"sandbox": to_dict(SCORING)}, args.overrides)
    run_score(args.problems, args.samples, args.out, args.workers, config.reward, config.sandbox, open_console())


def run_score(
    problems: str | Path,
    samples: str | Path,
    out: str | Path | None = None,
    workers: int = 1,
    reward: RewardConfig | None = None,
    sandbox: SandboxConfig | None = None,
    console: Console | None = None,
) -> FileScore:
    """Score `samples` against `problems` (see `evaluation.score_file`), with progress and a report on `console`."""
    from couplet.evaluation.score_file import score_file

    console = console or Console()
    columns = (TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("judging", total=None)
        score = score_file(
            problems,
            samples,
            out,
            workers,
            reward,
            sandbox,
            lambda done, of: bar.update(task, completed=done, total=of),
        )
    for line in report_lines(score):
        console.print(line, highlight=False, soft_wrap=True)
    return score


def estimates(counts_of_problems: Mapping[str, tuple[int, int]]) -> Iterator[tuple[int, float]]:
    """(k, pass@k), averaged over problems with at least one judged sample, for every k that all of them allow."""
    from couplet.evaluation.pass_at_k import estimate

    counts = [pair for pair in counts_of_problems.values() if pair[0] > 0]
    fewest = min((judged for judged, _ in counts), default=0)
    for k in sorted({*KS, fewest} - {0}):
        if k <= fewest:
            yield k, estimate(counts, k, resamples=1).mean


def report_lines(score: FileScore) -> list[str]:
    """The report, line by line."""
    answered = len(score.counts)
    lines = [f"pass@{k}: {100 * value:.2f}%" for k, value in estimates(score.counts)]
    if score.base_counts:
        lines = [f"{line} (base and additional tests)" for line in lines]
        lines += [f"pass@{k}: {100 * value:.2f}% (base tests only)" for k, value in estimates(score.base_counts)]
    judged = sum(judged for judged, _ in score.counts.values())
    if judged < len(score.rows):
        lines[:1] = [f"{line}, of {judged} judged samples" for line in lines[:1]]
    lines.append(
        f"{len(score.rows)} samples of {answered} problems; {score.unanswered} problems without samples, not scored"
    )
    lines.append(
        f"weak verdicts: {score.weak}, timeouts: {score.timeouts}, quarantined: {score.quarantined}, "
        f"lost to the sandbox: {score.infra}"
    )
    if score.defects:
        lines.append(f"left out, because their own tests cannot judge: {', '.join(score.defects)}")
    rate = len(score.rows) / score.seconds if score.seconds else 0.0
    lines.append(f"{rate:.1f} programs/s in {score.seconds:.1f} s, sandbox tier {score.tier}")
    lines.append(f"verdicts in {score.out}")
    return lines
