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
_HOPELESS = 4.0  # times slower: once is enough


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
    full, half = [], []
    for _ in range(_REPEATS):  # in turns, so that another process's load meets both
        full.append(_seconds(model, batch, torch.float32))
        half.append(_seconds(model, batch, torch.bfloat16))
        if half[-1] > _HOPELESS * full[-1]:
            break
    return torch.bfloat16 if min(half) < min(full) else torch.float32


def _seconds(model: MaskedLanguageModel, batch: Batch, dtype: torch.dtype) -> float:
    """Return the time of a forward and a backward pass; on a CPU, that of this process alone."""
    on_cpu = batch.ids_BT.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    start = clock()
    enabled = dtype == torch.bfloat16
    with torch.autocast(batch.ids_BT.device.type, torch.bfloat16, enabled=enabled):
        loss, _ = model(*batch.inputs()[:4])
    loss.backward()
    float(loss.detach())  # waits for the device
    model.zero_grad(set_to_none=True)
    return clock() - start
