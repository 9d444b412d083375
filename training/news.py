"""What workers tell the command, so that nothing in a step waits for a terminal or a tracker.

The first worker's `Teller` collects messages and puts them into `News`, an actor, every second;
`training.following` takes them out. A message is the keyword arguments of one of its methods.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

_SEND_S = 1.0


class News:
    """A box of messages between the first worker and the command; made an actor by the command."""

    def __init__(self) -> None:
        self._waiting: list[dict[str, Any]] = []

    def add(self, messages: list[dict[str, Any]]) -> None:
        """Put messages in."""
        self._waiting += messages

    def take(self) -> list[dict[str, Any]]:
        """Take all messages out."""
        taken, self._waiting = self._waiting, []
        return taken


class Teller:
    """The side of a worker; those that do not speak are silent."""

    def __init__(self, news: Any, speaks: bool) -> None:
        """`news` is the actor."""
        self._news = news
        self._speaks = speaks
        self._waiting: list[dict[str, Any]] = []
        self._sent = time.monotonic()

    def start(self, step: int, num_steps: int, words: str, facts: Mapping[str, Any]) -> None:
        """Say that the group of workers begins, and at which step."""
        self._tell(kind="start", step=step, num_steps=num_steps, words=words, facts=dict(facts))
        self.send()

    def step(self, step: int, figures: Mapping[str, float], device: torch.device) -> None:
        """Tell about a step: `figures` has at least loss, num_tokens, padding, seconds."""
        self._tell(kind="step", step=step, figures=dict(figures), memory_mb=peak_memory_mb(device))
        if time.monotonic() - self._sent > _SEND_S:
            self.send()

    def point(self, group: str, step: int, figures: Mapping[str, float], words: str) -> None:
        """Tell about what was measured after a step: figures under `group`/, words for the eye."""
        self._tell(kind="point", group=group, step=step, figures=dict(figures), words=words)

    def send(self) -> None:
        """Hand over what waits."""
        if self._waiting:
            self._news.add.remote(self._waiting)
        self._waiting, self._sent = [], time.monotonic()

    def _tell(self, **message: Any) -> None:
        if self._speaks:
            self._waiting.append(message)


def peak_memory_mb(device: torch.device | None = None) -> float:
    """Return the most memory that this process has used: of the device, if that is a GPU."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)
