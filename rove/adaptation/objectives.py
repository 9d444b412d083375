"""A tower and a loss as one module: a batch of episodes in, a number to make small out.

    posterior      the taste's posterior mean after the support scores the items
    contrastive    the support's mean vector scores the batch's items, with log-Q
    bce            user and item towers                                               (pairs)

- A step reads `batch_items` items anew, with gradients: half of them queries (and support, where
  there is room), half drawn evenly from all others. Only these compete with each other. The vectors
  of the rest are those of the last reading and only describe users: were they rivals, being read
  anew would itself tell the queries from them.
- An evenly drawn item stands for as many as are not drawn.

Shapes: B episodes, F items read anew, C candidates, D the size of a vector, J items; see `losses`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rove.adaptation import losses
from rove.adaptation.adapters import Adapter
from rove.adaptation.episodes import Episodes
from rove.adaptation.popularity import Popularity
from rove.adaptation.texts import Ints
from rove.adaptation.tower import Tower
from rove.config import AdaptSection

Floats = npt.NDArray[np.float64]

_GRAM_SHARE = 0.25  # of the Gram matrix that is of this step's items
_NEVER = -1e9
_NEW_SHARE = 0.5
_PROMISE_SCALE = 30.0  # lets the promise's weights learn at the adapter's rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Items that compete."""

    items_C: Ints
    counts_C: Floats
    """How many items each stands for."""
    place_J: Ints
    """Item -> its candidate, or -1; one longer than the catalogue, so that -1 has none."""
    num_queries: int
    """The first ones; those after them are drawn evenly."""


