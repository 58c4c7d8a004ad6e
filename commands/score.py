"""`launch.py score`: judge a file of samples with a progress bar, then say what came out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.evaluation.pass_at_k import estimate
from couplet.evaluation.score_file import FileScore, score_file

KS = (1, 2, 5, 10, 20, 50, 100)


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


def estimates(score: FileScore) -> Iterator[tuple[int, float]]:
    """(k, pass@k), averaged over problems with at least one judged sample, for every k that all of them allow."""
    counts = [pair for pair in score.counts.values() if pair[0] > 0]
    fewest = min((judged for judged, _ in counts), default=0)
    for k in sorted({*KS, fewest} - {0}):
        if k <= fewest:
            yield k, estimate(counts, k, resamples=1).mean


def report_lines(score: FileScore) -> list[str]:
    """The report, line by line."""
    answered = len(score.counts)
    lines = [f"pass@{k}: {100 * value:.2f}%" for k, value in estimates(score)]
    lines.append(
        f"{len(score.rows)} samples of {answered} problems; {score.unanswered} problems without samples, not scored"
    )
    lines.append(
        f"weak verdicts: {score.weak}, timeouts: {score.timeouts}, quarantined: {score.quarantined}, "
        f"lost to the sandbox: {score.infra}"
    )
    rate = len(score.rows) / score.seconds if score.seconds else 0.0
    lines.append(f"{rate:.1f} programs/s in {score.seconds:.1f} s, sandbox tier {score.tier}")
    lines.append(f"verdicts in {score.out}")
    return lines
