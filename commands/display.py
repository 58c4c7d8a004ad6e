"""What a person sees while a run goes on: progress bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

PLAIN_SECONDS = 10.0  # between two plain progress lines of one phase


def open_console() -> Console:
    """The terminal; for a file or a pipe, lines as long as they are."""
    return Console() if sys.stdout.isatty() else Console(soft_wrap=True, width=120)


class Bar:
    """One phase's progress: a bar in a terminal, a line now and then elsewhere."""

    def __init__(self, display: Display, title: str, total: int) -> None:
        self.display, self.title, self.total = display, title, total
        self.started = self.last = time.monotonic()
        self.task = display.progress.add_task(title, total=total, note="") if display.progress else None

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """Show that `done` of the phase's units are done."""
        self.total = total if total is not None else self.total
        if self.display.progress and self.task is not None:
            self.display.progress.update(self.task, completed=done, total=self.total, note=note)
            return
        now = time.monotonic()
        if done >= self.total or now - self.last >= PLAIN_SECONDS:
            self.last = now
            self.display.say(f"  {self.title}: {done}/{self.total}  {note}".rstrip())


class Display:
    """Prints headlines, progress and tables to `console`."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
        self.progress: Progress | None = None

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text)

    def headline(self, text: str) -> None:
        """The beginning of a phase."""
        self.console.print(f"[bold]{text}[/bold]" if self.console.is_terminal else text)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        """A progress bar for the time of the block."""
        if not self.console.is_terminal:
            yield Bar(self, title, total)
            return
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console) as self.progress:
            try:
                yield Bar(self, title, total)
            finally:
                self.progress = None

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """A small table."""
        table = Table(title=title, title_justify="left")
        for number, name in enumerate(columns):
            table.add_column(name, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)


def step_note(metrics: Mapping[str, float]) -> str:
    """The few figures worth watching while a run goes on."""
    parts = [
        f"reward {metrics['reward_mean']:.2f}",
        f"solved {metrics['solved_rate']:.0%}",
        f"format {metrics['format_rate']:.0%}",
        f"lag {metrics['staleness_mean']:.1f}",
    ]
    if "speedup_reached" in metrics:
        parts.append(f"{metrics['step_seconds']:.1f} s/step")
    return "  ".join(parts)


def percent(value: Any) -> str:
    """A share as percent, a dash where it is missing."""
    return "–" if value is None or value != value else f"{100 * value:.1f}%"
