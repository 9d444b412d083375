"""Masked-language-model training, one step after the other, on one worker or several, without Ray.

    rove.pretraining.stream    numbered batches
    rove.pretraining.masking   what is hidden
    rove.pretraining.model     the losses
    training.parallel          gradients over the workers
    training.checkpoint        state at rest

- A step takes `accumulate * workers` batches of the sequence: worker r the batches r, r + workers,
  ... A batch's masks are seeded by its number, dropout by step and worker: a resumed run repeats
  what the run that was not stopped would have done, bit for bit on one worker's CPU.
- The loss of a step is the mean over all its predicted tokens, wherever they were predicted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rove.config import PretrainSection
from rove.pretraining.masking import Vocabulary, mask
from rove.pretraining.model import decay_groups
from rove.pretraining.schedule import learning_rate
from rove.pretraining.stream import Position, Stream
from training import checkpoint
from training.checkpoint import State
from training.parallel import Group, bare, exchanging, whole

_HELD_OUT = 2**31  # sets the masks of held-out texts apart from those of training


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one forward pass reads; see `MaskedLanguageModel.forward`."""

    ids_BT: Tensor
    present_BT: Tensor | None
    places_M: Tensor
    targets_M: Tensor
    clean_ids_BT: Tensor
    num_tokens: int
    """Without padding."""

    def inputs(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
        """Return the arguments of the model."""
        return self.ids_BT, self.present_BT, self.places_M, self.targets_M, self.clean_ids_BT


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step did, over all workers."""

    step: int
    """From 1."""
    loss: float
    """Nats per predicted token."""
    contrastive: float
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    num_tokens: float
    padding: float
    """Share of the places of the batches."""
    seconds: float

    def as_dict(self) -> dict[str, float]:
        """Return plain numbers."""
        return {key: float(value) for key, value in asdict(self).items()}


class Batches:
    """Masked batches of a stream, on the device."""

    def __init__(
        self, section: PretrainSection, vocabulary: Vocabulary, device: torch.device
    ) -> None:
        self._section = section
        self._vocabulary = vocabulary
        self._device = device

    def read(
        self, stream: Stream, start: Position, group: Group, salt: int = 0
    ) -> Iterator[tuple[Position, Batch | None]]:
        """Yield each position from `start` on, with its batch where it is this worker's turn."""
        for number, (position, texts, rows) in enumerate(stream.read(start)):
            if number % group.size != group.rank:
                yield position, None
                continue
            seed = (self._section.seed + salt, position.epoch, position.window, position.batch)
            ids_BT, lengths_B = texts.padded(rows, self._vocabulary.pad)
            yield position, self.mask(ids_BT, lengths_B, np.random.default_rng(seed))

    def mask(self, ids_BT: np.ndarray, lengths_B: np.ndarray, rng: np.random.Generator) -> Batch:
        """Hide tokens and move the batch to the device."""
        section = self._section
        hidden = mask(
            ids_BT, self._vocabulary, section.mask_share, rng, whole_words=section.whole_words
        )
        padded = int(lengths_B.sum()) < ids_BT.size
        present_BT = np.arange(ids_BT.shape[1]) < lengths_B[:, None]
        return Batch(
            ids_BT=self._move(hidden.ids_BT),
            present_BT=self._move(present_BT) if padded else None,
            places_M=self._move(hidden.places_M),
            targets_M=self._move(hidden.targets_M),
            clean_ids_BT=self._move(ids_BT),
            num_tokens=int(lengths_B.sum()),
        )

    def _move(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)


class Loop:
    """A run: the model, its optimiser, and where it stands."""

    def __init__(
        self,
        section: PretrainSection,
        model: nn.Module,
        batches: Batches,
        stream: Stream,
        *,
        num_steps: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Take a model that `parallel.spread` has wrapped."""
        self.section = section
        self.model = model
        self.num_steps = num_steps
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self.held_out: list[dict[str, float]] = []
        self._dtype = dtype
        self._device = device
        self._group = Group.current()
        self._batches = batches
        self._stream = stream
        self._position = Position()
        self._source: Iterator[tuple[Position, Batch | None]] | None = None
        self._optimiser = torch.optim.AdamW(
            decay_groups(model, section.weight_decay), lr=section.learning_rate, fused=True
        )

    def advance(self) -> Step:
        """Take one step."""
        start = time.perf_counter()
        section, group = self.section, self._group
        batches = self._take(section.accumulate)
        (num_targets,) = group.sum([float(sum(len(b.targets_M) for b in batches))], self._device)
        torch.manual_seed(_seed(section.seed, self.step, group.rank))
        rate = learning_rate(self.step, self.num_steps, section.learning_rate, section.warmup_share)
        for parameters in self._optimiser.param_groups:
            parameters["lr"] = rate
        self.model.train()
        loss, contrastive = self._backward(batches, max(1.0, num_targets))
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), section.clip_norm)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.step += 1
        sums = group.sum(
            [
                loss,
                contrastive / (section.accumulate * group.size),
                float(sum(one.num_tokens for one in batches)),
                float(sum(one.ids_BT.numel() for one in batches)),
            ],
            self._device,
        )
        done = Step(
            step=self.step,
            loss=sums[0] / max(1.0, num_targets),
            contrastive=sums[1],
            learning_rate=rate,
            gradient_norm=float(whole(norm)),
            num_tokens=sums[2],
            padding=1.0 - sums[2] / sums[3],
            seconds=time.perf_counter() - start,
        )
        self.curve.append(done.as_dict())
        return done

    def run(self, after: Callable[[Step], None]) -> None:
        """Take all steps that are left, and call `after` each."""
        while self.step < self.num_steps:
            after(self.advance())

    @torch.no_grad()
    def measure(self, stream: Stream, num_batches: int) -> float:
        """Return the loss on held-out texts (nats per predicted token), with the same masks each
        time."""
        self.model.eval()
        source = self._batches.read(stream, Position(), self._group, _HELD_OUT)
        total = count = 0.0
        # Every worker runs as many passes as any other: spread parameters are fetched by all.
        turns = -(-num_batches // self._group.size) * self._group.size
        for number, (_, batch) in zip(range(turns), source, strict=False):
            if batch is None:
                continue
            with self._autocast():
                loss, _ = self.model(*batch.inputs()[:4])
            if number < num_batches:
                total, count = total + float(loss), count + len(batch.targets_M)
        total, count = self._group.sum([total, count], self._device)
        value = total / max(1.0, count)
        self.held_out.append({"step": float(self.step), "loss": value})
        return value

    def save(self, folder: Path) -> None:
        """Write a checkpoint; every worker takes part, the first one writes."""
        state = State(
            step=self.step,
            position=self._position,
            dtype=str(self._dtype).removeprefix("torch."),
            curve=self.curve,
            held_out=self.held_out,
        )
        writes = self._group.rank == 0
        checkpoint.save(folder, bare(self.model), self._optimiser, state, writes=writes)

    def load(self, folder: Path) -> None:
        """Go on where the checkpoint in `folder` stands."""
        state = checkpoint.load(folder, bare(self.model), self._optimiser)
        self.step, self._position = state.step, state.position
        self.curve, self.held_out = state.curve, state.held_out
        self._dtype = getattr(torch, state.dtype)
        self._source = None

    def _backward(self, batches: list[Batch], num_targets: float) -> tuple[float, float]:
        """Add up gradients; return the summed losses of this worker."""
        section, size = self.section, self._group.size
        losses = contrasts = 0.0
        for number, batch in enumerate(batches):
            with exchanging(self.model, number == len(batches) - 1):
                with self._autocast():
                    loss, contrast = self.model(*batch.inputs())
                # Workers' gradients are averaged, so the sum is scaled up by their number.
                objective = loss * (size / num_targets)
                objective = objective + contrast * (section.contrastive_weight / len(batches))
                objective.backward()
            losses, contrasts = losses + float(loss.detach()), contrasts + float(contrast.detach())
        return losses, contrasts

    def _take(self, number: int) -> list[Batch]:
        """Return this worker's batches of a step, and move on behind those of all workers."""
        if self._source is None:
            self._source = self._batches.read(self._stream, self._position, self._group)
        group = [next(self._source) for _ in range(number * self._group.size)]
        last, _ = group[-1]
        self._position = Position(epoch=last.epoch, window=last.window, batch=last.batch + 1)
        return [batch for _, batch in group if batch is not None]

    def _autocast(self) -> torch.autocast:
        enabled = self._dtype == torch.bfloat16
        return torch.autocast(self._device.type, torch.bfloat16, enabled=enabled)


def steps_of(section: PretrainSection, num_batches: int, num_workers: int) -> int:
    """Return how many steps a run takes."""
    whole_run = round(section.epochs * num_batches / (section.accumulate * num_workers))
    return max(1, whole_run if section.max_steps is None else min(whole_run, section.max_steps))


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