def draw(
    episodes: Episodes, num_items: int, num_fresh: int, rng: np.random.Generator
) -> Candidates:
    """Return the items of a step: queries first, then support, the other half any."""
    queries = rng.permutation(np.unique(episodes.query_BQ[episodes.query_BQ >= 0]))
    support = np.setdiff1d(episodes.support_BS[episodes.support_BS >= 0], queries)
    known = np.concatenate([queries, rng.permutation(support)])[: max(1, num_fresh // 2)]
    rest = np.setdiff1d(np.arange(num_items), known)
    others = rng.permutation(rest)[: max(1, num_fresh - len(known))]
    counts = np.r_[np.ones(len(known)), np.full(len(others), len(rest) / max(1, len(others)))]
    items = np.concatenate([known, others])
    return Candidates(
        items_C=items,
        counts_C=counts,
        place_J=_places(items, num_items),
        num_queries=len(known),
    )


def everything(num_items: int) -> Candidates:
    """Return all items."""
    items = np.arange(num_items)
    return Candidates(
        items_C=items,
        counts_C=np.ones(num_items),
        place_J=_places(items, num_items),
        num_queries=num_items,
    )


class Objective(nn.Module):
    """What all have in common: the vectors of all items, and how far they may stray."""

    vectors_JD: torch.Tensor

    def __init__(
        self, tower: Tower, adapter: Adapter, popularity: Popularity, section: AdaptSection
    ) -> None:
        super().__init__()
        self.tower = tower
        self.section = section
        self.popularity = popularity
        self._adapter = [adapter]  # in a list: its model is the tower's already
        rate_J = torch.tensor(popularity.rate_J, dtype=torch.float32)
        self.register_buffer("log_share_SJ", torch.tensor(popularity.log_share_SJ), False)
        self.register_buffer("rate_J", rate_J, False)
        self.register_buffer("vectors_JD", torch.zeros(len(rate_J), tower.size), False)
        self.register_buffer("mean_D", torch.zeros(tower.size), False)
        self.register_buffer("gram_DD", torch.zeros(tower.size, tower.size), False)
        self.register_buffer("intercept_D", torch.zeros(tower.size), False)
        self.refresh()
        self.register_buffer("before_JD", self.vectors_JD.clone(), False)

    @property
    def adapter(self) -> Adapter:
        """The adapter in the tower."""
        return self._adapter[0]

    @torch.no_grad()
    def refresh(self) -> None:
        """Read all items."""
        training = self.training
        self.eval()
        self.vectors_JD.copy_(self.tower(np.arange(len(self.vectors_JD))))
        self.get_buffer("mean_D").copy_(self.vectors_JD.mean(0))
        x_JD = self.vectors_JD - self.get_buffer("mean_D")
        self.get_buffer("gram_DD").copy_(x_JD.T @ x_JD)
        self.get_buffer("intercept_D").copy_(self.get_buffer("rate_J") @ x_JD)
        self.train(training)

    def forward(self, episodes: Episodes, rng: np.random.Generator) -> torch.Tensor:
        """Return the loss of a batch, penalties included."""
        candidates = draw(episodes, len(self.vectors_JD), self.section.batch_items, rng)
        fresh_FD = self.tower(candidates.items_C, rng)
        loss = self._loss(fresh_FD, episodes, candidates, rng)
        rows = self._on_device(candidates.items_C)
        strayed = losses.strayed(fresh_FD, self.get_buffer("before_JD")[rows])
        loss = loss + self.section.stay_close * strayed
        return loss + self.adapter.penalty().to(loss.device)

    @torch.no_grad()
    def scores(self, episodes: Episodes) -> torch.Tensor:
        """Return the logits of all items (B, J), what a user had before out of the race."""
        return self._logits(self.vectors_JD, episodes, everything(len(self.vectors_JD)))

    def _logits(
        self, x_CD: torch.Tensor, episodes: Episodes, candidates: Candidates
    ) -> torch.Tensor:
        """Return the logits (B, C) of candidates with the vectors `x_CD`."""
        raise NotImplementedError

    def _loss(
        self,
        x_CD: torch.Tensor,
        episodes: Episodes,
        candidates: Candidates,
        rng: np.random.Generator,
    ) -> torch.Tensor:
        logits_BC = self._logits(x_CD, episodes, candidates)
        counts_C = torch.tensor(candidates.counts_C, dtype=x_CD.dtype, device=x_CD.device)
        queries_BQ = self._on_device(candidates.place_J[episodes.query_BQ])
        return losses.softmax_loss(logits_BC + counts_C.log(), queries_BQ, self._weights(episodes))

    def _support(
        self, x_CD: torch.Tensor, episodes: Episodes, candidates: Candidates
    ) -> torch.Tensor:
        """Return the sum of each support's vectors (B, D), less the mean of all items for each."""
        rows_BS = self._on_device(episodes.support_BS)
        places_BS = self._on_device(candidates.place_J[episodes.support_BS])
        if x_CD is self.vectors_JD:
            sums_BD = losses.gathered(x_CD, rows_BS)
        else:
            kept_BS = rows_BS.masked_fill(places_BS >= 0, -1)
            sums_BD = losses.gathered(self.vectors_JD, kept_BS) + losses.gathered(x_CD, places_BS)
        return sums_BD - (rows_BS >= 0).sum(1, keepdim=True) * self.get_buffer("mean_D")

    def _known(self, episodes: Episodes, candidates: Candidates) -> torch.Tensor:
        return self._on_device(candidates.place_J[episodes.known_BK])

    def _weights(self, episodes: Episodes) -> torch.Tensor:
        return torch.tensor(episodes.weight_BQ, dtype=torch.float32, device=self.tower.device)

    def _on_device(self, rows: Ints) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.tower.device)


class PosteriorObjective(Objective):
    """The taste's posterior mean after the support predicts the query.

    logit_ij = tau x_j . m_i + a log share_j(t), x centred: what serving ranks by, up to the scale
    of the share. `tau`, `a`, the ridge and the population's mean are learnt beside the adapter.
    Half of a step's items are treated as new: their log share is what their text promises,
    w . x_j + c, so that the vectors learn to say it. A quarter of the Gram matrix is that of the
    step's evenly drawn items, the rest of the last reading.
    """

    def __init__(
        self, tower: Tower, adapter: Adapter, popularity: Popularity, section: AdaptSection
    ) -> None:
        super().__init__(tower, adapter, popularity, section)
        self.log_tau = nn.Parameter(torch.tensor(3.0))
        self.popularity_gain = nn.Parameter(torch.tensor(1.0))
        self.log_ridge = nn.Parameter(torch.tensor(float(np.log(0.003 * len(self.vectors_JD) + 1))))
        self.prior_mean_D = nn.Parameter(torch.zeros(tower.size))
        self.promise_D = nn.Parameter(torch.zeros(tower.size))
        self.promise = nn.Parameter(torch.tensor(float(popularity.log_share_SJ[-1].mean())))

    def _logits(
        self, x_CD: torch.Tensor, episodes: Episodes, candidates: Candidates
    ) -> torch.Tensor:
        centred_CD = x_CD - self.get_buffer("mean_D")
        means_BD = losses.posterior_means(
            self._gram(centred_CD, candidates),
            self._support(x_CD, episodes, candidates),
            self.get_buffer("intercept_D"),
            self.prior_mean_D,
            self.log_ridge.exp(),
        )
        moments_B = self._on_device(self.popularity.moments(episodes.time_s_B))
        items_C = self._on_device(candidates.items_C)
        log_share_BC = self.get_buffer("log_share_SJ")[moments_B][:, items_C]
        if self.training:
            is_new_C = torch.rand(len(centred_CD), device=centred_CD.device) < _NEW_SHARE
            promised_C = self.promise + _PROMISE_SCALE * (centred_CD @ self.promise_D)
            log_share_BC = torch.where(is_new_C, promised_C, log_share_BC)
        logits_BC = self.log_tau.exp() * means_BD @ centred_CD.T
        logits_BC = logits_BC + self.popularity_gain * log_share_BC
        return losses.without(logits_BC, self._known(episodes, candidates))

    def _gram(self, x_CD: torch.Tensor, candidates: Candidates) -> torch.Tensor:
        kept_DD = self.get_buffer("gram_DD")
        others_RD = x_CD[candidates.num_queries :]
        if not len(others_RD):
            return kept_DD
        counts_R = torch.full((len(others_RD),), len(self.vectors_JD) / len(others_RD))
        drawn_DD = losses.gram(others_RD, counts_R.to(x_CD.device))
        return (1.0 - _GRAM_SHARE) * kept_DD + _GRAM_SHARE * drawn_DD


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


def _places(items: Ints, num_items: int) -> Ints:
    place_J = np.full(num_items + 1, -1)
    place_J[items] = np.arange(len(items))
    return place_J
