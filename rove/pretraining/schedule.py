"""The learning rate over a run."""

from __future__ import annotations

import math


def learning_rate(step: int, num_steps: int, highest: float, warmup_share: float) -> float:
    """Return the rate of step 0, 1, ..., num_steps - 1.

    With w = round(warmup_share * num_steps): highest * (step + 1) / w for step < w, then
    highest * (1 + cos(pi * (step - w) / (num_steps - w))) / 2.
    """
    warmup = round(warmup_share * num_steps)
    if step < warmup:
        return highest * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    return highest * (1.0 + math.cos(math.pi * min(1.0, done))) / 2.0
