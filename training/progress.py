"""How far a job is: a bar with the time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_S = 10.0


class Bar:
    """Progress over a known number of steps, with a few words beside it."""

    def __init__(self, title: str, num_steps: int, start_step: int = 0) -> None:
        self._title = title
        self._num_steps = num_steps
        self._first = start_step
        self._began = time.monotonic()
        self._printed = float("-inf")
        self._task: TaskID | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}"),
            console=Console(file=sys.stdout),
        )

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            self._bar.start()
            self._task = self._bar.add_task(
                self._title, total=self._num_steps, completed=self._first, words=""
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._task is None:
            print(text, flush=True)
        else:
            self._bar.console.print(text, highlight=False, markup=False)

    def show(self, step: int, words: str) -> None:
        """Show that `step` steps are done."""
        if self._task is not None:
            self._bar.update(self._task, completed=step, words=words)
            return
        now = time.monotonic()
        if now - self._printed < _LINE_S and step < self._num_steps:
            return
        self._printed = now
        done = max(1, step - self._first)
        left_s = (now - self._began) / done * (self._num_steps - step)
        print(
            f"{self._title}: {step:,} of {self._num_steps:,} steps, {words}, {clock(left_s)} left",
            flush=True,
        )


def clock(seconds: float) -> str:
    """Return hours, minutes and seconds: 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
