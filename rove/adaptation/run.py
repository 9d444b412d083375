"""A training run: epochs until a release ranks what came later no better, and its state at rest.

The best epoch is that whose vectors serve best (`rove.adaptation.validation`); it is epoch 0,
before training, where no other is better: an adapter that does not help is not kept.

`state` and `restore` are tensors and numbers (safetensors and JSON, no pickle): a run that goes on
from them ends as one that was never stopped, as everything drawn depends on the seed, the epoch and
the worker alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rove.adaptation.episodes import History
from rove.adaptation.fitting import (
    Evaluation,
    Step,
    evaluate_model,
    optimizer_of,
    schedule_of,
    train_model,
)
from rove.adaptation.objectives import Objective
from rove.adaptation.validation import AsServed, Served, held_out
from rove.errors import DataError

MAX_VALIDATION = 4000  # episodes
NUMBERS = "state.json"
_TENSORS = "state.safetensors"
_OF_ADAPTER = "@"  # before the names of what an adapter knows besides its weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What an epoch came to; epoch 0 is the model before training."""

    number: int
    loss: float
    validation: Evaluation
    served: Served
    is_best: bool
    duration_s: float

    def line(self) -> str:
        """Say it in a line."""
        found = self.validation
        trained = f"loss {self.loss:.4f}, " if self.number else ""  # none before training
        return (
            f"epoch {self.number}: {trained}validation loss {found.loss:.4f}, "
            f"accuracy {found.accuracy:.3f}; served NDCG@10 {self.served.overall:.4f}, "
            f"of new items {self.served.cold:.4f}; {self.duration_s:.1f} s"
            + (" (best)" if self.is_best else "")
        )

    def numbers(self) -> dict[str, float]:
        """Return the figures by name."""
        return {
            "epoch": self.number,
            "loss": self.loss,
            "validation_loss": self.validation.loss,
            "validation_ndcg_at_10": self.validation.ndcg,
            "validation_accuracy": self.validation.accuracy,
            "served_ndcg_at_10": self.served.overall,
            "served_new_items_ndcg_at_10": self.served.cold,
            "is_best": float(self.is_best),
            "duration_s": self.duration_s,
        }


@dataclass(slots=True, kw_only=True)
class _Place:
    """Where a run is."""

    epoch: int = 0
    best: float = float("-inf")
    """Value of the best epoch."""
    best_epoch: int = 0
    stale: int = 0
    best_values: dict[str, torch.Tensor] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)


