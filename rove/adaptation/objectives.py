"""A tower and a loss as one module: a batch of episodes in, a number to make small out.

    posterior      the taste's posterior mean after the support scores all items      (losses)
    contrastive    the support's mean vector scores the batch's items, with log-Q
    bce            user and item towers                                               (pairs)

- A step reads at most `batch_items` items anew, the queries first; the others count with the
  vectors of their last reading, so that all items are candidates (up to 16,384 of them).
- Candidates that stand for the rest of a larger catalogue count as many times as they stand for.

Shapes: B episodes, C candidates, D = E the size of a vector, J items; see `losses`.
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
from rove.adaptation.texts import Ints
from rove.adaptation.tower import Tower
from rove.config import AdaptSection

Floats = npt.NDArray[np.float64]

MAX_CANDIDATES = 16_384
_HALF_A_REWARD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Popularity:
    """How often each item was taken in what is trained on."""

    counts_J: Floats
    num_users: int

    def log_share(self) -> Floats:
        """Return log (n_j + 1/2) / sum (n + 1/2), (J,)."""
        smoothed = self.counts_J + _HALF_A_REWARD
        return np.asarray(np.log(smoothed / smoothed.sum()))

    def rate(self) -> Floats:
        """Return b, the mean reward of a user with each item, (J,)."""
        return self.counts_J / max(self.num_users, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Items that compete in a step."""

    items_C: Ints
    counts_C: Floats
    """How many items each stands for."""
    place_J: Ints
    """Item -> its candidate, or -1."""
    fresh_F: Ints
    """Those that are read anew."""


def candidates_of(
    episodes: Episodes, num_items: int, num_fresh: int, rng: np.random.Generator
) -> Candidates:
    """Return all items, or the episodes' own and a sample of the rest.

    Read anew are the queries and then the support, and at least a quarter of others.
    """
    queries = np.unique(episodes.query_BQ[episodes.query_BQ >= 0])
    support = np.unique(episodes.support_BS[episodes.support_BS >= 0])
    others = np.setdiff1d(support, queries)
    wanted = np.concatenate([rng.permutation(queries), rng.permutation(others)])
    wanted = wanted[: num_fresh - num_fresh // 4]
    rest = np.setdiff1d(np.arange(num_items), wanted)
    wanted = np.concatenate([wanted, rng.permutation(rest)[: num_fresh - len(wanted)]])
    items, counts = np.arange(num_items), np.ones(num_items)
    if num_items > MAX_CANDIDATES:
        needed = np.union1d(np.union1d(queries, support), wanted)
        rest = np.setdiff1d(items, needed)
        sample = rng.choice(rest, max(1, MAX_CANDIDATES - len(needed)), replace=False)
        items = np.concatenate([needed, sample])
        counts = np.r_[np.ones(len(needed)), np.full(len(sample), len(rest) / len(sample))]
    place_J = np.full(num_items + 1, -1)  # the last one is that of -1
    place_J[items] = np.arange(len(items))
    return Candidates(items_C=items, counts_C=counts, place_J=place_J, fresh_F=np.sort(wanted))


class Objective(nn.Module):
    """What all have in common: the vectors of all items, and how far they may stray."""

    vectors_JD: torch.Tensor

    def __init__(
        self, tower: Tower, adapter: Adapter, popularity: Popularity, section: AdaptSection
    ) -> None:
        super().__init__()
        self.tower = tower
        self.section = section
        self._adapter = [adapter]  # in a list: its model is the tower's already
        log_share, rate = popularity.log_share(), popularity.rate()
        self.register_buffer("log_share_J", torch.tensor(log_share, dtype=torch.float32), False)
        self.register_buffer("rate_J", torch.tensor(rate, dtype=torch.float32), False)
        self.register_buffer("vectors_JD", torch.zeros(len(rate), tower.size), False)
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
        self.train(training)

    def forward(self, episodes: Episodes, rng: np.random.Generator) -> torch.Tensor:
        """Return the loss of a batch, penalties included."""
        candidates = candidates_of(episodes, len(self.vectors_JD), self.section.batch_items, rng)
        fresh_FD = self.tower(candidates.fresh_F, rng)
        fresh = self._on_device(candidates.fresh_F)
        x_CD = self.vectors_JD[self._on_device(candidates.items_C)]
        x_CD = x_CD.index_copy(0, self._on_device(candidates.place_J[candidates.fresh_F]), fresh_FD)
        loss = self._loss(x_CD, episodes, candidates, rng)
        loss = loss + self.section.stay_close * losses.strayed(
            fresh_FD, self.get_buffer("before_JD")[fresh]
        )
        with torch.no_grad():
            self.vectors_JD[fresh] = fresh_FD.detach()
        return loss + self.adapter.penalty().to(loss.device)

    @torch.no_grad()
    def scores(self, episodes: Episodes) -> torch.Tensor:
        """Return the logits of all items (B, J), what a user had before out of the race."""
        every = np.arange(len(self.vectors_JD))
        candidates = Candidates(
            items_C=every, counts_C=np.ones(len(every)), place_J=np.r_[every, -1], fresh_F=every
        )
        return self._logits(self.vectors_JD, episodes, candidates)

    def _logits(
        self, x_CD: torch.Tensor, episodes: Episodes, candidates: Candidates
    ) -> torch.Tensor:
        raise NotImplementedError

    def _loss(
        self,
        x_CD: torch.Tensor,
        episodes: Episodes,
        candidates: Candidates,
        rng: np.random.Generator,
    ) -> torch.Tensor:
        logits_BC = self._logits(x_CD, episodes, candidates)
        queries_BQ = self._on_device(candidates.place_J[episodes.query_BQ])
        return losses.softmax_loss(logits_BC, queries_BQ, self._weights(episodes))

    def _weights(self, episodes: Episodes) -> torch.Tensor:
        return torch.tensor(episodes.weight_BQ, dtype=torch.float32, device=self.tower.device)

    def _on_device(self, rows: Ints) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.tower.device)


