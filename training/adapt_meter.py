"""Measures the steps of an adaptation: loss, tokens and time of each, over all workers.

Tokens are those of the items that a step reads with gradients, padding is their batches' share of
places without one; time is that from the start of the
forward pass to the end of the optimiser's step.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_post_hook

from rove.adaptation.episodes import Episodes
from rove.adaptation.objectives import Objective
from rove.adaptation.tower import Tower
from training.news import Teller
from training.parallel import Group


class Meter:
    """A run's step (`rove.adaptation.fitting.Step`) that tells about itself.

    One of them is of use in a process: it listens to every optimiser.
    """

    def __init__(self, objective: Objective, teller: Teller) -> None:
        """Wrap the objective for several workers, if there are."""
        self._group = Group.current()
        self._step: torch.nn.Module = objective
        if self._group.size > 1:
            self._step = DistributedDataParallel(objective, broadcast_buffers=False)
        self._teller = teller
        self._device = objective.tower.device
        self._num_steps = 0
        self._num_tokens = self._num_places = 0
        self._began = 0.0
        self._loss: torch.Tensor | None = None
        objective.tower.register_forward_pre_hook(self._count)
        register_optimizer_step_post_hook(self._after)

    def go_on_from(self, step: int) -> None:
        """Number the steps from this one on."""
        self._num_steps = step

    def __call__(self, episodes: Episodes, rng: np.random.Generator) -> torch.Tensor:
        """Return the loss of a batch."""
        self._began, self._num_tokens, self._num_places = time.perf_counter(), 0, 0
        loss: torch.Tensor = self._step(episodes, rng)
        self._loss = loss.detach()
        return loss

    def _count(self, tower: Tower, arguments: tuple[Any, ...]) -> None:
        lengths = tower.texts.lengths(arguments[0])
        self._num_tokens += int(lengths.sum())
        for chosen in tower.batches(arguments[0]):
            self._num_places += len(chosen) * int(lengths[chosen].max())

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._loss is None:
            return
        self._num_steps += 1
        own = [float(self._loss), float(self._num_tokens), float(self._num_places)]
        self._loss = None
        loss, tokens, places = self._group.sum(own, self._device)
        figures = {
            "loss": loss / self._group.size,
            "num_tokens": tokens,
            "padding": 1.0 - tokens / places if places else 0.0,
            "seconds": time.perf_counter() - self._began,
            "learning_rate": float(optimizer.param_groups[0]["lr"]),
        }
        self._teller.step(self._num_steps, figures, self._device)
