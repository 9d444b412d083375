"""One worker of an adaptation: what Ray Train calls on every process.

    training.adapt_meter  what a step came to
    training.news         what the first worker tells

- Workers hold equal parameters: gradients are averaged by DistributedDataParallel, batches differ,
  and each epoch ends with the same evaluation on all of them, so they stop together.
- After every epoch the first worker reports its figures and a checkpoint; a run that is started
  again, or whose worker was replaced, goes on from the latest.
"""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch

from rove.adaptation.fitting import Built, build
from rove.adaptation.run import Epoch, Run
from rove.config import Config
from training.adapt_data import Prepared
from training.adapt_meter import Meter
from training.news import Teller, peak_memory_mb

ADAPTER = "adapter"
"""Folder of the best adapter so far, within a checkpoint."""
RUN = "run"
"""Folder of the run's state (`rove.adaptation.run`)."""
BEFORE = "before.json"
"""The figures of the model before training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the driver hands to the workers."""

    config: Config
    prepared: ray.ObjectRef[Prepared]
    news: Any
    """The actor `training.news.News`."""


def work(settings: dict[str, Any]) -> None:
    """Train until validation gets no better; `settings` has the job under `job`."""
    job: Job = settings["job"]
    section = job.config.adapt
    torch.set_num_threads(section.cpus_per_worker)
    worker = _Worker(job, ray.get(job.prepared))
    worker.begin()
    while not worker.run.is_done:
        worker.after(worker.run.epoch())


class _Worker:
    """A run, its checkpoints, and what it tells."""

    def __init__(self, job: Job, prepared: Prepared) -> None:
        context = ray.train.get_context()
        section = job.config.adapt
        self._rank, num_ranks = context.get_world_rank(), context.get_world_size()
        self._teller = Teller(job.news, speaks=self._rank == 0)
        history, validation = prepared.histories()
        self._epoch_steps = history.num_steps(section.batch_users, num_ranks)
        self._built: Built = build(
            job.config,
            prepared.texts,
            prepared.popularity(),
            self._epoch_steps * section.epochs,
        )
        objective = self._built.objective
        self._device = objective.tower.device
        self._meter = Meter(objective, self._teller)
        self.run = Run(
            objective,
            history,
            validation,
            step=self._meter,
            rank=self._rank,
            num_ranks=num_ranks,
        )
        self._before: dict[str, float] = {}
        self._max_tokens = job.config.encoder.max_tokens

    def begin(self) -> None:
        """Load the last checkpoint, or measure where the run starts."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                self.run.restore(Path(folder) / RUN)
                self._before = json.loads((Path(folder) / BEFORE).read_text("utf-8"))
        step = self.run.epoch_number * self._epoch_steps
        self._meter.go_on_from(step)
        trained = (p for p in self._built.objective.parameters() if p.requires_grad)
        facts = {"device": str(self._device), "num_trained": sum(p.numel() for p in trained)}
        words = f"on {self._device}, {facts['num_trained']:,} trained parameters{self._cut()}"
        self._teller.start(step, self.run.total_steps, words, facts)
        if checkpoint is None and self._rank == 0:
            before = self.run.before()
            self._before = self._tell(before)

    def after(self, epoch: Epoch) -> None:
        """Tell about an epoch and keep a checkpoint."""
        figures = self._tell(epoch)
        if self._rank > 0:
            ray.train.report(figures)
            return
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.run.save(folder / RUN)
            (folder / BEFORE).write_text(json.dumps(self._before), "utf-8")
            with self.run.best():
                self._built.write_adapter(folder / ADAPTER)
            ray.train.report(figures, ray.train.Checkpoint.from_directory(folder))

    def _cut(self) -> str:
        """Say how many texts are cut, if any."""
        texts, most = self._built.objective.tower.texts, self._max_tokens
        num_cut = int((texts.lengths(np.arange(len(texts))) >= most).sum())
        return f"; {num_cut:,} texts of {most} tokens or more are cut there" if num_cut else ""

    def _tell(self, epoch: Epoch) -> dict[str, float]:
        """Return the figures of an epoch, those that there are."""
        figures = {k: float(v) for k, v in epoch.numbers().items() if not math.isnan(v)}
        figures["peak_memory_mb"] = peak_memory_mb(self._device)
        self._teller.point("epoch", epoch.number * self._epoch_steps, figures, epoch.line())
        self._teller.send()
        return figures