class Run:
    """Epochs of one worker of `num_ranks`; see the module."""

    def __init__(
        self,
        objective: Objective,
        history: History,
        validation: History,
        *,
        step: Step | None = None,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        if len(history) == 0:
            raise DataError(
                "no user has a later interaction with another item, so there is nothing to adapt "
                "to; bring more history"
            )
        section = objective.section
        self.objective = objective
        held_J = held_out(history, section.seed)
        self._history, self._validation = history.without(held_J), validation
        self._step = objective if step is None else step
        self._rank, self._num_ranks = rank, num_ranks
        self._steps = history.num_steps(section.batch_users, num_ranks)
        self._optimizer = optimizer_of(objective)
        self._schedule = schedule_of(self._optimizer, self.total_steps)
        self._at = _Place()
        before_JE = objective.get_buffer("before_JD").cpu().numpy()
        self._as_served = AsServed(self._history, validation, before_JE, objective.training_section)

    @property
    def best_epoch(self) -> int:
        """The epoch whose adapter is kept; 0: none."""
        return self._at.best_epoch

    @property
    def has_helped(self) -> bool:
        """Whether the best adapter is better than none."""
        return self._at.best_epoch > 0

    @property
    def total_steps(self) -> int:
        """Optimiser steps of all epochs."""
        return self._steps * self.objective.section.epochs

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do."""
        section = self.objective.section
        return self._at.epoch >= section.epochs or self._at.stale >= section.patience

    @property
    def epoch_number(self) -> int:
        """How many epochs are done."""
        return self._at.epoch

    def before(self) -> Epoch:
        """Evaluate the model as it is."""
        start = time.perf_counter()
        return Epoch(
            number=0,
            loss=float("nan"),
            validation=self._evaluate(),
            served=self._served(),
            is_best=False,
            duration_s=time.perf_counter() - start,
        )

    def epoch(self) -> Epoch:
        """Train for one epoch and evaluate."""
        section, at, start = self.objective.section, self._at, time.perf_counter()
        seed = (section.seed, at.epoch)
        torch.manual_seed(1_000_003 * section.seed + 1009 * at.epoch + self._rank)
        if at.epoch == 0:
            at.best, at.best_values = self._served().value, self._copies()
        batches = self.objective.batches(
            self._history, np.random.default_rng(seed), self._steps, self._rank, self._num_ranks
        )
        rng = np.random.default_rng((*seed, self._rank))
        loss = train_model(
            self.objective, self._step, batches, self._optimizer, self._schedule, rng
        )
        found, served = self._evaluate(), self._served()
        at.epoch += 1
        is_best = served.value > at.best
        if is_best:
            at.best, at.best_epoch, at.stale = served.value, at.epoch, 0
            at.best_values = self._copies()
        else:
            at.stale += 1
        done = Epoch(
            number=at.epoch,
            loss=loss,
            validation=found,
            served=served,
            is_best=is_best,
            duration_s=time.perf_counter() - start,
        )
        at.curve.append(done.numbers())
        return done

    @contextmanager
    def best(self) -> Iterator[None]:
        """Have the parameters of the best epoch for the time of the block."""
        now = self._copies()
        self._set(self._at.best_values)
        yield
        self._set(now)

    def use_best(self) -> None:
        """Make the model that of the best epoch."""
        self._set(self._at.best_values)
        self.objective.refresh()

    def save(self, folder: Path) -> None:
        """Write where the run is."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"now|{name}": value for name, value in self._values().items()}
        tensors |= {f"best|{name}": value for name, value in self._at.best_values.items()}
        tensors |= {f"adapter|{k}": v for k, v in self.objective.adapter.state().items()}
        for number, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer|{number}|{name}": v for name, v in moments.items()}
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(plain, folder / _TENSORS)
        numbers = {
            "epoch": self._at.epoch,
            "best": self._at.best,
            "best_epoch": self._at.best_epoch,
            "stale": self._at.stale,
            "step": self._schedule.last_epoch,
            "curve": self._at.curve,
        }
        (folder / NUMBERS).write_text(json.dumps(numbers), "utf-8")

    def restore(self, folder: Path) -> None:
        """Undo `save`."""
        try:
            tensors = load_file(folder / _TENSORS)
            numbers = json.loads((folder / NUMBERS).read_text("utf-8"))
            self._restore(tensors, numbers)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise DataError(
                f"{folder}: the checkpoint cannot be used: {str(error).splitlines()[0]}; remove "
                "the run's folder, or keep the settings that it was made with"
            ) from None

    def _restore(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> None:
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            part, _, name = key.partition("|")
            parts.setdefault(part, {})[name] = tensor
        with torch.no_grad():
            for name, parameter in self.objective.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(parts["now"][name])
        self.objective.adapter.restore(parts.get("adapter", {}))
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in parts.get("optimizer", {}).items():
            number, _, name = key.partition("|")
            moments.setdefault(int(number), {})[name] = tensor
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self._schedule.load_state_dict(
            {**self._schedule.state_dict(), "last_epoch": int(numbers["step"])}
        )
        for group, rate in zip(
            self._optimizer.param_groups, self._rates(int(numbers["step"])), strict=True
        ):
            group["lr"] = rate
        self._at = _Place(
            epoch=int(numbers["epoch"]),
            best=float(numbers["best"]),
            best_epoch=int(numbers["best_epoch"]),
            stale=int(numbers["stale"]),
            best_values=parts.get("best", {}),
            curve=list(numbers["curve"]),
        )
        self.objective.refresh()

    def _rates(self, step: int) -> list[float]:
        factors = self._schedule.lr_lambdas
        pairs = zip(factors, self._schedule.base_lrs, strict=True)
        return [factor(step) * float(base) for factor, base in pairs]

    def _set(self, values: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.objective.named_parameters():
                if name in values:
                    parameter.copy_(values[name])
        own = {k: v for k, v in values.items() if k.startswith(_OF_ADAPTER)}
        self.objective.adapter.restore({k.removeprefix(_OF_ADAPTER): v for k, v in own.items()})

    def _values(self) -> dict[str, torch.Tensor]:
        named = self.objective.named_parameters()
        return {name: value.detach() for name, value in named if value.requires_grad}

    def _copies(self) -> dict[str, torch.Tensor]:
        state = self.objective.adapter.state()
        kept = self._values() | {f"{_OF_ADAPTER}{name}": value for name, value in state.items()}
        return {name: value.clone() for name, value in kept.items()}

    def _served(self) -> Served:
        return self._as_served(self.objective.vectors_JD.cpu().numpy())

    def _evaluate(self) -> Evaluation:
        section = self.objective.section
        batches = self._validation.all(section.batch_users, section.support, MAX_VALIDATION)
        return evaluate_model(self.objective, batches, np.random.default_rng(section.seed))
