"""In-batch softmax for implicit feedback: a user's queries against the batch's other items.

Shapes: B episodes, C candidates, D the size of a vector; see `objectives`.
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
from rove.adaptation.tower import Tower
from rove.config import AdaptSection

_NEVER = -1e9  # a logit


class ContrastiveObjective(Objective):
    """The support's mean vector is nearer to the query's items than to the batch's others.

    logit_ij = s cos(x_j, sum_r x_r) - log Q_j over the batch's queries and hard negatives, with Q_j
    how often item j is expected among them: by its share of all interactions, or evenly.
    """

    def __init__(
        self, tower: Tower, adapter: Adapter, popularity: Popularity, section: AdaptSection
    ) -> None:
        super().__init__(tower, adapter, popularity, section)
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(10.0))))

    def _logits(
        self, x_CD: torch.Tensor, episodes: Episodes, candidates: Candidates
    ) -> torch.Tensor:
        users_BD = nn.functional.normalize(self._support(x_CD, episodes, candidates), dim=1)
        centred_CD = nn.functional.normalize(x_CD - self.get_buffer("mean_D"), dim=1)
        logits_BC = self.log_scale.exp() * users_BD @ centred_CD.T
        return losses.without(logits_BC, self._known(episodes, candidates))

    def _loss(
        self,
        x_CD: torch.Tensor,
        episodes: Episodes,
        candidates: Candidates,
        rng: np.random.Generator,
    ) -> torch.Tensor:
        logits_BC = self._logits(x_CD, episodes, candidates)
        queries_BQ = self._on_device(candidates.place_J[episodes.query_BQ])
        corrected_BC = losses.corrected(logits_BC, self._log_q(candidates))
        rivals_BC = self._rivals(logits_BC, queries_BQ)
        return losses.softmax_loss(
            corrected_BC.masked_fill(~rivals_BC, _NEVER), queries_BQ, self._weights(episodes)
        )

    def _log_q(self, candidates: Candidates) -> torch.Tensor:
        """Return the log of how often each candidate is expected in a batch."""
        shares_J = self.popularity.log_share_SJ[-1]
        number = candidates.num_queries
        log_q_C = -np.log(candidates.counts_C)
        log_q_C[:number] = np.minimum(shares_J[candidates.items_C[:number]] + np.log(number), 0.0)
        return torch.tensor(log_q_C, dtype=torch.float32, device=self.tower.device)

    def _rivals(self, logits_BC: torch.Tensor, queries_BQ: torch.Tensor) -> torch.Tensor:
        """Return whom each user's queries are compared with: the batch's, and hard negatives."""
        num_candidates = logits_BC.shape[1]
        own_BC = torch.zeros(
            len(logits_BC), num_candidates + 1, dtype=torch.bool, device=logits_BC.device
        )
        own_BC.scatter_(1, queries_BQ.where(queries_BQ >= 0, num_candidates), True)
        own_BC = own_BC[:, :-1]
        rivals_BC = own_BC.any(0).expand_as(own_BC).clone()
        if self.section.hard_negatives:
            others_BC = logits_BC.detach().masked_fill(own_BC, _NEVER)
            number = min(self.section.hard_negatives, num_candidates)
            rivals_BC.scatter_(1, others_BC.topk(number, 1).indices, True)
        return rivals_BC
