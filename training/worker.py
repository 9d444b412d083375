"""What each worker of Ray Train runs: the loop of `training.loop`, with checkpoints and news.

Every worker takes part in a report; the first one's checkpoint is kept, and the first one tells.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import ray.train
import torch
from ray.train.torch import get_device
from torch import distributed as dist
from transformers import PreTrainedTokenizerFast

from rove.config import EncoderSection, PretrainSection
from rove.pretraining.masking import Vocabulary
from rove.pretraining.model import build
from rove.pretraining.stream import Corpus, Stream
from training.loop import Batches, Loop, Step, steps_of
from training.news import Teller
from training.parallel import Group, spread
from training.precision import choose

HELD_OUT_BATCHES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """All that a worker needs to know."""

    encoder: EncoderSection
    section: PretrainSection
    tokenizer: Path | None
    """Folder of the one trained on the corpus."""
    filesystem: pa.fs.FileSystem
    corpus: str
    news: Any


def train(settings: dict[str, Any]) -> None:
    """Train to the end, from the last checkpoint if there is one."""
    task: Task = settings["task"]
    torch.set_num_threads(task.section.cpus_per_worker)
    worker = _Worker(task)
    worker.begin()
    worker.loop.run(worker.after)


class _Worker:
    """A loop, when it checkpoints, and what it tells."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._group = Group.current()
        section = task.section
        self._device = get_device()
        tokenizer = None
        if task.tokenizer is not None:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(task.tokenizer))
        model, tokenizer = build(task.encoder, section, tokenizer)
        model.to(self._device)
        train_part = Corpus.open(task.filesystem, task.corpus, "train")
        self._held_out = Corpus.open(task.filesystem, task.corpus, "held_out")
        stream = Stream(train_part, section.batch_tokens, section.seed)
        batches = Batches(section, Vocabulary.of(tokenizer), self._device)
        self._epoch_steps = steps_of(
            section.model_copy(update={"epochs": 1.0, "max_steps": None}),
            num_batches := stream.num_batches(),
            self._group.size,
        )
        self._dtype = self._agree(choose(model, batches, stream, section.dtype, self._device))
        self.loop = Loop(
            section,
            spread(model, section.strategy, self._device),
            batches,
            stream,
            num_steps=steps_of(section, num_batches, self._group.size),
            dtype=self._dtype,
            device=self._device,
        )
        self._teller = Teller(task.news, speaks=self._group.rank == 0)

    def begin(self) -> None:
        """Load the last checkpoint, or measure where the run starts."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                self.loop.load(Path(folder))
        facts = {"dtype": str(self._dtype).removeprefix("torch."), "device": str(self._device)}
        words = "in {dtype} on {device}".format(**facts)
        self._teller.start(self.loop.step, self.loop.num_steps, words, facts)
        if checkpoint is None:
            self._measure()
        else:
            for point in self.loop.held_out:
                self._tell_held_out(point)
        self._teller.send()

    def after(self, step: Step) -> None:
        """Tell about a step; measure and checkpoint when it is time."""
        figures = step.as_dict()
        figures.pop("step")
        self._teller.step(step.step, figures, self._device)
        last = step.step == self.loop.num_steps
        if last or step.step % self._epoch_steps == 0:
            self._measure()
        if last or step.step % self._task.section.checkpoint_steps == 0:
            self._checkpoint(step)
        if last:
            self._teller.send()

    def _measure(self) -> None:
        if not self._held_out.parts:
            return
        section = self._task.section
        stream = Stream(self._held_out, section.batch_tokens, 0)
        self.loop.measure(stream, min(HELD_OUT_BATCHES, stream.num_batches()))
        self._tell_held_out(self.loop.held_out[-1])

    def _tell_held_out(self, point: dict[str, float]) -> None:
        step, loss = int(point["step"]), point["loss"]
        words = f"held-out loss at step {step:,}: {loss:.4f}"
        self._teller.point("held_out", step, {"loss": loss}, words)

    def _checkpoint(self, step: Step) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.loop.save(Path(folder))
            own = ray.train.Checkpoint.from_directory(folder) if self._group.rank == 0 else None
            ray.train.report({"step": step.step, "loss": step.loss}, checkpoint=own)

    def _agree(self, dtype: torch.dtype) -> torch.dtype:
        """Return the first worker's choice."""
        if self._group.size == 1:
            return dtype
        choice = torch.tensor([float(dtype == torch.bfloat16)], device=self._device)
        dist.broadcast(choice, 0)
        return torch.bfloat16 if float(choice) else torch.float32