class PosteriorObjective(Objective):
    """The taste's posterior mean after the support predicts the query.

    logit_ij = tau x_j . m_i + a log share_j, x centred: what serving ranks by, up to the scale of
    the share. `tau`, `a`, the ridge and the population's mean are learnt beside the adapter.
    """

    def __init__(
        self, tower: Tower, adapter: Adapter, popularity: Popularity, section: AdaptSection
    ) -> None:
        super().__init__(tower, adapter, popularity, section)
        self.log_tau = nn.Parameter(torch.tensor(3.0))
        self.popularity_gain = nn.Parameter(torch.tensor(1.0))
        self.log_ridge = nn.Parameter(torch.tensor(float(np.log(0.02 * len(self.vectors_JD) + 1))))
        self.prior_mean_D = nn.Parameter(torch.zeros(tower.size))

    def _logits(
        self, x_CD: torch.Tensor, episodes: Episodes, candidates: Candidates
    ) -> torch.Tensor:
        counts_C = torch.tensor(candidates.counts_C, dtype=x_CD.dtype, device=x_CD.device)
        items = self._on_device(candidates.items_C)
        x_CD = x_CD - (x_CD * counts_C[:, None]).sum(0) / counts_C.sum()
        means_BD = losses.posterior_means(
            losses.gram(x_CD, counts_C),
            losses.gathered(x_CD, self._on_device(candidates.place_J[episodes.support_BS])),
            (self.get_buffer("rate_J")[items] * counts_C) @ x_CD,
            self.prior_mean_D,
            self.log_ridge.exp(),
        )
        logits_BC = self.log_tau.exp() * means_BD @ x_CD.T
        logits_BC = logits_BC + self.popularity_gain * self.get_buffer("log_share_J")[items]
        known_BK = self._on_device(candidates.place_J[episodes.known_BK])
        return losses.without(logits_BC + counts_C.log(), known_BK)


class ContrastiveObjective(Objective):
    """The support's mean vector is nearer to the query's items than to the batch's others.

    logit_ij = cos(x_j, sum_r x_r) / t - log Q_j over the batch's queries and hard negatives, with
    Q_j the share of item j in all interactions.
    """

    def __init__(
        self, tower: Tower, adapter: Adapter, popularity: Popularity, section: AdaptSection
    ) -> None:
        super().__init__(tower, adapter, popularity, section)
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(10.0))))

    def _logits(
        self, x_CD: torch.Tensor, episodes: Episodes, candidates: Candidates
    ) -> torch.Tensor:
        cosine_BC = self._cosines(x_CD, episodes, candidates)
        known_BK = self._on_device(candidates.place_J[episodes.known_BK])
        return losses.without(self.log_scale.exp() * cosine_BC, known_BK)

    def _cosines(
        self, x_CD: torch.Tensor, episodes: Episodes, candidates: Candidates
    ) -> torch.Tensor:
        support_BS = self._on_device(candidates.place_J[episodes.support_BS])
        users_BD = nn.functional.normalize(losses.gathered(x_CD, support_BS), dim=1)
        return users_BD @ x_CD.T

    def _loss(
        self,
        x_CD: torch.Tensor,
        episodes: Episodes,
        candidates: Candidates,
        rng: np.random.Generator,
    ) -> torch.Tensor:
        logits_BC = self._logits(x_CD, episodes, candidates)
        queries_BQ = self._on_device(candidates.place_J[episodes.query_BQ])
        log_q_C = self.get_buffer("log_share_J")[self._on_device(candidates.items_C)]
        logits_BC = losses.corrected(logits_BC, log_q_C)
        rivals_BC = self._rivals(logits_BC, queries_BQ)
        logits_BC = logits_BC.masked_fill(~rivals_BC, -1e9)
        return losses.softmax_loss(logits_BC, queries_BQ, self._weights(episodes))

    def _rivals(self, logits_BC: torch.Tensor, queries_BQ: torch.Tensor) -> torch.Tensor:
        """Return whom each user's queries are compared with: the batch's, and hard negatives."""
        own_BC = torch.zeros(
            len(logits_BC), logits_BC.shape[1] + 1, dtype=torch.bool, device=logits_BC.device
        )
        own_BC.scatter_(1, queries_BQ.where(queries_BQ >= 0, logits_BC.shape[1]), True)
        own_BC = own_BC[:, :-1]
        rivals_BC = own_BC.any(0).expand_as(own_BC).clone()
        if self.section.hard_negatives:
            others_BC = logits_BC.detach().masked_fill(own_BC, -1e9)
            hard_BH = others_BC.topk(
                min(self.section.hard_negatives, others_BC.shape[1]), 1
            ).indices
            rivals_BC.scatter_(1, hard_BH, True)
        return rivals_BC
