"""The recipe of the tutorials: a user tower and an item tower on one BERT, sigmoid, cross-entropy.

    P(user takes item) = sigmoid(s u . v + b)

The user tower reads one text, the first fields of what the user did last, latest first; the item
tower reads the item. Both are the adapted encoder, each with a projection. Pairs that happened are
positives, items drawn evenly from the catalogue negatives.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rove.adaptation import losses
from rove.adaptation.adapters import Adapter
from rove.adaptation.episodes import Episodes
from rove.adaptation.objectives import Candidates, Objective
from rove.adaptation.popularity import Popularity
from rove.adaptation.texts import Ints, Mask
from rove.adaptation.tower import Tower
from rove.config import AdaptSection


class PairObjective(Objective):
    """User and item towers with binary cross-entropy."""

    def __init__(
        self,
        tower: Tower,
        adapter: Adapter,
        popularity: Popularity,
        section: AdaptSection,
        max_tokens: int,
    ) -> None:
        super().__init__(tower, adapter, popularity, section)
        self.user_projection = nn.Parameter(torch.zeros(tower.size, tower.size))
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(5.0))))
        self.bias = nn.Parameter(torch.tensor(-1.0))
        self._max_tokens = max_tokens

    def users(self, support_BS: Ints) -> torch.Tensor:
        """Return the user tower's unit vectors (B, D)."""
        ids, present = self._user_texts(support_BS)
        vectors_BD = self.tower.read(ids, present)
        return nn.functional.normalize(vectors_BD + vectors_BD @ self.user_projection.T, dim=1)

    @torch.no_grad()
    def accuracy(self, episodes: Episodes, rng: np.random.Generator) -> tuple[int, int]:
        """Return how many of the positives, and as many negatives, are on the right side of 1/2,
        and of how many."""
        logits_BJ = self._all_logits(self.vectors_JD, episodes)
        negatives_BQ = self._negatives(episodes, rng, 1)[..., 0]
        present_BQ = self._on_device(episodes.query_BQ) >= 0
        queries_BQ = self._on_device(np.maximum(episodes.query_BQ, 0))
        right = (logits_BJ.gather(1, queries_BQ) > 0) & present_BQ
        wrong = (logits_BJ.gather(1, self._on_device(negatives_BQ)) <= 0) & present_BQ
        return int(right.sum() + wrong.sum()), 2 * int(present_BQ.sum())

    def _logits(
        self, x_CD: torch.Tensor, episodes: Episodes, candidates: Candidates
    ) -> torch.Tensor:
        known_BK = self._known(episodes, candidates)
        return losses.without(self._all_logits(x_CD, episodes), known_BK)

    def _all_logits(self, x_CD: torch.Tensor, episodes: Episodes) -> torch.Tensor:
        users_BD = self.users(episodes.support_BS)
        return self.log_scale.exp() * users_BD @ x_CD.T + self.bias

    def _loss(
        self,
        x_CD: torch.Tensor,
        episodes: Episodes,
        candidates: Candidates,
        rng: np.random.Generator,
    ) -> torch.Tensor:
        logits_BC = self._all_logits(x_CD, episodes)
        row, column = np.nonzero(candidates.place_J[episodes.query_BQ] >= 0)
        num_negatives = max(1, self.section.hard_negatives)
        drawn = np.arange(candidates.num_queries, len(x_CD))
        negatives_PH = rng.choice(drawn if len(drawn) else len(x_CD), (len(row), num_negatives))
        rows_P = self._on_device(row)
        queries_P = self._on_device(candidates.place_J[episodes.query_BQ[row, column]])
        weights_P = self._weights(episodes)[rows_P, self._on_device(column)]
        return losses.pair_loss(
            logits_BC[rows_P, queries_P],
            logits_BC[rows_P[:, None], self._on_device(negatives_PH)],
            weights_P,
        )

    def _negatives(self, episodes: Episodes, rng: np.random.Generator, number: int) -> Ints:
        return rng.integers(0, len(self.vectors_JD), (*episodes.query_BQ.shape, number))

    def _user_texts(self, support_BS: Ints) -> tuple[Ints, Mask]:
        """Return [CLS] first field, first field, ... [SEP] of each user's support, padded."""
        texts = self.tower.texts
        rows = []
        for items in support_BS:
            parts = [
                texts.ids[texts.starts[item] + 1 : texts.starts[item] + texts.first_field[item]]
                for item in items[items >= 0].tolist()
            ]
            first = texts.ids[texts.starts[items[0]]]
            last = texts.ids[texts.starts[items[0] + 1] - 1]
            middle = np.concatenate(parts)[: self._max_tokens - 2]
            rows.append(np.r_[first, middle, last])
        lengths = np.array([len(row) for row in rows])
        present = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(present.shape, texts.pad_id, np.int64)
        ids[present] = np.concatenate(rows)
        return ids, present
