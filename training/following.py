"""Takes the news of a run's workers to the terminal and the trackers, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray

from rove.config import TrackingSection
from training.news import peak_memory_mb
from training.progress import Bar
from training.tracking import Tracker, open_trackers, reason

_POLL_S = 0.5


class Follower:
    """While it is entered, shows and tracks what the workers say (`training.news.Teller`)."""

    facts: dict[str, Any]
    """What the run was like: what the workers said at the start, and `memory_mb` (the most of a
    worker), `command_memory_mb`, `num_tokens`, `num_places` (tokens and padding) and `seconds` of
    the steps that were followed."""

    def __init__(
        self,
        news: Any,
        *,
        title: str,
        name: str,
        folder: Path,
        tracking: TrackingSection,
        settings: Mapping[str, Any],
        start_step: int,
    ) -> None:
        """Open the trackers of a run that goes on at `start_step`; their files go to `folder`."""
        self.facts = dict.fromkeys(("memory_mb", "num_tokens", "num_places", "seconds"), 0.0)
        self._news = news
        self._title = title
        self._actions: dict[str, Callable[..., None]] = {
            "start": self._start,
            "step": self._step,
            "point": self._point,
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="news", daemon=True)
        self._stack = ExitStack()
        self._bar: Bar | None = None
        self._trackers = [*open_trackers(tracking, folder, name, settings, start_step)]
        self._loss: float | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._stack.close()
        self.facts["command_memory_mb"] = peak_memory_mb()
        for tracker in list(self._trackers):
            with self._dropping(tracker):
                tracker.close(failed=error is not None)
        if error is None and self._error is not None:
            raise self._error

    def _follow(self) -> None:
        try:
            while not self._stop.wait(_POLL_S):
                self._take()
            self._take()
        except BaseException as error:  # raised where the follower is left
            self._error = error

    def _take(self) -> None:
        for message in ray.get(self._news.take.remote()):
            self._actions[message.pop("kind")](**message)

    def _start(self, step: int, num_steps: int, words: str, facts: dict[str, Any]) -> None:
        """A group of workers begins, for the first time or after a failure."""
        self.facts |= facts
        if self._bar is not None:
            self._say(f"workers were replaced; going on from step {step:,}")
            return
        self._say(f"{num_steps:,} steps {words}")
        self._bar = self._stack.enter_context(Bar(self._title, num_steps, step))

    def _step(self, step: int, figures: dict[str, float], memory_mb: float) -> None:
        facts = self.facts
        facts["memory_mb"] = max(facts["memory_mb"], memory_mb)
        facts["num_tokens"] += figures["num_tokens"]
        facts["num_places"] += figures["num_tokens"] / (1.0 - figures["padding"])
        facts["seconds"] += figures["seconds"]
        rate = figures["num_tokens"] / figures["seconds"]
        self._log("train", step, {**figures, "tokens_per_s": rate, "peak_memory_mb": memory_mb})
        assert self._bar is not None
        # A steadier number for the eye: recent steps weigh most.
        loss = figures["loss"]
        self._loss = loss if self._loss is None else 0.9 * self._loss + 0.1 * loss
        self._bar.show(step, f"loss {self._loss:.3f}, {rate:,.0f} tokens/s")

    def _point(self, group: str, step: int, figures: dict[str, float], words: str) -> None:
        self._log(group, step, figures)
        self._say(words)

    def _log(self, group: str, step: int, figures: Mapping[str, float]) -> None:
        for tracker in list(self._trackers):
            with self._dropping(tracker):
                tracker.log({f"{group}/{name}": value for name, value in figures.items()}, step)

    @contextmanager
    def _dropping(self, tracker: Tracker) -> Iterator[None]:
        """Go on without a tracker that fails: training is worth more than its log."""
        try:
            yield
        except tracker.failures as error:
            self._trackers.remove(tracker)
            self._say(f"{tracker.name} takes no more figures: {reason(error)}")

    def _say(self, text: str) -> None:
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.say(text)
