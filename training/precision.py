"""Which precision a run computes in: measured on its own first batch, where it may matter."""

from __future__ import annotations

import time
from typing import Literal

import torch

from rove.pretraining.model import MaskedLanguageModel
from rove.pretraining.stream import Position, Stream
from training.loop import Batch, Batches
from training.parallel import Group

# Not worth measuring: these emulate bfloat16, which takes many times as long as float32.
_EMULATING = ("DEFAULT", "AVX2")
_REPEATS = 3


def choose(
    model: MaskedLanguageModel,
    batches: Batches,
    stream: Stream,
    wanted: Literal["auto", "float32", "bfloat16"],
    device: torch.device,
) -> torch.dtype:
    """Return the faster of float32 and bfloat16 autocast, or what is wanted."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in _EMULATING:
        return torch.float32
    _, batch = next(batches.read(stream, Position(), Group()))
    assert batch is not None
    full = _seconds(model, batch, torch.float32)
    half = _seconds(model, batch, torch.bfloat16, limit_s=4 * full)
    return torch.bfloat16 if half < full else torch.float32


def _seconds(
    model: MaskedLanguageModel, batch: Batch, dtype: torch.dtype, limit_s: float = float("inf")
) -> float:
    """Return the best time of some forward and backward passes, after one that warms up."""
    best = float("inf")
    for turn in range(_REPEATS + 1):
        start = time.perf_counter()
        enabled = dtype == torch.bfloat16
        with torch.autocast(batch.ids_BT.device.type, torch.bfloat16, enabled=enabled):
            loss, _ = model(*batch.inputs()[:4])
        loss.backward()
        float(loss.detach())  # waits for the device
        model.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - start
        if seconds > limit_s:
            return seconds
        best = min(best, seconds) if turn else best
    return best
