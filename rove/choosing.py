"""What a policy is: a distribution over open candidates that can be sampled and evaluated.

`Policy.start` looks at the scores of B requests and returns a `Chooser`; `Chooser.distribution`
gives the probability of every candidate (B, S), given what is still open and what diversity takes
off the scores. `rove.slates` fills slates with it, `rove.policies` and `rove.thompson` are the
policies.

- Every row of a distribution sums to one and is zero where the candidate is closed.
- A chooser returns an array that the caller may change.
- Random numbers come from one generator per request, so that a slate does not depend on its batch
  (a served decision), or from one generator for the whole batch (in process: fewer calls).

Shapes: B requests, S candidates, M draws, G strengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from numpy.random import MT19937, Generator
from scipy.special import ndtri

Floats = npt.NDArray[np.floating]
Vectors = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]
Open = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]
Source = Generator | Sequence[Generator]
"""One generator for the whole batch, or one for each of its requests."""


class Chooser(Protocol):
    """A policy that has seen the scores of a batch."""

    def distribution(self, open_BS: Open | None, penalty_BS: Floats | None = None) -> Probabilities:
        """Return the probability of choosing each candidate, (B, S).

        `open_BS`: None when all are. `penalty_BS`: taken off the scores, in their units; finite.
        """
        ...


class Policy(Protocol):
    """A way to explore; scores are `mean_BS` and standard deviation `deviation_BS`."""

    def start(self, mean_BS: Floats, deviation_BS: Floats, rngs: Source) -> Chooser:
        """Return the chooser of a batch; closed candidates may hold any finite number."""
        ...


def one_hot(chosen_B: Indices, shape: tuple[int, ...]) -> Probabilities:
    """Return the distributions that choose `chosen_B` for certain."""
    probability_BS = np.zeros(shape)
    probability_BS[np.arange(shape[0]), chosen_B] = 1.0
    return probability_BS


def penalised(score_BS: Floats, open_BS: Open | None, penalty_BS: Floats | None) -> Floats:
    """Return scores less the penalty, -inf where closed; the scores themselves if neither."""
    if penalty_BS is not None:
        score_BS = score_BS - penalty_BS
    return score_BS if open_BS is None else np.where(open_BS, score_BS, -np.inf)


# The quantiles in the middle of 2^16 equally likely steps: mean 0, variance 1 - 5e-5, |z| < 4.4.
_QUANTILES = ndtri((np.arange(65536) + 0.5) / 65536).astype(np.float32)
_PER_WORD = 4


def normals(rngs: Source, shape: tuple[int, ...]) -> Vectors:
    """Return standard normal numbers of `shape`, (B, ...), in 2^16 steps.

    By inverse transform of 16 random bits: 1.1 ns each where numpy's ziggurat takes 8.
    """
    size = 1
    for length in shape:
        size *= length
    if isinstance(rngs, Generator):
        words = _words(rngs, size)
    elif len(rngs) == 1:
        words = _words(rngs[0], size)
    else:
        size_each = size // max(len(rngs), 1)
        parts = [_words(rng, size_each).view(np.uint16)[:size_each] for rng in rngs]
        words = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
    steps = words.view(np.uint16)
    number: Vectors = _QUANTILES.take(steps if len(steps) == size else steps[:size])
    return number.reshape(shape)


def _words(rng: Generator, size: int) -> npt.NDArray[np.unsignedinteger]:
    """Return random words with 16 bits for each of `size` numbers."""
    num_words = -(-size // _PER_WORD)
    if isinstance(rng.bit_generator, MT19937):  # its raw words have 32 bits only
        return rng.integers(0, 2**64, num_words, np.uint64)
    return np.asarray(rng.bit_generator.random_raw(num_words), np.uint64)


def coins(rngs: Source, num_requests: int, num_slots: int) -> Probabilities:
    """Return a number in [0, 1) per request and slot, (B, K)."""
    if isinstance(rngs, Generator):
        return rngs.random((num_requests, num_slots))
    if num_requests == 1:
        return rngs[0].random((1, num_slots))
    coin_BK = np.empty((num_requests, num_slots))
    for coin_K, rng in zip(coin_BK, rngs, strict=True):
        rng.random(out=coin_K)
    return coin_BK
