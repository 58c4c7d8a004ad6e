"""The display of a run: progress bars in a terminal, plain lines elsewhere; readable at 80 columns."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

PLAIN_SECONDS = 10.0  # between two plain progress lines of one bar
SPEED_SECONDS = 3600.0  # the remaining time is estimated from the units of so long
BAR_WIDTH = 26  # with title, counts and both times, less than 80 columns
PACE_STEPS = 20  # learner steps that the shares of the phases are taken over
# Phase -> what it is called, and which workers would make it faster.
PHASES = {
    "generate": ("generating", "rollout"),
    "reward": ("judging", "reward"),
    "train": ("learning", "learner"),
}


def open_console() -> Console:
    """The terminal; for a file or a pipe, lines as long as they are."""
    return Console() if sys.stdout.isatty() else Console(soft_wrap=True, width=120)


class Bar:
    """Progress through some units: a bar in a terminal, a line now and then elsewhere."""

    def __init__(self, display: Display, title: str, total: int, task: TaskID | None = None) -> None:
        self.display, self.title, self.total, self.task = display, title, total, task
        self.last = time.monotonic()

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """Show that `done` units are done; `note` may have several lines."""
        self.total = total if total is not None else self.total
        if self.display.progress and self.task is not None:
            self.display.progress.update(self.task, completed=done, total=self.total, note=note)
            return
        now = time.monotonic()
        if done >= self.total or now - self.last >= PLAIN_SECONDS:
            self.last = now
            self.display.say(f"  {self.title}: {done}/{self.total}  {'; '.join(note.splitlines())}".rstrip())


class _Bars(Progress):
    """Bars, each with the lines of its note below."""

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks:
            if task.visible:
                yield self.make_tasks_table([task])
                for line in task.fields["note"].splitlines():
                    yield Text(f"    {line}", style="dim", no_wrap=True, overflow="ellipsis")


class Display:
    """Prints headlines, progress and tables to `console`."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
        self.progress: _Bars | None = None

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False)

    def headline(self, text: str) -> None:
        """The beginning of a phase."""
        self.console.print(text, style="bold" if self.console.is_terminal else None, markup=False)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        """A progress bar for the time of the block; inside another bar's block it is shown below that one."""
        if not self.console.is_terminal:
            yield Bar(self, title, total)
        elif self.progress is not None:
            task = self.progress.add_task(title, total=total, note="")
            try:
                yield Bar(self, title, total, task)
            finally:
                self.progress.remove_task(task)
        else:
            with _Bars(*_columns(), console=self.console, speed_estimate_period=SPEED_SECONDS) as self.progress:
                try:
                    yield Bar(self, title, total, self.progress.add_task(title, total=total, note=""))
                finally:
                    self.progress.refresh()
                    self.progress = None

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """A small table."""
        table = Table(title=title, title_justify="left")
        for number, name in enumerate(columns):
            table.add_column(name, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)


def _columns() -> tuple[Any, ...]:
    return (
        TextColumn("  {task.description}"),
        BarColumn(BAR_WIDTH),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )


class Pace:
    """The figures worth watching while a run is going: of the newest step, and of the time the last steps took.

    One worker of each role (a run in one process) has its phases one after the other: their shares of the time are
    shown. With actors the idle shares are, and how many more workers would bring the slowest phase down to the next
    one.
    """

    def __init__(self) -> None:
        self.rows: deque[Mapping[str, float]] = deque(maxlen=PACE_STEPS)

    def note(self, metrics: Mapping[str, float]) -> str:
        """Two lines of less than 80 columns after another learner step."""
        self.rows.append(metrics)
        first = "  ".join(
            [
                f"reward {metrics['reward_mean']:.2f}",
                f"solved {metrics['solved_rate']:.0%}",
                f"format {metrics['format_rate']:.0%}",
                f"staleness {metrics['staleness_mean']:.1f}",
                f"{self._mean('step_seconds'):.1f} s/step" if "step_seconds" in metrics else "",
            ]
        ).rstrip()
        return f"{first}\n{self._phases(metrics)}".rstrip()

    def _phases(self, metrics: Mapping[str, float]) -> str:
        if any(f"{phase}_seconds" not in metrics for phase in PHASES):
            return ""
        spent = {phase: self._mean(f"{phase}_seconds") for phase in PHASES}
        if "rollout_workers" not in metrics:
            total = max(sum(spent.values()), 1e-9)
            return "time: " + ", ".join(f"{PHASES[phase][0]} {spent[phase] / total:.0%}" for phase in PHASES)
        idle = ", ".join(f"{PHASES[phase][1]} {self._mean(f'{phase}_idle_share'):.0%}" for phase in PHASES)
        workers = {phase: max(1.0, metrics.get(f"{role}_workers", 1.0)) for phase, (_, role) in PHASES.items()}
        return f"idle: {idle}; {advice(spent, workers)}"

    def _mean(self, name: str) -> float:
        values = [row[name] for row in self.rows if name in row]
        return sum(values) / max(len(values), 1)


def advice(spent: Mapping[str, float], workers: Mapping[str, float]) -> str:
    """Which phase bounds the step, and about how many workers would bring it down to the next slowest one.

    Args:
        spent: busy seconds of each phase per step, summed over its workers.
        workers: of each phase.
    """
    per_worker = {phase: spent[phase] / workers[phase] for phase in PHASES}
    slowest, second = sorted(PHASES, key=lambda phase: per_worker[phase], reverse=True)[:2]
    verb, role = PHASES[slowest]
    if slowest == "train" or per_worker[second] <= 0:
        return f"{verb} bounds"
    more = max(0, math.ceil(spent[slowest] / per_worker[second]) - round(workers[slowest]))
    return f"{verb} bounds: add about {more} {role}" if more else f"{verb} bounds"


def percent(value: Any) -> str:
    """A share as percent, a dash if it is missing."""
    return "–" if value is None or value != value else f"{100 * value:.1f}%"


def interval(value: Any, low: Any, high: Any) -> str:
    """A share as percent with its confidence interval."""
    return percent(value) if low is None or high is None else f"{percent(value)} [{percent(low)}, {percent(high)}]"


def identity(totals: Mapping[str, int]) -> str:
    """What became of every group that was issued; the two sides are equal at every step."""
    return (
        f"groups: {totals['issued']} issued = {totals['trained']} trained + {totals['filtered']} filtered "
        f"+ {totals['quarantined']} quarantined + {totals['in_flight']} in flight"
    )
