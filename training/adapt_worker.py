"""One worker of an adaptation: what Ray Train calls on every process.

- Workers hold equal parameters: gradients are averaged by DistributedDataParallel, batches differ,
  and each epoch ends with the same evaluation on all of them, so they stop together.
- After every epoch the first worker reports its figures and a checkpoint; a run that is started
  again, or whose worker was replaced, goes on from the latest.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import ray.train
import torch
from torch.nn.parallel import DistributedDataParallel

from rove.adaptation.episodes import Episodes
from rove.adaptation.fitting import Step, build
from rove.adaptation.objectives import Objective
from rove.adaptation.run import Run
from rove.config import Config
from training.adapt_data import Prepared

ADAPTER = "adapter"
"""Folder of the best adapter so far, within a checkpoint."""
RUN = "run"
"""Folder of the run's state (`rove.adaptation.run`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the driver hands to the workers."""

    config: Config
    prepared: ray.ObjectRef[Prepared]


def work(settings: dict[str, Job]) -> None:
    """Train until validation gets no better; `settings` has the job under `job`."""
    config = settings["job"].config
    prepared: Prepared = ray.get(settings["job"].prepared)
    context = ray.train.get_context()
    rank, num_ranks = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config.adapt.cpus_per_worker)
    history, validation = prepared.histories()
    steps = history.num_steps(config.adapt.batch_users, num_ranks) * config.adapt.epochs
    built = build(config, prepared.texts, prepared.popularity(), steps)
    run = Run(
        built.objective,
        history,
        validation,
        step=_step(built.objective, num_ranks),
        rank=rank,
        num_ranks=num_ranks,
    )
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            run.restore(Path(folder) / RUN)
    elif rank == 0:
        print(run.before().line(), flush=True)
    while not run.is_done:
        epoch = run.epoch()
        metrics = epoch.numbers()
        if rank > 0:
            ray.train.report(metrics)
            continue
        print(epoch.line(), flush=True)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            run.save(folder / RUN)
            with run.best():
                built.write_adapter(folder / ADAPTER)
            ray.train.report(metrics, ray.train.Checkpoint.from_directory(folder))


def _step(objective: Objective, num_ranks: int) -> Step | None:
    """Return the objective wrapped for several workers; None for one."""
    if num_ranks == 1:
        return None
    spread = DistributedDataParallel(objective, broadcast_buffers=False)

    def step(episodes: Episodes, rng: np.random.Generator) -> torch.Tensor:
        loss: torch.Tensor = spread(episodes, rng)
        return loss

    return step
