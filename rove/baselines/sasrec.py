"""SASRec: a transformer over the user's items in order predicts the next (Kang and McAuley 2018).

Compact, with the full cross-entropy over all items instead of sampled negatives, which is what it
needs to compete (Klenitskiy and Vasilev 2023, "Turning Dross Into Gold Loss").

- What is predicted is what requests ask for: all items of the next basket that are new to the user,
  from the baskets before. With baskets of one item this is the original.
- Every sequence begins with a start token, so that users without items get what users take first.
- Long sequences are read in windows of `length` that overlap by half; a request reads the last one.

Shapes: B windows, T places, D size, H heads, N items, P predictions, n target items of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from rove.baselines.base import Floats, Ints, Log

_WINDOWS_A_STEP = 64
_MOST_LOGITS = 16_000_000


class Sasrec:
    """Score items by what the network expects next."""

    def __init__(
        self,
        *,
        size: int = 64,
        blocks: int = 2,
        heads: int = 2,
        length: int = 100,
        dropout: float = 0.2,
        learning_rate: float = 1e-3,
        epochs: int = 10,
        seed: int = 0,
    ) -> None:
        self._shape = (size, blocks, heads, length, dropout)
        self._length = length
        self._learning_rate = learning_rate
        self._epochs = epochs
        self._seed = seed
        self._num_items = 0
        self._sequences: dict[int, list[int]] = {}  # user -> distinct items as they first came
        self._network: _Network

    def fit(self, log: Log) -> None:
        """Train for the set number of epochs."""
        for _ in self.epochs(log, self._epochs):
            pass

    def epochs(self, log: Log, most: int) -> Iterator[int]:
        """Train on `log`; yield after each epoch, ready to score."""
        self._num_items = log.num_items
        self._sequences, windows = sequences_of(log, self._length)
        # The network draws its dropout from torch's own generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            self._network = _Network(log.num_items, *self._shape)
            state = torch.random.get_rng_state()
        optimizer = torch.optim.Adam(self._network.parameters(), self._learning_rate, (0.9, 0.98))
        for epoch in range(1, most + 1):
            with torch.random.fork_rng(devices=[]):
                torch.random.set_rng_state(state)
                self._train(windows, optimizer)
                state = torch.random.get_rng_state()
            yield epoch

    def scores(self, user: int, now: float) -> Floats:
        """Return the logits of what comes next (N,)."""
        return np.asarray(self.score_block(np.array([user]), np.array([now]))[0], np.float64)

    def score_block(self, users: Ints, times: Floats) -> NDArray[np.floating]:
        """Return the logits for several users (B, N)."""
        start = self._num_items
        past = [[start, *self._sequences.get(user, ())][-self._length :] for user in users.tolist()]
        last_B = torch.tensor([len(one) - 1 for one in past])
        self._network.eval()
        with torch.inference_mode():
            hidden_BTD = self._network(_padded(past, start))
            scores_BN = self._network.logits(hidden_BTD[torch.arange(len(past)), last_B])
        return np.asarray(scores_BN.numpy())

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Append the items to the user's sequence; the network stays."""
        sequence = self._sequences.setdefault(user, [])
        sequence += [item for item in items.tolist() if item not in sequence]

    def _train(self, windows: Sequence[Window], optimizer: torch.optim.Optimizer) -> None:
        self._network.train()
        affordable = _MOST_LOGITS // (self._length * max(1, self._num_items))
        size = max(1, min(_WINDOWS_A_STEP, affordable))
        # Windows of like length go together: most users have few items.
        mixed = torch.randperm(len(windows)).tolist()
        order = sorted(mixed, key=lambda number: len(windows[number].items))
        steps = [order[begin : begin + size] for begin in range(0, len(order), size)]
        for step in torch.randperm(len(steps)).tolist():
            loss = self._loss([windows[number] for number in steps[step]])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def _loss(self, windows: Sequence[Window]) -> torch.Tensor:
        """Mean over predictions of the mean cross-entropy of their targets."""
        hidden_BTD = self._network(_padded([one.items for one in windows], self._num_items))
        rows_P = [row for row, one in enumerate(windows) for _ in one.places]
        places_P = [place for one in windows for place in one.places]
        targets = [items for one in windows for items in one.targets]
        sizes_P = torch.tensor([len(items) for items in targets])
        log_PN = functional.log_softmax(self._network.logits(hidden_BTD[rows_P, places_P]), dim=1)
        prediction_n = torch.repeat_interleave(torch.arange(len(targets)), sizes_P)
        log_n = log_PN[prediction_n, torch.tensor([item for items in targets for item in items])]
        return -(log_n / sizes_P[prediction_n]).sum() / len(targets)


