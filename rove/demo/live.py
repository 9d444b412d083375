"""The replay as it goes: how far it is, and the precision so far of three recommenders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rove.baselines.base import Ints
from rove.baselines.replay import Requests
from rove.demo.results import FROZEN, LEARNING, precisions
from rove.demo.rivals import LIVE_POPULARITY
from rove.demo.split import Visit
from rove.events import Decision

_SHOWN = (FROZEN, LIVE_POPULARITY)


class Live:
    """A progress bar to be told of every window."""

    def __init__(
        self,
        console: Console,
        num_visits: int,
        requests: Requests,
        item_ids: Sequence[str],
        ranked: Mapping[str, Ints],
        k: int,
    ) -> None:
        self._relevant = {
            int(visit): {item_ids[code] for code in codes.tolist()}
            for visit, codes in zip(requests.baskets, requests.relevant, strict=True)
        }
        self._values = precisions({name: ranked[name] for name in _SHOWN}, requests, k)
        self._k = k
        self._num_visits = self._num_requests = self._num_hits = 0
        self._progress = Progress(
            TextColumn("replaying"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[precision]}"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("replay", total=num_visits, precision="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def seen(self, window: Sequence[Visit], decisions: Sequence[Decision]) -> None:
        """Count a window that is done."""
        for decision in decisions:
            relevant = self._relevant.get(self._num_visits)
            self._num_visits += 1
            if relevant is not None:
                self._num_requests += 1
                self._num_hits += sum(slot.item_id in relevant for slot in decision.slots)
        self._progress.update(self._task, completed=self._num_visits, precision=self.text())

    def text(self) -> str:
        """Return the precision so far, on the same requests."""
        if not self._num_requests:
            return ""
        so_far = {LEARNING: self._num_hits / self._num_requests / self._k}
        for name, values in self._values.items():
            so_far[name] = float(values[: self._num_requests].mean())
        shown = (f"{name} {precision:.4f}" for name, precision in so_far.items())
        return f"precision@{self._k}: " + " | ".join(shown)
