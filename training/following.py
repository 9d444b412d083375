"""Takes the news of a run's workers to the terminal and the trackers, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import ray

from rove.config import Config
from training.progress import Bar
from training.tracking import open_trackers

_POLL_S = 0.5


class Follower:
    """While it is entered, shows and tracks what the workers say."""

    facts: dict[str, Any]
    """What the run was like: dtype, device, peak memory."""

    def __init__(self, news: Any, config: Config, start_step: int) -> None:
        """Open the trackers of a run that goes on at `start_step`."""
        self.facts = {"memory_mb": 0.0}
        self._news = news
        self._actions: dict[str, Callable[..., None]] = {
            "start": self._start,
            "step": self._step,
            "held_out": self._held_out,
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="news", daemon=True)
        self._stack = ExitStack()
        self._bar: Bar | None = None
        section = config.pretrain
        self._trackers = open_trackers(
            section.tracking,
            section.path,
            config.name,
            section.model_dump(mode="json", exclude={"tracking"}),
            start_step,
        )
        self._loss: float | None = None
        self._shown = 0
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
        for tracker in self._trackers:
            tracker.close()
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

    def _start(self, step: int, num_steps: int, dtype: str, device: str) -> None:
        """A group of workers begins, for the first time or after a failure."""
        self.facts |= {"dtype": dtype, "device": device}
        if self._bar is not None:
            self._say(f"workers were replaced; going on from step {step:,}")
            return
        self._say(f"{num_steps:,} steps in {dtype} on {device}")
        self._bar = self._stack.enter_context(Bar("pretraining", num_steps, step))

    def _step(self, step: float, memory_mb: float, **figures: float) -> None:
        number = int(step)
        self.facts["memory_mb"] = max(self.facts["memory_mb"], memory_mb)
        rate = figures["num_tokens"] / figures["seconds"]
        logged = {**figures, "tokens_per_s": rate, "peak_memory_mb": memory_mb}
        for tracker in self._trackers:
            tracker.log({f"train/{name}": value for name, value in logged.items()}, number)
        assert self._bar is not None
        # A steadier number for the eye: recent steps weigh most.
        loss = figures["loss"]
        self._loss = loss if self._loss is None else 0.9 * self._loss + 0.1 * loss
        self._bar.show(number, f"loss {self._loss:.3f}, {rate:,.0f} tokens/s")

    def _held_out(self, step: float, loss: float) -> None:
        for tracker in self._trackers:
            tracker.log({"held_out/loss": loss}, int(step))
        self._say(f"held-out loss at step {int(step):,}: {loss:.4f}")

    def _say(self, text: str) -> None:
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.say(text)