class _Network(nn.Module):
    """Token and place embeddings, blocks, and the item embeddings again as the output."""

    def __init__(
        self, num_items: int, size: int, blocks: int, heads: int, length: int, dropout: float
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items + 1, size)  # the last one is the start token
        self.places = nn.Embedding(length, size)
        self.blocks = nn.ModuleList(_Block(size, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(size)
        self.bias = nn.Parameter(torch.zeros(num_items))
        self.dropout = nn.Dropout(dropout)
        for embedding in (self.items, self.places):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, inputs_BT: torch.Tensor) -> torch.Tensor:
        """Return what is expected after each place (B, T, D)."""
        places_T = torch.arange(inputs_BT.shape[1])
        hidden_BTD = self.dropout(self.items(inputs_BT) + self.places(places_T))
        for block in self.blocks:
            hidden_BTD = block(hidden_BTD)
        normed: torch.Tensor = self.norm(hidden_BTD)
        return normed

    def logits(self, hidden_PD: torch.Tensor) -> torch.Tensor:
        """Return the logits of all items (P, N)."""
        return hidden_PD @ self.items.weight[:-1].T + self.bias


class _Block(nn.Module):
    """Causal self-attention and a feed-forward layer, normalised before each."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2))
        self.attend = nn.Linear(size, 3 * size)
        self.project = nn.Linear(size, size)
        self.feed = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, size))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Return (B, T, D)."""
        batch, places, size = x_BTD.shape
        qkv = self.attend(self.norms[0](x_BTD)).view(batch, places, 3, self.heads, -1)
        query_BHTd, key_BHTd, value_BHTd = qkv.permute(2, 0, 3, 1, 4)
        mixed_BHTd = functional.scaled_dot_product_attention(
            query_BHTd,
            key_BHTd,
            value_BHTd,
            is_causal=True,
            dropout_p=self.rate if self.training else 0.0,
        )
        mixed_BTD = mixed_BHTd.transpose(1, 2).reshape(batch, places, size)
        x_BTD = x_BTD + self.dropout(self.project(mixed_BTD))
        fed: torch.Tensor = x_BTD + self.dropout(self.feed(self.norms[1](x_BTD)))
        return fed


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of one user's sequence."""

    items: list[int]  # (T,), the start token first where the sequence begins
    places: list[int]  # after these places a basket begins
    targets: list[list[int]]  # what is new in each of those baskets


def _padded(sequences: Sequence[list[int]], filler: int) -> torch.Tensor:
    """Return the sequences (B, T); places after a sequence's end are read by none before."""
    longest = max(len(one) for one in sequences)
    return torch.tensor([one + [filler] * (longest - len(one)) for one in sequences])


def sequences_of(log: Log, length: int) -> tuple[dict[int, list[int]], list[Window]]:
    """Return every user's sequence, and the windows of them all."""
    baskets: dict[int, list[list[int]]] = {}
    seen: dict[int, dict[int, None]] = {}
    for basket in log.baskets():
        before = seen.setdefault(basket.user, {})
        new = [item for item in basket.items.tolist() if item not in before]
        before.update(dict.fromkeys(new))
        if new:
            baskets.setdefault(basket.user, []).append(new)
    windows = [
        window
        for of_user in baskets.values()
        for window in _windows(of_user, length, log.num_items)
    ]
    return {user: list(items) for user, items in seen.items()}, windows


def _windows(baskets: list[list[int]], length: int, start: int) -> Iterator[Window]:
    """Yield one user's windows; every basket is predicted once."""
    tokens = [start, *(item for basket in baskets for item in basket)]
    ends = np.cumsum([0, *(len(basket) for basket in baskets[:-1])]).tolist()
    begin, done = 0, 0
    while done < len(ends):
        end = begin + length
        reached = int(np.searchsorted(ends, end))
        if reached > done:
            yield Window(
                items=tokens[begin:end][: ends[reached - 1] - begin + 1],
                places=[place - begin for place in ends[done:reached]],
                targets=baskets[done:reached],
            )
        done = reached
        begin += max(1, length // 2)
