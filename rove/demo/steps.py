"""Steps on the terminal: a spinner while one runs, a line with its duration when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

_WIDTH = 58


class Steps:
    """Runs the steps of the demo under their names."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}
        """Step -> duration."""

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[Callable[[str], None]]:
        """Time the block; the value says, next to the spinner, what it is busy with."""
        start = time.perf_counter()
        with self.console.status(title) as status:
            yield lambda detail: status.update(f"{title}: {detail}")
        self.done(name, title, time.perf_counter() - start)

    def done(self, name: str, title: str, duration_s: float) -> None:
        """Record and print a step that was timed elsewhere."""
        self.seconds[name] = round(duration_s, 3)
        self.console.print(f"{title:{_WIDTH}} {duration_s:6.1f} s", highlight=False)
