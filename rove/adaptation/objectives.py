"""A tower and a loss as one module: a batch of episodes in, a number to make small out.

    posterior      the taste's posterior mean after the support scores the items
    contrastive    the support's mean vector scores the batch's items, with log-Q (contrastive)
    bce            user and item towers                                               (pairs)

- A step reads `batch_items` items anew, with gradients, and only these compete with each other:
  were items of an earlier reading rivals, being read anew would itself tell the queries from them.
- posterior: a step is a smaller shop, in which everything is read anew: what is known of a user,
  what is asked for, its rivals, and the Gram matrix. It computes what serving computes.
- contrastive, bce: half of a step's items are queries (and support, where there is room), half are
  drawn evenly from all others, each for as many as are not drawn. Vectors of an earlier reading
  only describe users.

Shapes: B episodes, F items read anew, C candidates, D the size of a vector, J items; see `losses`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rove.adaptation import losses
from rove.adaptation.adapters import Adapter
from rove.adaptation.episodes import Episodes, History
from rove.adaptation.popularity import Popularity
from rove.adaptation.texts import Ints
from rove.adaptation.tower import Tower
from rove.config import AdaptSection, TrainingSection

Floats = npt.NDArray[np.float64]


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
    """Return the items of a step: a smaller shop's; or queries first, then support, half any."""
    if episodes.shop_F is not None:
        shop_F = episodes.shop_F
        return Candidates(
            items_C=shop_F,
            counts_C=np.full(len(shop_F), num_items / len(shop_F)),
            place_J=_places(shop_F, num_items),
            num_queries=0,
        )
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
    training_section: TrainingSection
    """How a release is learnt from the vectors: that is what validation asks them for."""

    def __init__(
        self, tower: Tower, adapter: Adapter, popularity: Popularity, section: AdaptSection
    ) -> None:
        super().__init__()
        self.tower = tower
        self.section = section
        self.popularity = popularity
        self._adapter = [adapter]  # in a list: its model is the tower's already
        self.training_section = TrainingSection()
        rate_J = torch.tensor(popularity.rate_J, dtype=torch.float32)
        self.register_buffer("log_share_SJ", torch.tensor(popularity.log_share_SJ), False)
        self.register_buffer("rate_J", rate_J, False)
        self.register_buffer("vectors_JD", torch.zeros(len(rate_J), tower.size), False)
        self.register_buffer("log_rate_J", torch.tensor(popularity.log_rate()), False)
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

    def batches(
        self, history: History, rng: np.random.Generator, num_steps: int, rank: int, num_ranks: int
    ) -> Iterator[Episodes]:
        """Yield what one of `num_ranks` workers trains on in an epoch."""
        section = self.section
        return history.epoch(rng, section.batch_users, section.support, rank, num_ranks, num_steps)

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

    logit_ij = tau x_j . m_i + a log share_j, x centred: what serving ranks by, up to the scale of
    the share. `tau`, `a`, the ridge and the population's mean are learnt beside the adapter. In
    training the share is that of all interactions, so that x has to say what popularity does not.
    """

    def __init__(
        self, tower: Tower, adapter: Adapter, popularity: Popularity, section: AdaptSection
    ) -> None:
        super().__init__(tower, adapter, popularity, section)
        self.log_tau = nn.Parameter(torch.tensor(3.0))
        self.popularity_gain = nn.Parameter(torch.tensor(1.0))
        self.log_ridge = nn.Parameter(torch.tensor(float(np.log(0.003 * len(self.vectors_JD) + 1))))
        self.prior_mean_D = nn.Parameter(torch.zeros(tower.size))

    def batches(
        self, history: History, rng: np.random.Generator, num_steps: int, rank: int, num_ranks: int
    ) -> Iterator[Episodes]:
        """Yield smaller shops."""
        section = self.section
        own = np.random.default_rng((int(rng.integers(2**32)), rank))
        return history.smaller_shops(
            own, section.batch_users, section.support, num_steps, section.batch_items
        )

    def _logits(
        self, x_CD: torch.Tensor, episodes: Episodes, candidates: Candidates
    ) -> torch.Tensor:
        if episodes.shop_F is None:
            return self._whole(x_CD, episodes, candidates)
        centred_CD = x_CD - x_CD.mean(0)
        taken_BR = np.hstack([episodes.support_BS, episodes.query_BQ])
        places = candidates.place_J[taken_BR[taken_BR >= 0]]
        rate_C = np.bincount(places, minlength=len(x_CD)) / len(episodes)
        counts_C = torch.tensor(candidates.counts_C, dtype=x_CD.dtype, device=x_CD.device)
        known_BS = self._on_device(candidates.place_J[episodes.support_BS])
        means_BD = self._means(
            losses.gram(centred_CD, counts_C),
            losses.gathered(centred_CD, known_BS),
            torch.tensor(rate_C, dtype=x_CD.dtype, device=x_CD.device) @ centred_CD,
        )
        log_rate_C = self.get_buffer("log_rate_J")[self._on_device(candidates.items_C)]
        logits_BC = self.log_tau.exp() * means_BD @ centred_CD.T
        return losses.without(logits_BC + self.popularity_gain * log_rate_C, known_BS)

    def _whole(
        self, x_JD: torch.Tensor, episodes: Episodes, candidates: Candidates
    ) -> torch.Tensor:
        """Return the logits of all items, with what was popular at the moment."""
        means_BD = self._means(
            self.get_buffer("gram_DD"),
            self._support(x_JD, episodes, candidates),
            self.get_buffer("intercept_D"),
        )
        moments_B = self._on_device(self.popularity.moments(episodes.time_s_B))
        log_share_BJ = self.get_buffer("log_share_SJ")[moments_B]
        logits_BJ = self.log_tau.exp() * means_BD @ (x_JD - self.get_buffer("mean_D")).T
        logits_BJ = logits_BJ + self.popularity_gain * log_share_BJ
        return losses.without(logits_BJ, self._known(episodes, candidates))

    def _means(
        self, gram_DD: torch.Tensor, pulls_BD: torch.Tensor, intercept_D: torch.Tensor
    ) -> torch.Tensor:
        ridge = self.log_ridge.exp()
        return losses.posterior_means(gram_DD, pulls_BD, intercept_D, self.prior_mean_D, ridge)


def _places(items: Ints, num_items: int) -> Ints:
    place_J = np.full(num_items + 1, -1)
    place_J[items] = np.arange(len(items))
    return place_J
